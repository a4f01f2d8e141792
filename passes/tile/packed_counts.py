"""Counts of sixteen kinds in the registers of whoever meets them: a histogram for GPUs.

What a thread meets in a tile it counts in two words, four bits a kind, then in four words with a
byte a kind; sums over threads are formed once, after many tiles. A histogram of 256 kinds by votes
of a warp costs sixty instructions a token (Triton 3.6), this one ten.
"""

from __future__ import annotations

from math import prod

from ...ir.core import Value
from ...ir.sparse import STEP_KINDS as KINDS
from ...ir.tile import extents_of
from .builder import KernelBuilder

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


def add_counts(
    b: KernelBuilder, counts: list[Value], kind: Value, others: bool = False
) -> list[Value]:  # fmt: skip
    """Return the counts with a tile of kinds 0 .. 15; where there may be `others`, larger ones,
    these count nowhere."""
    one = b.map("1 << ((a & 7) << 2)", kind, dtype="i32", hint="one")
    lanes = extents_of(counts[0].type)
    few = lanes != extents_of(kind.type)
    if few:
        one, kind = (b.reshape(x, *lanes, FEW) for x in (one, kind))
    high = "where((b ^ 8) < 8, a, 0)" if others else "where(b < 8, 0, a)"
    found = []
    for text in ("where(b < 8, a, 0)", high):
        half = b.map(text, one, kind, dtype="i32", hint="half")
        half = b.reduce("sum", half, 1, hint="half") if few else half
        found += [b.map(f"(a >> {shift}) & {0x0F0F0F0F}", half, dtype="i32", hint="bytes")
                  for shift in (0, 4)]  # fmt: skip
    return [b.map("a + b", *pair, dtype="i32", hint="packed")
            for pair in zip(counts, found, strict=True)]  # fmt: skip


def sum_counts(b: KernelBuilder, counts: list[Value], columns: bool = False) -> Value:
    """Return the sums over all lanes [16], or over those of each column [columns, 16]."""
    kind, total = b.iota(KINDS), b.full(0, "i32", KINDS)
    for place, packed in enumerate(counts):
        for odd in range(2):
            text = f"(a >> {8 * odd}) & {0x00FF00FF}"
            pair = b.reduce("sum", b.map(text, packed, dtype="i32", hint="pair"), 0, hint="pair")
            pair = b.expand(pair, 1) if columns else pair
            first = place // 2 * 8 + place % 2 + 2 * odd
            text = f"a + where(b == {first}, c & {MOST}, 0)"
            text += f" + where(b == {first + 4}, (c >> 16) & {MOST}, 0)"
            total = b.map(text, total, kind, pair, dtype="i32", hint="counts")
    return total
