"""The rows of a tile of query heads: what a list says of them, where q and their results lie.

A lane of a tile is one query head of a row: the heads of a key head's group stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....ir.core import Value
from ..builder import KernelBuilder
from .join import QUOTIENT

if TYPE_CHECKING:
    from .parts import Parts


@dataclass(frozen=True)
class Lanes:
    """The query heads [L] of one key head that the lanes of a tile have, the channels [1, C], and
    their columns [L, C] of q."""

    head: Value
    channel: Value
    column: Value

    @staticmethod
    def of(b: KernelBuilder, shape: Parts, kv_head: Value, lane: Value, channel: Value) -> Lanes:
        """Return those of so many lanes."""
        group = f"a * {shape.group} + b % {shape.group}"
        head = b.map(group, kv_head, lane, dtype="i32", hint="head")
        column = b.map(f"a * {shape.head_dim} + b", b.expand(head, 1), channel, dtype="i32",
                       hint="column")  # fmt: skip
        return Lanes(head, channel, column)

    def read(self, b: KernelBuilder, q: Value, query: Value, live: Value) -> Value:
        """Return the tile [L, C] of each lane's query; zeros where there is none."""
        return b.load(q, b.expand(query, 1), self.column, mask=b.expand(live, 1), hint="q_tile")


def listed(
    b: KernelBuilder, lists: Sequence[Value], place: Value, live: Value
) -> tuple[Value, Value, Value]:
    """Return each lane's query, how many keys it sees, and its slot or -1, from its place in the
    lists row_query, row_limit and row_slot; where none is `live` query 0, which sees no key."""
    query, limit, slot = (
        b.load(buffer, place, mask=live, other=other, hint=buffer.name[4:])
        for buffer, other in zip(lists, (0, 0, -1), strict=True)
    )
    return query, limit, slot


@dataclass(frozen=True)
class Results:
    """Where the states (maximum, sum, weighted values) of rows go: to their slots of m, l [S, H]
    and acc [S, H, C], or, of a row without one, which is finished, its result to out [T, H * C]."""

    m: Value
    l: Value  # noqa: E741
    acc: Value
    out: Value

    def store(
        self, b: KernelBuilder, lanes: Lanes, rows: tuple[Value, Value, Value],
        state: Sequence[Value],
    ) -> None:  # fmt: skip
        """Write a tile's state; `rows` are each lane's query, its slot, and whether it is live."""
        (query, slot, live), (top, total, acc) = rows, state
        kept = b.map("a >= 0", slot, hint="kept")
        for target, value in ((self.m, top), (self.l, total)):
            b.store(target, slot, lanes.head, value, mask=kept)
        places = (b.expand(slot, 1), b.expand(lanes.head, 1), lanes.channel)
        b.store(self.acc, *places, acc, mask=b.expand(kept, 1))
        done = b.expand(b.map("a & (b < 0)", live, slot, dtype="bool", hint="done"), 1)
        result = b.map(QUOTIENT, acc, b.expand(total, 1), hint="result")
        b.store(self.out, b.expand(query, 1), lanes.column, result, mask=done)
