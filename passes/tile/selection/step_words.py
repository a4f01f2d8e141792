"""Steps of scores in words of 32 bits, four tokens in each, a byte a token: packed and compared.

What a GPU does to a word it does to four steps at once. A comparison leaves marks, the highest bit
of each byte; marks of a few words that follow each other become bits, one a token in their order.
"""

from __future__ import annotations

from ....ir.core import Value
from ....ir.dialects.tile import extents_of
from ..builder import KernelBuilder

WIDTH = 4
"""Tokens of a word."""

EACH, LOW, MARKS = 0x01010101, 0x7F7F7F7F, -0x7F7F7F80
"""One in each byte, all bits of it but the highest, and the highest alone."""

GATHER = 1 << 21 | 1 << 14 | 1 << 7 | 1
"""A factor that brings the marks of a word to its four highest bits, in order."""


def pack(b: KernelBuilder, steps: Value, axis: int = 1) -> Value:
    """Return steps [n, m] as words, of four that follow each other along an axis."""
    shape = list(extents_of(steps.type))
    shape[axis : axis + 1] = [shape[axis] // WIDTH, WIDTH]
    byte = b.expand(b.expand(b.iota(WIDTH), 0), 2 if axis == 0 else 0)
    text = "a << (b * 8)"
    shifted = b.map(text, b.reshape(steps, *shape), byte, dtype="i32", hint="shifted")
    return b.reduce("sum", shifted, axis + 1, hint="words")


class AtLeast:
    """Compares words with a step 1 .. 256."""

    def __init__(self, b: KernelBuilder, least: Value) -> None:
        self.b = b
        text = f"where(a > 255, {MARKS}, (a & 127) * {EACH})"
        self.less = b.map(text, least, dtype="i32", hint="less")
        self.high = b.map("where(a > 127, 0 - 1, 0)", least, dtype="i32", hint="high")

    def marks(self, words: Value) -> Value:
        """Return the marks of steps that are at least that one: as the low seven bits say, if the
        highest bit is set in both or in neither."""
        text = f"(a | {MARKS}) - b"
        rest = self.b.map(text, words, self.less, dtype="i32", hint="rest")
        text = f"((a & b) | ((a | b) & ~c)) & {MARKS}"
        return self.b.map(text, rest, words, self.high, dtype="i32", hint="marks")


def bits(b: KernelBuilder, marks: list[Value]) -> Value:
    """Return the marks of runs of words [n, w], which follow each other, as bits [n]."""
    total = None
    for place, part in enumerate(marks):
        runs, words = extents_of(part.type)
        lane = b.expand(b.iota(words), 0)
        text = f"((a * {GATHER} >> 28) & 15) << (b * {WIDTH} + {place * words * WIDTH})"
        each = b.map(text, part, lane, dtype="i32", hint="each")
        more = b.reduce("sum", each, 1, hint="bits")
        total = more if total is None else b.map("a | b", total, more, dtype="i32", hint="bits")
    assert total is not None
    return total


def count_bits(b: KernelBuilder, value: Value) -> Value:
    """Return how many bits are set."""
    pairs = b.map(f"a - ((a >> 1) & {0x55555555})", value, dtype="i32", hint="pairs")
    fours = b.map(f"(a & {0x33333333}) + ((a >> 2) & {0x33333333})", pairs, dtype="i32",
                  hint="fours")  # fmt: skip
    bytes = b.map(f"(a + (a >> 4)) & {0x0F0F0F0F}", fours, dtype="i32", hint="bytes")
    return b.map(f"(a * {EACH} >> 24) & 63", bytes, dtype="i32", hint="count")


def lowest_place(b: KernelBuilder, bit: Value) -> Value:
    """Return the place of the one bit that is set."""
    text = "((bits_i32(f32(a)) >> 23) & 255) - 127"
    return b.map(text, bit, dtype="i32", hint="place")
