"""Decode attention over chosen keys: a list of tokens or of pages for each sequence and key head.

It is `attention.decode` with one indirection more: what a round reads is named by a list. With a
list of all tokens, or of all pages, the arithmetic is that of dense decode, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ....ir.dialects.tile import extents_of
from ..attention.paged import _QUOTIENT, Attention, _Common
from ..builder import KernelBuilder
from ..selection.labels import Scores
from ..selection.tail import Tail


@dataclass(frozen=True)
class Gathered(Attention):
    """The static shape: of `attention.decode`, whether lists hold tokens or pages, and how the
    tail was scored (None: what is not read does not count)."""

    unit: str = "token"
    tail: Scores | None = None


def gathered_decode(shape: Gathered) -> Operation:
    """Return attention of one query a sequence over its chosen keys.

    Arguments: B, N, MAXP, L = MAXP * P, q [B, H * C], page_table [B, MAXP], kv_lengths [B], chosen
    [B, K, L], counts [B, K], k, v [N, K, P, C], out [B, H * C]; with a tail, what `tail.Tail`
    declares.
    """
    return _Gathered(shape).kernel()


class _Gathered(_Common):
    def kernel(self) -> Operation:
        s: Gathered = self.shape  # type: ignore[assignment]
        tail = f"_tail_{s.tail.labels.channels}_{s.tail.labels.format}" if s.tail else ""
        b = self.b = KernelBuilder(s.name(f"gathered_{s.unit}{tail}"))
        for extent in ("B", "N", "MAXP", "L"):
            b.scalar(extent)
        width = s.heads * s.head_dim
        q = b.buffer("q", "f32", "B", width)
        self.table = b.buffer("page_table", "i32", "B", "MAXP")
        lengths = b.buffer("kv_lengths", "i32", "B")
        self.chosen = b.buffer("chosen", "i32", "B", s.kv_heads, "L")
        counts = b.buffer("counts", "i32", "B", s.kv_heads)
        self._pools()
        out = b.buffer("out", "f32", "B", width)
        self.tail = Tail(b, s.tail) if s.tail else None
        return self.attend(q, lengths, counts, out, (*self._facts(), f"L == MAXP * {s.page}"))

    def attend(
        self, q: Value, lengths: Value, counts: Value, out: Value, facts: tuple[str, ...]
    ) -> Operation:
        """Return the kernel, its arguments declared: a program a sequence and key head."""
        b, s = self.b, self.shape
        self._constants()
        self.kv_head, self.sequence = b.program_id(0, "kv_head"), b.program_id(1, "sequence")
        self.length = b.load(lengths, self.sequence, hint="length")
        self.count = b.load(counts, self.sequence, self.kv_head, hint="count")
        self.count = b.map("min(a, b)", self.count, b.map("a", self.length), hint="count")
        column = self._head_columns(b.expand(b.iota(s.group), 1))
        query = b.map(f"a * {s.factor!r}", b.load(q, self.sequence, column), hint="q_scaled")
        if self.tail:
            self._enter(self.tail, q, query)
        _, total, acc = self._rounds(query, s)  # type: ignore[arg-type]
        b.store(out, self.sequence, column, b.map(_QUOTIENT, acc, b.expand(total, 1)))
        return b.finish(s.kv_heads, "B", requires=facts, of="graph.partial")

    def _rounds(self, query: Value, s: Gathered) -> list[Value]:
        """Return the state over the list, a page of keys at a time."""
        b, zero, pages = self.b, self.b.full(0, "i32"), s.unit == "page"
        step, tail = 1 if pages else s.page, self.tail
        start = [*self._empty(s.group)]
        start += [b.full(0.0, "f32", s.group, s.page)] if tail else []
        with b.loop(zero, self.count, *start, step=step, hint="entry") as loop:
            page, key = self._page(loop.index) if pages else self._tokens(loop.index)
            state, read = loop.carried[:3], loop.carried[3:]
            after = self._step(page, key, query, (None, self.length), state)
            more = [b.map("a + b", read[0], self._labelled(tail, page, key))] if tail else []
            loop.yields(*after, *more)
        if tail is None:
            return loop.results
        return [*tail.join(tuple(loop.results[:3]), b.reduce("sum", loop.results[3], 1), None)]

    def _enter(self, tail: Tail, q: Value, query: Value) -> None:
        """Have the tail read what it needs of the sequence."""
        b, s = self.b, self.shape
        head = b.map(f"a * {s.group} + b", self.kv_head, b.iota(s.group), dtype="i32", hint="head")
        channel = b.expand(b.iota(tail.shape.labels.channels), 0)
        column = b.map(f"a * {s.head_dim} + b", b.expand(head, 1), channel, dtype="i32",
                       hint="column")  # fmt: skip
        q_label = b.map(f"a * {s.factor!r}", b.load(q, self.sequence, column), hint="q_label")

        def page_at(number: Value, mask: Value) -> Value:
            return b.load(self.table, self.sequence, number, mask=mask, hint="page_id")

        tail.enter(self.sequence, self.kv_head, head, self.length, query, q_label, page_at)

    def _labelled(self, tail: Tail, page: Value, key: Value) -> Value:
        """Return the label weights of a block of keys [g, P]."""
        b = self.b
        inside = b.map("a < b", key, self.length, dtype="bool", hint="inside")
        channel, tokens = b.expand(b.iota(tail.shape.labels.channels), 0), extents_of(page.type)
        page, offset = (b.expand(page, 1), self.slot) if tokens else (page, self.offset)
        k = b.load(self.k_pool, page, self.kv_head, b.expand(offset, 1), channel,
                   mask=b.expand(inside, 1), dtype="f32", hint="k_label")  # fmt: skip
        return tail.read(key, inside, k)

    def _page(self, entry: Value) -> tuple[Value, Value]:
        """Return the page that a list names and the positions of its keys."""
        b, s = self.b, self.shape
        place = b.load(self.chosen, self.sequence, self.kv_head, entry, hint="chosen")
        place = b.map(f"max(min(a, (b - 1) // {s.page}), 0)", place, self.length, dtype="i32",
                      hint="chosen")  # fmt: skip
        page = b.load(self.table, self.sequence, place, hint="page_id")
        return page, b.map(f"a * {s.page} + b", place, self.offset, dtype="i32", hint="key")

    def _tokens(self, entry: Value) -> tuple[Value, Value]:
        """Return the pages and positions of a block of chosen keys; past the list's end, the
        position past the last key, which nobody reads."""
        b, s = self.b, self.shape
        place = b.map("a + b", entry, self.offset, dtype="i32", hint="place")
        inside = b.map("a < b", place, self.count, hint="inside")
        key = b.load(self.chosen, self.sequence, self.kv_head, place, mask=inside, hint="chosen")
        key = b.map("where(a, max(min(b, c - 1), 0), c)", inside, key, self.length, dtype="i32",
                    hint="key")  # fmt: skip
        self.slot = b.map(f"a % {s.page}", key, dtype="i32", hint="slot")
        there = b.map("a < b", key, self.length, hint="there")
        index = b.map(f"a // {s.page}", key, dtype="i32", hint="index")
        return b.load(self.table, self.sequence, index, mask=there, hint="page_id"), key

    def _rows(self, pool: Value, page: Value, inside: Value) -> Value:
        if not extents_of(page.type):
            return super()._rows(pool, page, inside)
        b = self.b
        rows = b.load(pool, b.expand(page, 1), self.kv_head, b.expand(self.slot, 1),
                      b.expand(self.channel, 0), mask=inside)  # fmt: skip
        return rows if self.shape.kv == "f32" else b.map("f32(a)", rows)
