"""The page of a run: self-contained, without scripts, readable in the dark and on paper."""

from . import hdr
from .cases import CASES, SCALING
from .claims import claims
from .figures import COUNTS, number, part
from .servers import CEILINGS, OURS, SERVERS
from .svg import bars, curves, escape
from .table import disturbed, head, notes

COLOURS = ["#d8a13a", "#b08900", "#7a5c3a", "#1f7a5c", "#55b892", "#8bc34a", "#00838f", "#c23b4b", "#2f6fb3", "#8a63b8"]
COLOURS += ["#d9822b", "#5b6b7a", "#ad4f8a", "#6b7fd7", "#a1887f", "#78909c"]
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f23; --soft: #667; --page: #fff; --line: #dfe3e8; --ours: #1f7a5c;
  --peer: #9aa7b4; --raw: #d8a13a; --user: rgba(0,0,0,.28); --good: #1f7a5c; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b1; --page: #15191d; --line: #2c333a;
  --ours: #46b48c; --peer: #5d6b79; --raw: #c9953a; --user: rgba(255,255,255,.35); --good: #46b48c; --bad: #f28b82 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 860px;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem } h3 { font-size: 1rem; margin: 1.3rem 0 .2rem }
p, li { color: var(--soft); margin: .2rem 0 } svg { width: 100%; height: auto; display: block }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } svg .value, svg .tick { fill: var(--soft) }
.bar.ours { fill: var(--ours) } .bar.peer { fill: var(--peer) } .bar.raw { fill: var(--raw) } .user { fill: var(--user) }
.whisker { stroke: var(--ink); fill: none; opacity: .55 } .ceiling { stroke: var(--raw); stroke-width: 1.5; stroke-dasharray: 4 3; fill: none }
svg .ceiling-label { fill: var(--raw); font-size: 10px } .grid { stroke: var(--line); fill: none } .curve { fill: none; stroke-width: 1.8 }
table { border-collapse: collapse; width: 100%; font-size: 13px } th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line) }
td { white-space: nowrap } td.text { white-space: normal } th:first-child, td:first-child, td.text, th:nth-child(2):nth-last-child(4) { text-align: left } .held { color: var(--good) } .not { color: var(--bad) } .scroll { overflow-x: auto }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
"""


def html(results):
    """All of the page."""
    sections = [
        section("CPU time of the server per message", cpu_key(), *map(lambda case: cpu_bars(results, case), results.samples)),
        section("Latency", *latency(results)),
        section("Two cores", *scaling(results)),
        section("Memory of an idle connection", *idle(results)),
        section("Counts", *counted(results)),
        section("What is asked for", claim_table(results)),
    ]
    # What is asked for comes first, though it is made last.
    sections = [sections[-1], *sections[:-1]]
    remarks = "".join(f"<li>{escape(line.removeprefix('- '))}</li>" for line in notes(results).splitlines() if line)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ringwire: {escape(results.head['name'])}</title><style>{STYLE}</style></head><body>"
        f"<h1>ringwire and its peers</h1><p>{escape(head(results))}</p><p>{escape(disturbed(results))}</p>"
        f"{''.join(sections)}<h2>Notes</h2><ul>{remarks}</ul>"
        "<p>Method: perf/README.md. Figures are medians of the rounds; whiskers go from the lowest to the highest.</p>"
        "</body></html>\n"
    )


def section(title, *parts):
    body = "".join(part for part in parts if part)
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def cpu_key():
    return (
        '<p class="key">Less is better.<span style="background:var(--ours)"></span>ringwire'
        '<span style="background:var(--peer)"></span>peers<span style="background:var(--raw)"></span>no protocol: the '
        'ceiling<span style="background:var(--user);outline:1px solid var(--line)"></span>user mode; × is the multiple of the ceiling</p>'
    )


def kind(name):
    return "ours" if name in OURS else "raw" if name in CEILINGS else "peer"


def rows(results, case, key):
    found = []
    for name in results.samples.get(case, {}):
        spread = results.spread(case, name, key)
        if spread:
            row = {"name": name, "class": kind(name), "middle": spread.median, "low": spread.low, "high": spread.high}
            if key == "cpu":
                row["user"] = results.user_ns(case, name)
            found.append(row)
    return sorted(found, key=lambda row: row["middle"])


def cpu_bars(results, case):
    if CASES[case].scenario == "idle" or CASES[case].shards:
        return ""
    found = rows(results, case, "cpu")
    if not found:
        return ""
    rate = f" ({results.rates[case]:,} messages/s)" if case in results.rates else ""
    return f"<h3>{escape(case + rate)}</h3>{bars(found, results.ceiling(case))}"


def latency(results):
    """Curves of the cases that kept their distributions, all rounds together."""
    parts = []
    for case, servers in results.samples.items():
        if not CASES[case].curve:
            continue
        lines = []
        for name, samples in servers.items():
            texts = [text for one in samples if (text := part(one)["latency"].get("hdr"))]
            pairs = hdr.curve(hdr.merged(texts)) if texts else []
            if pairs:
                lines.append((name, colour(name), pairs))
        if lines:
            loop = "closed loop" if CASES[case].scenario == "echo" else "open loop, from the time a message was due"
            rate = f", {results.rates[case]:,} messages/s" if case in results.rates else ""
            parts.append(f"<h3>{escape(case)}</h3><p>{loop}{rate}</p>{curves(lines)}")
    return parts


def colour(name):
    """The same for a server on every plot."""
    return COLOURS[list(SERVERS).index(name) % len(COLOURS)]


def scaling(results):
    parts = []
    for pair in SCALING:
        for case in pair:
            found = rows(results, case, "cpu")
            if found:
                parts.append(f"<h3>{escape(case)}</h3>{bars(found)}")
    return parts


def idle(results):
    cases = [case for case in results.samples if CASES[case].scenario == "idle"]
    return [
        f"<h3>{escape(case)}</h3>{bars(found, unit='bytes')}" for case in cases if (found := rows(results, case, "idle"))
    ]


def counted(results):
    parts = []
    for key, label in COUNTS.items():
        cases = [case for case, servers in results.counts.items() if any(key in found for found in servers.values())]
        if not cases:
            continue
        servers = [name for name in results.servers() if any(key in results.counts[case].get(name, {}) for case in cases)]
        lines = [[case, *(number(results.median(case, name, key)) for name in servers)] for case in cases]
        parts.append(f"<h3>{escape(label)}</h3>{grid(['case', *servers], lines)}")
    return parts


def grid(columns, lines):
    top = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def claim_table(results):
    lines = []
    for claim in claims(results):
        style = "held" if claim.holds else "not"
        lines.append(
            f'<tr><td>{claim.number}</td><td class="text">{escape(claim.text)}</td><td>{claim.shown}</td>'
            f'<td>{claim.wanted}</td><td class="{style}">{claim.verdict}</td></tr>'
        )
    if not lines:
        return ""
    top = "<tr><th></th><th>ratio of medians</th><th>measured</th><th>wanted</th><th></th></tr>"
    return f'<div class="scroll"><table>{top}{"".join(lines)}</table></div>'
