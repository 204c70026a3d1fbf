"""Reads HdrHistograms in their V2 encoding, as the generator writes them, and draws percentiles from them."""

import base64
import collections
import math
import struct

COOKIE = 0x1C849303
# The low digits of the cookie are the version; the word size (always 1 in V2) stands in bits 4 to 7.
COOKIE_MASK = 0xFFFFFF0F


def counts(text):
    """Counts by value (the highest that its bucket stands for), of one histogram."""
    raw = base64.b64decode(text)
    cookie, length, _, digits, lowest, _, _ = struct.unpack(">iiiiqqd", raw[:40])
    if cookie & COOKIE_MASK != COOKIE & COOKIE_MASK:
        raise ValueError(f"no histogram of version 2: {cookie:#x}")
    value_at = values(digits, lowest)
    found, index = collections.Counter(), 0
    for number in varints(raw[40 : 40 + length]):
        if number < 0:
            index -= number
        else:
            if number:
                found[value_at(index)] += number
            index += 1
    return found


def varints(raw):
    """Zig-zag LEB128, of nine bytes at most: the ninth has all its eight bits."""
    number = shift = 0
    for byte in raw:
        number |= (byte if shift == 56 else byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift == 63:
            yield number >> 1 if not number & 1 else -(number >> 1) - 1
            number = shift = 0


def values(digits, lowest):
    """The highest value that is counted at an index."""
    unit = int(math.log2(max(lowest, 1)))
    half_bits = max(math.ceil(math.log2(2 * 10**digits)), 1) - 1
    half = 1 << half_bits

    def value_at(index):
        bucket, place = (index >> half_bits) - 1, (index & (half - 1)) + half
        if bucket < 0:
            bucket, place = 0, place - half
        return (place + 1 << bucket + unit) - 1

    return value_at


def merged(texts):
    """Counts of all of them."""
    total = collections.Counter()
    for text in texts:
        total.update(counts(text))
    return total


def curve(total, points=120, nines=4):
    """Pairs of percentile and value, evenly over the number of nines."""
    count = sum(total.values())
    if not count:
        return []
    wanted = [100 * (1 - 10 ** (-nines * n / points)) for n in range(points + 1)]
    found, seen, at = [], 0, 0
    for value in sorted(total):
        seen += total[value]
        while at < len(wanted) and seen >= wanted[at] / 100 * count:
            found.append((wanted[at], value))
            at += 1
    # Beyond what so many values can tell there is only the largest.
    return [(percentile, value) for percentile, value in found if count * (1 - percentile / 100) >= 1 or percentile == 0]
