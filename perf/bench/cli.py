"""The command line, and the order of a run."""

import argparse
import datetime
import json
import math
import shlex
import signal
import subprocess
import sys
import time

from . import counts, table
from .agreement import agreement
from .build import build
from .cases import CAPACITY_CASE, CASES, OPEN_LOOP_S
from .claims import claims
from .cores import Cores
from .figures import Results
from .host import Network, commit
from .report import html
from .sample import Failure, quiet_sample
from .servers import LOADGEN, PERF, ROOT, SERVERS, TARGET, has_option, missing

# Whoever reaches so much of the fastest's capacity sets the rates of the open loops; the others are not
# asked for more than they can.
SERIOUS = 0.75
ABOUT = """Measures ringwire beside its peers and the ceiling, in one run.

    perf/run --quick      the main cases and servers, within a quarter of an hour
    perf/run --full       everything, some hours; the table goes to perf/README.md

One run: every server runs single-threaded on one core, the load generator on another; a round takes
every server in turn (A B C A B C ...), so that what changes on the host meets all of them. The primary
figure is the CPU time of the server's process per message. A sample during which others used more than a
given share of the cores is taken again, and so is one during which the two cores were far apart on the
host. Every answer is checked by the generator; a wrong one fails the run.

Writes perf/results/NAME.json, .md and .html. perf/README.md describes the method."""


def parse():
    parser = argparse.ArgumentParser(description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="main cases and servers, 3 rounds (the default)")
    extent.add_argument("--full", action="store_true", help="all of them, 7 rounds")
    extent.add_argument("--render", metavar="JSON", help="measure nothing: write the report and table of a result again")
    extent.add_argument(
        "--compare", nargs=2, metavar="JSON", help="measure nothing: say how far two results agree, and where they do not"
    )
    parser.add_argument("--rounds", type=int, help="[3; with --full 7]")
    parser.add_argument("--seconds", type=float, help="of a sample [0.7; with --full 2]; of open loops 2 at least")
    parser.add_argument("--cases", type=lambda text: text.split(";"), help="separated by ; (see --list)")
    parser.add_argument("--servers", type=lambda text: text.split(","), help="separated by , (see --list)")
    parser.add_argument("--core-server", type=int, default=0)
    parser.add_argument("--core-load", type=int, default=1)
    parser.add_argument("--max-others", type=float, default=0.05, help="share of the cores [0.05]")
    parser.add_argument("--tries", type=int, help="of a sample that is disturbed [2; with --full 3]")
    parser.add_argument(
        "--patience", type=float, help="seconds that the run waits in all for its cores to be near each other [120; with --full 900]"
    )
    parser.add_argument("--name", help="of the files in perf/results [quick or full]")
    parser.add_argument("--table", action="store_true", help="write the table into perf/README.md; --full does, unless named")
    parser.add_argument("--no-counts", action="store_true", help="count neither system calls nor instructions")
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--list", action="store_true", help="name cases and servers, and end")
    options = parser.parse_args()
    options.rounds = options.rounds or (7 if options.full else 3)
    options.seconds = options.seconds or (2 if options.full else 0.7)
    options.tries = options.tries or (3 if options.full else 2)
    options.patience = options.patience if options.patience is not None else 900 if options.full else 120
    options.table = options.table or options.full and not options.name
    options.name = options.name or ("full" if options.full else "quick")
    options.cases = options.cases or [name for name, case in CASES.items() if options.full or case.quick]
    options.servers = options.servers or [name for name, peer in SERVERS.items() if options.full or peer.quick]
    for name in options.cases:
        if name not in CASES:
            parser.error(f"no case {name!r}: {'; '.join(CASES)}")
    for name in options.servers:
        if name not in SERVERS:
            parser.error(f"no server {name!r}: {', '.join(SERVERS)}")
    return options


def say(text):
    print(text, file=sys.stderr, flush=True)


def leave_out(options, failed):
    """Servers and cases that cannot be measured here, with the reason; the options lose them."""
    skipped = dict(failed)
    for name in list(options.servers):
        why = missing(name)
        if why:
            options.servers.remove(name)
            skipped[name] = skipped.get(name, why)
    for name in list(options.cases):
        option = CASES[name].needs
        if option and not has_option([LOADGEN, "echo"], option):
            options.cases.remove(name)
            skipped[name] = f"the generator has no {option}"
    for name, why in skipped.items():
        say(f"left out: {name}: {why}")
    return skipped


def capacity(results, options):
    """Messages per second that each server does at most, from the closed loop; measured now if it was not."""
    names = [name for name in options.servers if "WebSocket" in SERVERS[name].can]
    if not results.cells(CAPACITY_CASE, "per_s", names):
        say("measuring capacities first")
        take(CAPACITY_CASE, names, results, options)
    return results.cells(CAPACITY_CASE, "per_s", names)


def participants(case_name, results, options):
    """Who is measured, and at what rate if the loop is open."""
    case = CASES[case_name]
    names = [name for name in options.servers if SERVERS[name].takes_part(case)]
    for name in [name for name in names if case_name in SERVERS[name].unable]:
        names.remove(name)
        results.gaps.append(f"{case_name}: {name} cannot: {SERVERS[name].unable[case_name]}")
    if not case.share:
        return names, None
    able = capacity(results, options)
    if not able:
        return [], None
    serious = [value for value in able.values() if value >= SERIOUS * max(able.values())]
    rate = math.floor(case.share * min(serious))
    results.rates[case_name] = rate
    for name in [name for name in names if able.get(name, 0) < rate]:
        names.remove(name)
        results.gaps.append(f"{case_name}: {name} is not asked for {rate:,}/s, its capacity is {able.get(name, 0):,.0f}/s")
    return names, rate


