"""Sets of code points, and their UTF-8 bytes as sequences of byte ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

Ranges = tuple[tuple[int, int], ...]
"""Code points from, to (both included), ascending and apart."""

EVERY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""All that UTF-8 can spell: surrogates are left out."""

WIDTHS = ((0x0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF))
"""The code points that take 1, 2, 3 and 4 bytes, from and to."""


def union(*sets: Iterable[tuple[int, int]]) -> Ranges:
    """Return the ranges of all code points in any of some sets, without surrogates."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pair for one in sets for pair in one):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return intersection(merged, EVERY)


def intersection(first: Iterable[tuple[int, int]], second: Iterable[tuple[int, int]]) -> Ranges:
    """Return the code points in both sets."""
    second = tuple(second)
    return tuple(
        (max(low, other), min(high, until))
        for low, high in first
        for other, until in second
        if max(low, other) <= min(high, until)
    )


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return all other code points."""
    rest: list[tuple[int, int]] = []
    at = 0
    for low, high in sorted(ranges):
        if low > at:
            rest.append((at, low - 1))
        at = max(at, high + 1)
    return intersection([*rest, (at, 0x10FFFF)] if at <= 0x10FFFF else rest, EVERY)


@cache
def byte_sequences(ranges: Ranges) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return sequences of byte ranges that together spell exactly these code points."""
    found: list[tuple[tuple[int, int], ...]] = []
    for low, high in ranges:
        for first, last in WIDTHS:
            if low <= last and high >= first:
                start, end = chr(max(low, first)).encode(), chr(min(high, last)).encode()
                found += _between(start, end)
    return tuple(found)


def _between(low: bytes, high: bytes) -> Iterator[tuple[tuple[int, int], ...]]:
    """Split [low, high], spelled with as many bytes, where the last bytes run over their range."""
    if len(low) == 1:
        yield ((low[0], high[0]),)
        return
    first, last, rest = low[0], high[0], len(low) - 1
    least, most = b"\x80" * rest, b"\xbf" * rest
    if first == last:
        yield from (((first, first), *more) for more in _between(low[1:], high[1:]))
        return
    if low[1:] != least:
        yield from (((first, first), *more) for more in _between(low[1:], most))
        first += 1
    tail = ()
    if high[1:] != most:
        tail = tuple(((last, last), *more) for more in _between(least, high[1:]))
        last -= 1
    if first <= last:
        yield ((first, last), *(((0x80, 0xBF),) * rest))
    yield from tail
