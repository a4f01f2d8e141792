"""Counts of sixteen kinds in the registers of whoever meets them: a histogram for GPUs.

What a thread meets in a tile it counts in 64 bits, four a kind, then in four words with a byte a
kind; sums over threads are formed once, after many tiles. A histogram of 256 kinds by votes of a
warp costs sixty instructions a token (Triton 3.6), this one six.
"""

from __future__ import annotations

from math import prod

from ....ir.core import Value
from ....ir.dialects.tile import extents_of
from ....ir.sparse.policy import STEP_KINDS as KINDS
from ..builder import KernelBuilder

FEW = 4
"""Neighbours of a tile that one thread has, and that are summed up at once."""

ROUNDS = 255 // FEW
"""After so many tiles, of which a few are summed up at once, a byte may be full; and 255 where each
counts alone."""

MOST = 65535
"""Lanes of tiles that may be counted in all: sums are of 16 bits."""


def no_counts(b: KernelBuilder, *shape: int) -> list[Value]:
    """Return the counts before the first tile of a shape, of which a few are summed up at once."""
    return [b.full(0, "i32", prod(shape) // FEW) for _ in range(4)]


def no_counts_apart(b: KernelBuilder, *shape: int) -> list[Value]:
    """Return the counts before the first tile of a shape, each element of which counts alone."""
    return [b.full(0, "i32", *shape) for _ in range(4)]


def add_counts(b: KernelBuilder, counts: list[Value], kind: Value) -> list[Value]:
    """Return the counts with a tile of kinds 0 .. 15."""
    one = b.map("b << (a * 4)", kind, b.full(1, "i64"), dtype="i64", hint="one")
    lanes = extents_of(counts[0].type)
    if lanes != extents_of(kind.type):
        one = b.reduce("sum", b.reshape(one, *lanes, FEW), 1, hint="some")
    return add_nibbles(b, counts, one)


def add_nibbles(b: KernelBuilder, counts: list[Value], some: Value) -> list[Value]:
    """Return the counts with some of at most 15 a kind, four bits each, summed up lane by lane over
    further axes."""
    halves = [b.map(text, some, dtype="i32", hint="half") for text in ("a", "a >> 32")]
    found = [b.map(f"(a >> {shift}) & {0x0F0F0F0F}", half, dtype="i32", hint="bytes")
             for half in halves for shift in (0, 4)]  # fmt: skip
    while len(extents_of(found[0].type)) > len(extents_of(counts[0].type)):
        found = [b.reduce("sum", each, 1, hint="bytes") for each in found]
    return [b.map("a + b", *pair, dtype="i32", hint="packed")
            for pair in zip(counts, found, strict=True)]  # fmt: skip


def sum_counts(b: KernelBuilder, counts: list[Value], columns: bool = False) -> Value:
    """Return the sums over all lanes [16], or over those of each column [columns, 16]."""
    kind, total = b.iota(KINDS), b.full(0, "i32", KINDS)
    places = [(place, odd) for place in range(len(counts)) for odd in range(2)]
    pairs = [b.map(f"(a >> {8 * odd}) & {0x00FF00FF}", counts[place], dtype="i32", hint="pair")
             for place, odd in places]  # fmt: skip
    pairs = [b.reduce("sum", pair, 0, hint="pair") for pair in pairs]
    for (place, odd), pair in zip(places, pairs, strict=True):
        pair = b.expand(pair, 1) if columns else pair
        first = place // 2 * 8 + place % 2 + 2 * odd
        text = f"a + where(b == {first}, c & {MOST}, 0)"
        text += f" + where(b == {first + 4}, (c >> 16) & {MOST}, 0)"
        total = b.map(text, total, kind, pair, dtype="i32", hint="counts")
    return total
