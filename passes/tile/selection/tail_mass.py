"""What labels say of the tokens that decode does not read: their weight, by query head, summed up
while they are scored.

Kept as the online softmax is: the largest score so far, and lane by lane the sum of 2^(score - it).
"""

from __future__ import annotations

from ....ir.core import Value
from ....ir.sparse.policy import MOST_PARTS
from ..builder import KernelBuilder

UNSEEN, LOWEST = -1e30, -1e20
"""What a token that does not count scores, and where a maximum starts: well above it."""


class Mass:
    """The weight of the middle by its labels; declares where the results of a program go:
    tail_max, tail_sum [B, H, parts] f32."""

    def __init__(self, b: KernelBuilder, group: int, heads: int, parts: int) -> None:
        self.b, self.group = b, group
        self.buffers = [b.buffer(n, "f32", "B", heads, parts) for n in ("tail_max", "tail_sum")]

    def start(self, page: int) -> tuple[Value, Value]:
        """Return the state before the first page of `page` tokens."""
        b = self.b
        return b.full(LOWEST, "f32", self.group), b.full(0.0, "f32", self.group, page)

    def add(self, state: list[Value], scores: Value, seen: Value | None) -> tuple[Value, Value]:
        """Return the state with the scores [g, P] of one more page, of the tokens `seen` [P]."""
        b, (top, total) = self.b, state
        if seen is not None:
            scores = b.map(f"where(b, a, {UNSEEN})", scores, b.expand(seen, 0), dtype="f32")
        higher = b.map("max(a, b)", top, b.reduce("max", scores, 1, hint="best"), hint="higher")
        fade = b.map("exp2(a - b)", top, higher, hint="fade")
        total = b.map("a * b + exp2(c - d)", total, b.expand(fade, 1), scores,
                      b.expand(higher, 1), hint="mass")  # fmt: skip
        return higher, total

    def store(self, state: list[Value], sequence: Value, kv_head: Value, part: Value) -> None:
        """Write what a program has summed up."""
        b, (top, total) = self.b, state
        head = b.map(f"a * {self.group} + b", kv_head, b.iota(self.group), dtype="i32",
                     hint="head")  # fmt: skip
        values = (top, b.reduce("sum", total, 1, hint="mass"))
        for buffer, value in zip(self.buffers, values, strict=True):
            b.store(buffer, sequence, head, part, value)


class LaneMass:
    """The same of scores in words: integers, of tiles of any shape. Each lane has its largest score
    over all heads, and each head's sum against that. Declares tail_max, tail_sum [B, H, 32] f32."""

    def __init__(self, b: KernelBuilder, group: int, kv_heads: int) -> None:
        self.b, self.group = b, group
        sizes = ("B", group * kv_heads, MOST_PARTS)
        self.buffers = [b.buffer(n, "f32", *sizes) for n in ("tail_max", "tail_sum")]

    def start(self, unit: Value, *shape: int) -> tuple[Value, ...]:
        """Return the state before the first tile; a score of one more weighs 2^unit as much."""
        b, self.unit = self.b, unit
        sums = (b.full(0.0, "f32", *shape) for _ in range(self.group))
        return b.full(LOWEST, "f32", *shape), *sums

    def add(
        self, state: list[Value], scores: list[Value], best: Value, inside: Value
    ) -> tuple[Value, ...]:  # fmt: skip
        """Return the state with a tile of scores, a value a head, of tokens that are inside."""
        b, (top, *sums) = self.b, state
        text = "where(d, max(a, f32(b) * c), a)"
        higher = b.map(text, top, best, self.unit, inside, dtype="f32", hint="higher")
        fade = b.map("exp2(a - b)", top, higher, hint="fade")
        text = "a * b + where(f, exp2(f32(c) * d - e), 0.0)"
        return higher, *(
            b.map(text, total, fade, score, self.unit, higher, inside, dtype="f32", hint="mass")
            for total, score in zip(sums, scores, strict=True)
        )

    def store(self, state: list[Value], row: Value, kv_head: Value, part: Value) -> None:
        """Write what a program has summed up."""
        b, (tops, *sums) = self.b, state
        top = b.reduce("max", b.reduce("max", tops, 0), 0, hint="top")
        for member, total in enumerate(sums):
            text = f"a * {self.group} + {member}"
            head = b.map(text, kv_head, dtype="i32", hint="head")
            weight = b.map("a * exp2(b - c)", total, tops, top, hint="weight")
            mass = b.reduce("sum", b.reduce("sum", weight, 0), 0, hint="mass")
            for buffer, value in zip(self.buffers, (top, mass), strict=True):
                b.store(buffer, row, head, part, value)
