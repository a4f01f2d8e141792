"""Labels that several rows share are read once, and scored for all of them; each selects by itself.

Rows of a fork have the same first pages. `runtime.label_groups` finds them: a group is a few rows
and how many first pages they share. The kernel here leaves the steps of these pages' tokens, and
counts of steps, for every row of a group; `word_scores` goes on where it ends. Rows of a group are
cut into parts at the same pages (`span`), so that a part's labels are the same for all.

Labels are the left side of one product of bytes on tensor cores, and the right side has a column
for each query head of each row. A thread of an m16n8 product holds columns 2 t and 2 t + 1 of each
eight, so these are heads of row t: the largest over a row's heads needs no other thread.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.core import Operation, Value
from .packed_counts import KINDS, ROUNDS, add_counts, no_counts, sum_counts
from .row_parts import PARTS
from .word_labels import Scoring, WordScores

LEAST = 32
"""Channels that a product of bytes has, at least."""


def _power_of_two(count: int) -> int:
    """Return the least power of two that is not below a count."""
    return 1 << max(count - 1, 0).bit_length()


def shared_labels(shape: WordScores) -> Operation:
    """Return the kernel; a program scores a part of a group's pages for each of its rows, fewer
    tokens at a time than `word_scores`.

    Arguments: those of `word_scores` but `own`; Q, QM = Q * members, group_pages [Q] (pages that a
    group shares), group_rows [QM] (its rows, the first one always there; -1: none). Q is at most B.
    """
    return _SharedLabels(shape).kernel()


class _SharedLabels(Scoring):
    def __init__(self, shape: WordScores) -> None:
        least = max(16, shape.labels.page)
        keys = max(least, shape.keys // 4)
        super().__init__("shared_labels", replace(shape, keys=keys), "Q", "QM")
        self.pages = self.b.buffer("group_pages", "i32", "Q")
        self.rows = self.b.buffer("group_rows", "i32", "QM")

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        head, group, part = self.enter()
        lane, page, tall = b.iota(s.keys), s.labels.page, s.rows
        self.ahead = b.map(f"a // {page}", lane, dtype="i32", hint="ahead")
        self.offset = b.map(f"a % {page}", lane, dtype="i32", hint="offset")
        whose, _ = self._rows(group, b.full(0, "i32"))
        self.place.enter(head, whose)  # whose pages are read
        low, _ = self.middle(whose).part(part)
        row, real = self._rows(group, b.iota(s.members))
        span, many = self.middle(row), ROUNDS * tall
        shared = b.load(self.pages, group, hint="shared")
        text = "where(a >= 0, min(b, c), 0)"
        ends = b.map(text, real, span.part(part)[1], shared, dtype="i32", hint="ends")
        text = f"min(a, (b + {page - 1}) // {page})"
        high = b.map(text, b.reduce("max", ends, 0), b.load(self.lengths, whose), dtype="i32",
                     hint="high")  # fmt: skip
        right, shifts = self._right(group)
        reach = [b.load(self.most, row, head, b.full(place, "i32")) for place in range(2)]
        top, factor = (b.expand(x, 0) for x in reach)
        start, ends = b.expand(b.load(self.place.base, row, hint="base"), 0), b.expand(ends, 0)
        empty = b.full(0, "i32", s.members, KINDS)
        with b.loop(low, high, empty, step=many, hint="first") as chunk:
            end = b.map(f"min(a + {many}, b)", chunk.index, high, dtype="i32", hint="end")
            counts = no_counts(b, s.keys, s.members)
            with b.loop(chunk.index, end, *counts, step=tall, hint="page") as loop:
                number = b.map("a + b", loop.index, self.ahead, dtype="i32", hint="number")
                score = self._scores(number, b.map("a < b", number, high, hint="there"), right,
                                     shifts)  # fmt: skip
                number, offset = b.expand(number, 1), b.expand(self.offset, 1)
                mine = b.map("a < b", number, ends, dtype="bool", hint="mine")
                step = self.step(score, span.inside(number, offset, mine), top, factor)
                at = b.map(f"a // {page} + b", start, number, dtype="i32", hint="at")
                b.store(self.bins, at, head, offset, step, mask=mine)
                kinds = b.map("a >> 4", step, dtype="i32", hint="kind")
                loop.yields(*add_counts(b, loop.carried, kinds))
            more = sum_counts(b, loop.results, columns=True)
            chunk.yields(b.map("a + b", chunk.carried[0], more, dtype="i32", hint="coarse"))
        kept = b.map("a > b", b.reduce("max", ends, 0), low, dtype="bool", hint="kept")
        b.store(self.coarse, b.expand(row, 1), head, part, b.expand(b.iota(KINDS), 0),
                chunk.results[0], mask=b.expand(kept, 1))  # fmt: skip
        facts = (*self.facts, "0 <= Q", "Q <= B", f"QM == Q * {s.members}",
                 "-1 <= group_rows[*] < B", "0 <= group_pages[*]")  # fmt: skip
        return b.finish(s.labels.kv_heads, "Q", PARTS, requires=facts, of="graph.select")

    def _rows(self, group: Value, number: Value) -> tuple[Value, Value]:
        """Return some rows of the group, the first of the batch where there is none; and what is
        listed, which tells whether there is one."""
        b = self.b
        at = b.map(f"a * {self.shape.members} + b", group, number, dtype="i32", hint="at")
        row = b.load(self.rows, at, hint="member")
        return b.map("max(a, 0)", row, dtype="i32", hint="row"), row

    def _right(self, group: Value) -> tuple[Value, Value]:
        """Return the queries of all rows as bytes [channels, columns], channels in the order in
        which labels are unpacked, and what is taken from each column's products [1, columns]."""
        b, s = self.b, self.shape
        column, channel = b.iota(self.columns), b.expand(b.iota(self.channels), 1)
        text = f"(a // 2) % {s.members}"
        member = b.map(text, column, dtype="i32", hint="member")
        text = f"((a // {2 * s.members}) * 2 + a % 2) % {s.group}"
        column_head = b.map(text, column, dtype="i32", hint="query_head")
        row, _ = self._rows(group, member)
        packed = s.labels.format == "i4"
        text = f"a // 8 + (a % 2) * {self.words}" if packed else "a // 4"
        word = b.map(text, channel, dtype="i32", hint="word")
        there = b.map(f"a < {s.labels.channels}", channel, hint="known")
        text = f"a * {s.bytes} + min(b, {s.bytes - 1})"
        place = b.map(text, column_head, word, dtype="i32", hint="place")
        words = b.load(self.query, row, self.head, place, mask=there, hint="words")
        text = f"(a >> (((b // {1 + packed}) % 4) * 8)) & 255"
        right = b.map(text, words, channel, dtype="i32", hint="byte")
        right = b.map("a - (a >> 7) * 256", right, dtype="i8", hint="right")
        return right, b.expand(b.load(self.bias, row, self.head, column_head, hint="shift"), 0)

    @property
    def channels(self) -> int:
        """Channels of the product: those of labels, then zeros up to a power of two."""
        return max(LEAST, _power_of_two(self.shape.labels.channels))

    @property
    def columns(self) -> int:
        """Columns of the product: a power of two of heads of each row, some of them twice."""
        return max(16, _power_of_two(self.shape.group) * self.shape.members)

    def _scores(self, number: Value, there: Value, right: Value, shifts: Value) -> Value:
        """Return the scores of some tokens for each row [keys, members]."""
        b, s = self.b, self.shape
        bits = 4 if s.labels.format == "i4" else 8
        word = b.expand(b.iota(self.channels * bits // 32), 0)
        text = f"a & (b < {self.words})"
        known = b.map(text, b.expand(there, 1), word, dtype="bool", hint="known")
        codes = b.load(self.pool, b.expand(self.page(number, there), 1), self.head, word,
                       b.expand(self.offset, 1), mask=known, hint="codes")  # fmt: skip
        blank = b.full(0, "i32", s.keys, self.columns)
        blank = b.map("a - b", blank, shifts, dtype="i32", hint="blank")
        products = b.dot(b.unpack(codes, bits), right, blank)
        each = b.reshape(products, s.keys, self.columns // 2 // s.members, s.members, 2)
        return b.reduce("max", b.reduce("max", each, 3), 1, hint="score")