def take(case_name, names, results, options, rate=None):
    """All rounds of a case."""
    into = results.samples.setdefault(case_name, {name: [] for name in names})
    for number in range(options.rounds):
        for name in names:
            try:
                one = quiet_sample(name, case_name, options, rate)
            except (Failure, subprocess.TimeoutExpired, OSError) as failure:
                results.gaps.append(str(failure))
                say(failure)
                continue
            into[name].append({"round": number + 1, **one})
            say(f"{case_name:28} round {number + 1} {name:20} {describe(one)}")


def describe(one):
    others = f"others {100 * one['others_share']:.0f} %, tries {one['tries']}"
    if one["scenario"] == "idle":
        memory = one["memory"]
        return f"{memory['rss_bytes_per_connection']:.0f} B/connection, slab {memory['kernel_bytes_per_connection']:.0f}, {others}"
    cpu = one["cpu"]
    others = f"cores {one['core_distance_ns']} ns, {others}"
    return (
        f"{cpu['server_ns_per_message']:.1f} ns/message, user {cpu['server_user_ns_per_message']:.1f}, "
        f"generator {cpu['own_ns_per_message']:.1f}, {others}"
    )


def measure(results, options):
    taking_part, network = {}, None
    for case_name in options.cases:
        names, rate = participants(case_name, results, options)
        if results.samples.get(case_name):
            taking_part[case_name] = names
            continue
        if not names:
            continue
        taking_part[case_name] = names
        if CASES[case_name].reno:
            try:
                network = network or Network("reno")
            except OSError as why:
                results.gaps.append(f"{case_name}: {why}")
                taking_part.pop(case_name)
                continue
            with network:
                take(case_name, names, results, options)
        else:
            take(case_name, names, results, options, rate)
        write(results)
    if not options.no_counts:
        here = {name: names for name, names in taking_part.items() if not CASES[name].reno}
        counts.count(results, here, options, results.rates, say)
    write(results)


def describe_run(options, skipped):
    return {
        "name": options.name,
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["perf/run", *sys.argv[1:]]),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "open_loop_seconds": max(options.seconds, OPEN_LOOP_S),
        "core_server": options.core_server,
        "core_load": options.core_load,
        "max_others": options.max_others,
        "tries": options.tries,
        "skipped": skipped,
        "counted_by": {} if options.no_counts else counts.tools(),
    }


def write(results):
    """The result as it stands: one line per sample, so that two runs can be compared as text."""
    samples = results.all_samples()
    if samples and "kernel" not in results.head:
        host = samples[0]["host"]
        results.head |= {key: host[key] for key in ("cpu", "cpus", "kernel", "congestion_control")}
    if not samples:
        return
    directory = PERF / "results"
    directory.mkdir(exist_ok=True)
    name = results.head["name"]
    lines = [
        json.dumps({"case": case, "server": server, **one}, ensure_ascii=False)
        for case, servers in results.samples.items()
        for server, found in servers.items()
        for one in found
    ]
    # Commands and messages of tools name places of this machine.
    results.gaps = [gap.replace(str(TARGET), "target").replace(str(ROOT), ".") for gap in results.gaps]
    rest = {"head": results.head, "rates": results.rates, "gaps": results.gaps, "counts": results.counts}
    parts = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in rest.items()]
    body = ",\n".join(lines)
    text = "{\n" + ",\n".join(parts) + f',\n"samples": [\n{body}\n]\n}}\n'
    (directory / f"{name}.json").write_text(text)
    (directory / f"{name}.md").write_text(table.markdown(results))
    (directory / f"{name}.html").write_text(html(results))


def read(path):
    """What `write` wrote."""
    with open(path) as file:
        found = json.load(file)
    results = Results(found["head"], counts=found["counts"], rates=found["rates"], gaps=found["gaps"])
    for one in found["samples"]:
        case, server = one.pop("case"), one.pop("server")
        results.samples.setdefault(case, {}).setdefault(server, []).append(one)
    return results


def conclude(results, with_table):
    if with_table:
        table.write_readme(results)
    for claim in claims(results):
        print(f"{claim.number:2} {claim.verdict:8} {claim.shown:>8} ({claim.wanted}) {claim.text}")
    print(table.notes(results))
    print(f"perf/results/{results.head['name']}.json, .md and .html")


def main():
    options = parse()
    if options.list:
        # A reader that has seen enough, as head(1), is no fault.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print("cases:", *CASES, "\nservers:", *SERVERS, sep="\n  ")
        return
    if options.render:
        results = read(options.render)
        write(results)
        conclude(results, options.table)
        return
    if options.compare:
        print(agreement(*map(read, options.compare)))
        return
    began = time.monotonic()
    failed = {} if options.no_build else build()
    results = Results(describe_run(options, leave_out(options, failed)))
    options.cores = Cores(options.core_server, options.core_load, options.patience)
    results.head["core_distance_ns"] = options.cores.usual_ns
    results.head["core_fastest_ps"] = options.cores.fastest_ps
    try:
        measure(results, options)
    finally:
        write(results)
    conclude(results, options.table)
    say(f"took {(time.monotonic() - began) / 60:.0f} minutes")
    wrong = [gap for gap in results.gaps if "exit code 1" in gap]
    if wrong:
        sys.exit(f"{len(wrong)} samples failed")
