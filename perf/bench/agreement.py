"""How far two runs agree: what of one lies within the stated spread of the other."""

import statistics

from .claims import claims
from .figures import primary
from .table import cell


def pairs(first, second):
    """The primary figure of all cells that both runs have: case, server and the two spreads."""
    for case, servers in first.samples.items():
        key = primary(case)
        for server in servers:
            one, other = first.spread(case, server, key), second.spread(case, server, key)
            if one and other:
                yield case, server, one, other


def lies_within(one, other):
    """Whether the median of either lies between the other's lowest and highest."""
    return other.low <= one.median <= other.high or one.low <= other.median <= one.high


def overlap(one, other):
    return one.low <= other.high and other.low <= one.high


def verdicts(results):
    # By name: the best peer may be another one in each run.
    return {(claim.number, claim.name): claim for claim in claims(results)}


def agreement(first, second):
    """In words, a line for each thing; what does not agree is named."""
    cells = list(pairs(first, second))
    if len(cells) < 2:
        return "too few cells in both runs to compare them"
    within = sum(lies_within(one, other) for _, _, one, other in cells)
    overlapping = sum(overlap(one, other) for _, _, one, other in cells)
    ratios = [other.median / one.median for _, _, one, other in cells if one.median]
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    lines = [
        f"{len(cells)} cells: a median within the other run's range in {within}, ranges that overlap in {overlapping}",
        f"second ÷ first: median {statistics.median(ratios):.3f}, from the tenth to the ninetieth in a hundred {tenths[0]:.3f} to {tenths[-1]:.3f}",
    ]
    for case, server, one, other in cells:
        if not overlap(one, other):
            lines.append(f"apart: {case}, {server}: {cell(one)} and {cell(other)}")
    before, after = verdicts(first), verdicts(second)
    for key, one in before.items():
        other = after.get(key)
        if other and one.verdict != other.verdict:
            lines.append(f"{one.verdict}, then {other.verdict}: {one.number} {one.name}: {one.shown} and {other.shown} ({one.wanted})")
    return "\n".join(lines)
