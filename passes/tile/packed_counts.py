"""Counts of sixteen kinds in the registers of whoever meets them: a histogram for GPUs.

Each lane of a tile counts what it meets in two words, four bits a kind, and sums over lanes are
formed once, after many tiles. A histogram of 256 kinds by votes of a warp costs sixty instructions
a token (Triton 3.6), this one eight.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ...ir.core import Value
from ...ir.sparse import STEP_KINDS as KINDS
from ...ir.tile import extents_of
from .builder import KernelBuilder

ROUNDS = 15
"""After so many tiles four bits may be full."""


def no_counts(b: KernelBuilder, *shape: int) -> list[Value]:
    """Return the counts of tiles of a shape before the first one."""
    return [b.full(0, "i32", *shape) for _ in range(2)]


def add_counts(
    b: KernelBuilder, counts: list[Value], kind: Value, others: bool = False
) -> list[Value]:  # fmt: skip
    """Return the counts with a tile of kinds 0 .. 15, at most `ROUNDS` times; where there may be
    `others`, larger ones, these count nowhere."""
    one = b.map("1 << ((a & 7) << 2)", kind, dtype="i32", hint="one")
    high = "a + where((c ^ 8) < 8, b, 0)" if others else "a + where(c < 8, 0, b)"
    texts = "a + where(c < 8, b, 0)", high
    return [b.map(text, count, one, kind, dtype="i32", hint="packed")
            for text, count in zip(texts, counts, strict=True)]  # fmt: skip


def sum_counts(b: KernelBuilder, counts: list[Value], columns: bool = False) -> Value:
    """Return the sums over all lanes [16], or over those of each column [columns, 16]; there are
    fewer than 65536 / `ROUNDS` lanes."""
    kind, total = b.iota(KINDS), b.full(0, "i32", KINDS)
    for half, count in enumerate(counts):
        for place, pair in _pairs(b, count) if columns else _pairs_of_lanes(b, count):
            pair = b.reduce("sum", pair, 0, hint="pair")
            pair = b.expand(pair, 1) if columns else pair
            first = 8 * half + place
            text = f"a + where(b == {first}, c & 65535, where(b == {first + 4}, c >> 16, 0))"
            total = b.map(text, total, kind, pair, dtype="i32", hint="counts")
    return total


def _pairs(b: KernelBuilder, count: Value) -> Iterator[tuple[int, Value]]:
    """Yield words of 16 bits each for kinds n and n + 4 of eight, with n."""
    for place in range(4):
        text = f"(a >> {4 * place}) & {0x000F000F}"
        yield place, b.map(text, count, dtype="i32", hint="pair")


def _pairs_of_lanes(b: KernelBuilder, count: Value) -> Iterator[tuple[int, Value]]:
    """Yield the same, four lanes summed up: first in words of a byte a kind, as these lie in one
    thread."""
    lanes = prod(extents_of(count.type))
    few = b.reshape(count, lanes // 4, 4)
    for odd in range(2):
        text = f"(a >> {4 * odd}) & {0x0F0F0F0F}"
        packed = b.reduce("sum", b.map(text, few, dtype="i32", hint="bytes"), 1, hint="bytes")
        for place in (odd, odd + 2):
            text = f"(a >> {4 * (place - odd)}) & {0x00FF00FF}"
            yield place, b.map(text, packed, dtype="i32", hint="pair")
