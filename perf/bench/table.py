"""Tables in Markdown: all figures in results/, and the primary one in perf/README.md."""

import re
import statistics

from .cases import CASES
from .claims import claims
from .figures import COUNTS, FIGURES, number, primary
from .servers import PERF

START, END = "<!-- table: written by perf/run -->", "<!-- end of the table -->"


def head(results):
    about = results.head
    open_loops_s = about.get("open_loop_seconds", about["seconds"])
    longer = f" (open loops {open_loops_s:g})" if open_loops_s > about["seconds"] else ""
    return (
        f"{about['date'][:10]}, commit {about['commit']}, {about['cpu']} ({about['cpus']} CPUs), Linux {about['kernel']}, "
        f"congestion control {about['congestion_control']}. `{about['command']}`: {about['rounds']} rounds in turn, "
        f"{about['seconds']:g} s each{longer}; server on core {about['core_server']}, generator on core {about['core_load']}."
    )


def disturbed(results):
    samples = results.all_samples()
    limit = results.head["max_others"]
    many = sum(one["others_share"] > limit for one in samples)
    text = (
        f"{len(samples)} samples; in {many} of them others used more than {100 * limit:g} % of the cores in each of "
        f"{results.head['tries']} tries"
    )
    if "core_distance_ns" not in results.head:
        return text + "."
    apart = [one["core_distance_ns"] for one in samples if results.is_apart(one)]
    far = f", a write from one to the other and back took {statistics.median(apart):.0f} ns and not {results.head['core_distance_ns']}" if apart else ""
    return f"{text}, and in {len(apart)} the two cores were apart on the host{far}.{paces(results.head, samples)}"


def paces(head, samples):
    """How fast the server's core was by itself, where that was measured."""
    found = sorted(one["core_pace_ps"] for one in samples if "core_pace_ps" in one)
    if not found:
        return ""
    fastest, median, slowest = min(head["core_fastest_ps"], found[0]), statistics.median(found), found[-1]
    return (
        f" By itself the server's core took {median / fastest:.2f} times as long as at its fastest, at worst "
        f"{slowest / fastest:.2f}: above 1.3 somebody else probably had a share in it. Where nobody ever left it, that does not show."
    )


def rows(columns, lines):
    return "\n".join(["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *lines])


def line(cells):
    return "| " + " | ".join(cells) + " |"


def cell(spread):
    if spread is None:
        return "–"
    if spread.count == 1:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def figure_table(results, key):
    """A figure of all cells: cases down, servers across."""
    cases = [case for case in results.samples if any(results.spread(case, name, key) for name in results.samples[case])]
    servers = [name for name in results.servers() if any(results.spread(case, name, key) for case in cases)]
    if not cases:
        return None
    lines = [line([case, *(cell(results.spread(case, name, key)) for name in servers)]) for case in cases]
    return rows(["case", *servers], lines)


def count_table(results, key):
    cases = [case for case, servers in results.counts.items() if any(key in found for found in servers.values())]
    if not cases:
        return None
    servers = [name for name in results.servers() if any(key in results.counts[case].get(name, {}) for case in cases)]
    lines = [line([case, *(number(results.median(case, name, key)) for name in servers)]) for case in cases]
    return rows(["case", *servers], lines)


def claim_table(results):
    lines = [
        line([str(claim.number), claim.text, claim.shown, claim.wanted, claim.verdict]) for claim in claims(results)
    ]
    return rows(["", "ratio of medians", "measured", "wanted", ""], lines)


def markdown(results):
    """Everything, for perf/results."""
    parts = [f"# {results.head['name']}\n", head(results) + " Median (minimum–maximum).\n"]
    parts.append("## What is asked for\n\n" + claim_table(results) + "\n")
    for key, figure in FIGURES.items():
        table = figure_table(results, key)
        if table:
            parts.append(f"## {figure.label}\n\n{table}\n")
    for key, label in COUNTS.items():
        table = count_table(results, key)
        if table:
            parts.append(f"## {label}\n\n{table}\n")
    answers = {
        name: found[0]["answer_bytes"]
        for servers in results.samples.values()
        for name, found in servers.items()
        if found and "answer_bytes" in found[0]
    }
    if answers:
        lines = [line([name, str(size)]) for name, size in answers.items()]
        parts.append("## Bytes of a compressed answer to 1 KiB of records\n\n" + rows(["server", "bytes"], lines) + "\n")
    parts.append(notes(results) + "\n")
    return "\n".join(parts)


def notes(results):
    parts = [disturbed(results)]
    parts += [f"- {case}: {rate:,.0f} messages/s" for case, rate in results.rates.items()]
    parts += [f"- {name}: left out, {why}" for name, why in results.head["skipped"].items()]
    parts += [f"- not counted: {what}" for what, how in results.head["counted_by"].items() if not how]
    parts += ["- gap: " + gap.strip().replace("\n", " ")[:400] for gap in results.gaps]
    return "\n".join([parts[0], "", *parts[1:]])


def readme_table(results):
    """The primary figure, for perf/README.md: medians, and how far the widest cell of a row spreads."""
    servers = results.servers()
    lines = []
    for case in results.samples:
        key = primary(case)
        spreads = {name: results.spread(case, name, key) for name in servers}
        measured = [spread for spread in spreads.values() if spread]
        if not measured:
            continue
        widest = max(spread.relative for spread in measured)
        unit = " (bytes)" if key == "idle" else ""
        cells = [number(spread.median) if (spread := spreads[name]) else "–" for name in servers]
        lines.append(line([case + unit, *cells, f"{100 * widest:.0f} %"]))
    table = rows(["case", *servers, "widest"], lines)
    return (
        f"{head(results)} {disturbed(results)}\n\nMedian CPU time of the server per message in ns (user and system; per "
        f"handshake; idle: growth of resident memory per connection in bytes). The last column is the widest cell's "
        f"distance from minimum to maximum.\n\n{table}\n\n{claim_table(results)}"
    )


def write_readme(results):
    path = PERF / "README.md"
    text = path.read_text()
    if START not in text or END not in text:
        raise ValueError(f"{path} has no place for the table: {START} … {END}")
    between = re.compile(re.escape(START) + ".*?" + re.escape(END), re.S)
    path.write_text(between.sub(lambda _: f"{START}\n\n{readme_table(results)}\n\n{END}", text))
