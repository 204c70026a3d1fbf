#!/usr/bin/env python3
"""Prints the table of an Autobahn|Testsuite run and judges it.

usage: summarize.py OUTDIR [--expect-file FILE] [--lenient]

The run is OUTDIR/index.json, or all OUTDIR/job*/index.json where it was split.
Verdict per case, from `behavior` and `behaviorClose` there:
  OK          behavior OK or INFORMATIONAL and behaviorClose OK or INFORMATIONAL
  non-strict  behavior NON-STRICT (keeps every MUST) with a good close
  unimpl      behavior UNIMPLEMENTED (12.*, 13.*: the extension was not negotiated, so not run)
  FAILED      everything else (WRONG CODE, UNCLEAN, FAILED BY CLIENT, ...)
Exit: 0 if all are OK (--lenient: or non-strict, or unimpl) and every expected case was run;
1 otherwise; 2 if there is no report.
"""
import argparse
import collections
import glob
import json
import os
import sys

PASSING = {"OK", "INFORMATIONAL"}
COLUMNS = ["OK", "non-strict", "unimpl", "FAILED"]


def verdict(result):
    behavior, close = result["behavior"], result["behaviorClose"]
    if behavior == "UNIMPLEMENTED":
        return "unimpl"
    if close not in PASSING:
        return "FAILED"
    if behavior in PASSING:
        return "OK"
    return "non-strict" if behavior == "NON-STRICT" else "FAILED"


def row(name, counts, milliseconds):
    cells = " ".join("%10d" % counts[column] for column in COLUMNS)
    print("  %-5s %s  of %3d %9d ms" % (name, cells, sum(counts.values()), milliseconds))


def summarize(agent, cases, expected, lenient):
    """Prints one agent's table. Returns whether the run is good."""
    by_category = collections.OrderedDict()
    milliseconds = collections.Counter()
    total = collections.Counter()
    remarks = []
    for case in sorted(cases, key=lambda case: [int(part) for part in case.split(".")]):
        result = cases[case]
        category = case.split(".")[0] + ".*"
        judged = verdict(result)
        by_category.setdefault(category, collections.Counter())[judged] += 1
        milliseconds[category] += result["duration"]
        total[judged] += 1
        if judged != "OK":
            remarks.append("  %-10s %-8s behavior=%s close=%s code=%s (%s)" % (
                judged, case, result["behavior"], result["behaviorClose"],
                result["remoteCloseCode"], result["reportfile"]))
    print("Autobahn, %s" % agent)
    print("        " + " ".join("%10s" % column for column in COLUMNS))
    for category, counts in by_category.items():
        row(category, counts, milliseconds[category])
    row("all", total, sum(milliseconds.values()))
    print("\n".join(remarks[:60]), end="\n" if remarks else "")
    missing = [case for case in expected if case not in cases]
    if missing:
        print("  INCOMPLETE: %d of %d cases have no result: %s" % (
            len(missing), len(expected), " ".join(missing[:40])))
    tolerated = COLUMNS[:3] if lenient else COLUMNS[:1]
    return not missing and sum(total[column] for column in tolerated) == len(cases)


def load(outdir):
    """All cases by agent."""
    paths = [os.path.join(outdir, "index.json")]
    if not os.path.exists(paths[0]):
        paths = sorted(glob.glob(os.path.join(outdir, "job*", "index.json"))) or paths
    index = {}
    for path in paths:
        with open(path) as file:
            for agent, cases in json.load(file).items():
                for result in cases.values():
                    folder = os.path.relpath(os.path.dirname(path), outdir)
                    result["reportfile"] = os.path.normpath(os.path.join(folder, result["reportfile"]))
                index.setdefault(agent, {}).update(cases)
    return index


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("outdir")
    parser.add_argument("--expect-file", help="file with one expected case id per line")
    parser.add_argument("--lenient", action="store_true")
    args = parser.parse_args()
    try:
        index = load(args.outdir)
    except (OSError, ValueError) as error:
        print("no usable index.json in %s: %s" % (args.outdir, error), file=sys.stderr)
        return 2
    if not index:
        print("index.json holds no agent: did the peer accept connections?", file=sys.stderr)
        return 2
    expected = []
    if args.expect_file:
        with open(args.expect_file) as file:
            expected = file.read().split()
    good = [summarize(agent, cases, expected, args.lenient) for agent, cases in sorted(index.items())]
    return 0 if all(good) else 1


sys.exit(main())
