"""Plots as inline SVG, without scripts: bars with a line for the ceiling, and curves of latency."""

import html
import math

from .figures import number

WIDTH, LABEL, VALUE = 780, 190, 150
BAR, GAP = 18, 7


def escape(text):
    return html.escape(str(text))


def bars(rows, ceiling=None, unit="ns"):
    """Horizontal bars. Each row: name, class, the middle, lowest, highest, and the part in user mode or nothing."""
    longest = max([row["high"] for row in rows] + [ceiling or 0]) or 1
    scale = (WIDTH - LABEL - VALUE) / longest
    height = len(rows) * (BAR + GAP) + 22
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img">']
    for place, row in enumerate(rows):
        top = place * (BAR + GAP) + 16
        middle = top + BAR / 2
        parts.append(f'<text class="name" x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(row["name"])}</text>')
        title = f"{row['name']}: {number(row['middle'])} {unit} ({number(row['low'])}–{number(row['high'])})"
        width = row["middle"] * scale
        parts.append(
            f'<rect class="bar {row["class"]}" x="{LABEL}" y="{top}" width="{width:.1f}" height="{BAR}">'
            f"<title>{escape(title)}</title></rect>"
        )
        if row.get("user"):
            parts.append(f'<rect class="user" x="{LABEL}" y="{top}" width="{row["user"] * scale:.1f}" height="{BAR}"/>')
        low, high = LABEL + row["low"] * scale, LABEL + row["high"] * scale
        parts.append(f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>')
        beside = f"{number(row['middle'])} {unit}"
        if ceiling:
            beside += f" · {row['middle'] / ceiling:.2f}×"
        parts.append(f'<text class="value" x="{max(width, row["high"] * scale) + LABEL + 8:.1f}" y="{middle + 4}">{beside}</text>')
    if ceiling:
        x = LABEL + ceiling * scale
        parts.append(f'<path class="ceiling" d="M{x:.1f} 12V{height - 2}"/>')
        parts.append(f'<text class="ceiling-label" x="{x:.1f}" y="9" text-anchor="middle">ceiling</text>')
    return "\n".join(parts) + "</svg>"


def ticks(low, high):
    """1, 2 and 5 of every decade between, as the range allows."""
    steps = [digit * 10.0**power for power in range(-1, 10) for digit in (1, 2, 5)]
    inside = [step for step in steps if low <= step <= high]
    return inside if len(inside) < 9 else [step for step in inside if f"{step:e}"[0] == "1"]


def curves(lines):
    """Latency in µs by percentile, both axes logarithmic. Each line: name, colour, pairs of percentile and ns."""
    width, height, left, bottom = WIDTH, 320, 64, 40
    right = 150
    values = [value / 1e3 for _, _, pairs in lines for _, value in pairs]
    if not values:
        return ""
    low, high = min(values) * 0.9, max(values) * 1.1
    nines = max(-math.log10(1 - percentile / 100) for _, _, pairs in lines for percentile, _ in pairs if percentile < 100)
    nines = max(nines, 1)

    def x(percentile):
        return left + (width - left - right) * -math.log10(max(1 - percentile / 100, 1e-9)) / nines

    def y(micros):
        return 12 + (height - bottom - 12) * (1 - math.log(micros / low) / math.log(high / low))

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for tick in ticks(low, high):
        parts.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{width - right}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)} µs</text>')
    for percentile in (0, 50, 90, 99, 99.9, 99.99):
        if x(percentile) <= width - right + 1:
            parts.append(f'<path class="grid" d="M{x(percentile):.1f} 12V{height - bottom}"/>')
            label = "min" if percentile == 0 else f"p{percentile:g}"
            parts.append(f'<text class="tick" x="{x(percentile):.1f}" y="{height - bottom + 18}" text-anchor="middle">{label}</text>')
    taken = []
    for name, colour, pairs in sorted(lines, key=lambda line: line[2][-1][1]):
        points = " ".join(f"{x(percentile):.1f},{y(value / 1e3):.1f}" for percentile, value in pairs)
        parts.append(f'<polyline class="curve" style="stroke:{colour}" points="{points}"/>')
        # From the bottom up, so that no two names meet.
        at = min([y(pairs[-1][1] / 1e3) + 4, *[other - 15 for other in taken[-1:]]])
        taken.append(at)
        parts.append(f'<text class="name" style="fill:{colour}" x="{width - right + 6}" y="{at:.1f}">{escape(name)}</text>')
    return "\n".join(parts) + "</svg>"
