"""Queries as words of 32 bits, four channels in each, to multiply labels in words with.

A row's query heads that share a key head are rounded to bytes with one scale. Whoever scores labels
rounds them itself: every program of a row and key head leaves the same words in the same place, and
reads there what it has written. That takes as long as the first labels need to come, and a launch
for it took longer. Only for `shared_labels`, whose programs score for several rows, is there one.
"""

from __future__ import annotations

from ....ir.core import Operation, Value
from ..attention.paged import LOG2E
from ..builder import KernelBuilder
from .word_labels import QUERY, STEPS, WordScores


class Rounding:
    """Rounds the queries of a row and key head; declares T, q [T, H * C] in calibrated order, level
    [K, r], query [B, K, g * r / 4] i32 (a head's words after another's), bias [B, K, g] i32 (what
    is taken from a head's products, for codes that are 8 too large), reach [B, K, 2] i32 (the most
    that a score can be, and what makes steps of it: the score plus that most, times the second
    without a sign, the upper half of 64 bits). With a scale also worth and score_unit [B, K] f32:
    the powers of two by which weights of a step more, and of a score of one more, are larger.
    Who reads only what others have rounded `asks` nothing, and has but query, bias and reach.
    """

    facts = ("B <= T",)
    """What a caller keeps."""

    def __init__(self, b: KernelBuilder, shape: WordScores, *, asks: bool = True) -> None:
        self.b, self.shape, labels = b, shape, shape.labels
        size = shape.group * shape.bytes
        if asks:
            b.scalar("T")
            self.q = b.buffer("q", shape.q, "T", shape.heads * labels.head_dim)
            self.level = b.buffer("level", "f32", labels.kv_heads, labels.channels)
        self.query = b.buffer("query", "i32", "B", labels.kv_heads, size)
        self.bias = b.buffer("bias", "i32", "B", labels.kv_heads, shape.group)
        self.reach = b.buffer("reach", "i32", "B", labels.kv_heads, 2)
        names = ("worth", "score_unit") if shape.scale and asks else ()
        self.worths = [b.buffer(name, "f32", "B", labels.kv_heads) for name in names]

    def ask(self, head: Value, row: Value) -> None:
        """Read the queries: a tile [g, r / 4] for each byte of a word."""
        b, s = self.b, self.shape
        self.head, self.row = head, row
        member, self.word = b.expand(b.iota(s.group), 1), b.expand(b.iota(s.bytes), 0)
        self.member, self.asked = member, []
        for byte in range(4):
            channel = b.map(f"a * 4 + {byte}", self.word, dtype="i32", hint="channel")
            text = f"(a * {s.group} + b) * {s.labels.head_dim} + c"
            column = b.map(text, head, member, channel, dtype="i32", hint="column")
            q, level = b.load(self.q, row, column, dtype="f32"), b.load(self.level, head, channel)
            self.asked.append((q, level))

    def keep(self) -> tuple[Value, Value, Value | None]:
        """Round what was read, and write it; return the two of `reach`, and the score's unit."""
        b, s, labels = self.b, self.shape, self.shape.labels
        parts = [b.map("a * b", *each, hint="x") for each in self.asked]
        sizes = "max(max(abs(a), abs(b)), max(abs(c), abs(d)))"
        size = b.reduce("max", b.reduce("max", b.map(sizes, *parts, dtype="f32"), 1), 0)
        largest = b.map("max(a, 1e-30)", size, hint="largest")
        text = f"i32(floor(a * ({QUERY}.0 / b) + 0.5))"
        values = [b.map(text, x, largest, dtype="i32", hint="byte") for x in parts]
        text = "(a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | (d << 24)"
        words = b.map(text, *values, dtype="i32", hint="words")
        text = f"a * {s.bytes} + b"
        place = b.map(text, self.member, self.word, dtype="i32", hint="place")
        b.store(self.query, self.row, self.head, place, words)
        total = b.reduce("sum", b.map("a + b + c + d", *values, dtype="i32"), 1, hint="total")
        text = "abs(a) + abs(b) + abs(c) + abs(d)"
        each = b.reduce("sum", b.map(text, *values, dtype="i32"), 1, hint="size")
        packed = labels.format == "i4"
        bias = b.map(f"a * {8 * packed}", total, dtype="i32", hint="bias")
        b.store(self.bias, self.row, self.head, b.iota(s.group), bias)
        top = b.map(f"a * {8 if packed else 127}", b.reduce("max", each, 0), dtype="i32",
                    hint="top")  # fmt: skip
        text = f"i32({float(STEPS)} * {float(1 << 31)} / f32(max(2 * a + 1, {STEPS + 1}))) * 2"
        factor = b.map(text, top, dtype="i32", hint="factor")
        for at, value in enumerate((top, factor)):
            b.store(self.reach, self.row, self.head, b.full(at, "i32"), value)
        if not self.worths:
            return top, factor, None
        unit = b.map(f"a * {s.scale * LOG2E / QUERY!r}", largest, hint="unit")
        text = f"a * f32(max(2 * b + 1, {STEPS + 1})) * {1 / STEPS!r}"
        worth = b.map(text, unit, top, dtype="f32", hint="worth")
        for buffer, value in zip(self.worths, (worth, unit), strict=True):
            b.store(buffer, self.row, self.head, value)
        return top, factor, unit


def query_words(shape: WordScores) -> Operation:
    """Return the kernel that rounds a step's queries where some rows share labels (Q > 0); a
    program takes a group of heads. Arguments: B, Q, then what `Rounding` declares."""
    b = KernelBuilder(f"query_words_{shape.name}_{shape.q}" + "_worth" * bool(shape.scale))
    b.scalar("B")
    b.scalar("Q")
    rounding = Rounding(b, shape)
    rounding.ask(b.program_id(0, "kv_head"), b.program_id(1, "row"))
    rounding.keep()
    facts = ("B >= 0", *rounding.facts)
    return b.finish(shape.labels.kv_heads, "where(Q > 0, B, 0)", requires=facts, of="graph.select")
