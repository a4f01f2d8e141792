"""What labels say of the tokens that decode does not read: their weight, by query head, summed up
while they are scored.

Kept as the online softmax is: the largest score so far, and lane by lane the sum of 2^(score - it).
"""

from __future__ import annotations

from ...ir.core import Value
from .builder import KernelBuilder

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
