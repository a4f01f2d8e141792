"""Labels that several rows share are read once, and scored for all of them; each selects by itself.

Rows of a fork have the same first pages. `runtime.attention.label_groups` finds them: a group is a
few rows and how many first pages they share. The kernel here leaves the steps of these pages'
tokens, and counts of steps, for every row of a group; `word_scores` goes on where it ends. Rows of
a group are cut into parts at the same pages (`span`), so that a part's labels are the same for all.

Labels are the left side of one product of bytes on tensor cores, and the right side has a column
for each query head of each row. A thread of an m16n8 product holds columns 2 t and 2 t + 1 of each
eight, so these are heads of row t: the largest over a row's heads needs no other thread.
"""

from __future__ import annotations

from dataclasses import replace

from ....ir.core import Operation, Value
from .packed_counts import KINDS, add_counts, no_counts_apart, sum_counts
from .row_parts import PARTS, extent
from .step_words import WIDTH, pack
from .word_labels import WordScores
from .word_scores import Scoring

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
        self.span = self.middle(row)
        shared = b.load(self.pages, group, hint="shared")
        text = "where(a >= 0, min(b, c), 0)"
        ends = b.map(text, real, self.span.part(part)[1], shared, dtype="i32", hint="ends")
        text = f"min(a, (b + {page - 1}) // {page})"
        self.high = b.map(text, b.reduce("max", ends, 0), b.load(self.lengths, whose), dtype="i32",
                          hint="high")  # fmt: skip
        self.right, self.shifts = self._right(group)
        reach = [b.load(self.rounded.reach, row, head, b.full(place, "i32")) for place in range(2)]
        self.top, self.factor = (b.expand(x, 0) for x in reach)
        self.start = b.expand(b.load(self.place.base, row, hint="base"), 0)
        self.ends = b.expand(ends, 0)
        counts = no_counts_apart(b, s.keys, s.members)
        start = *counts, *self._following(low, self._pages(low, 0))
        with b.loop(low, self.high, *start, step=tall, hint="page") as loop:
            loop.yields(*self._round(loop.index, loop.carried))
        counted = sum_counts(b, loop.results[:4], columns=True)
        kept = b.map("a > b", b.reduce("max", self.ends, 0), low, dtype="bool", hint="kept")
        b.store(self.coarse, b.expand(row, 1), head, part, b.expand(b.iota(KINDS), 0), counted,
                mask=b.expand(kept, 1))  # fmt: skip
        facts = (*self.facts, "0 <= Q", "Q <= B", f"QM == Q * {s.members}",
                 "-1 <= group_rows[*] < B", "0 <= group_pages[*]")  # fmt: skip
        grid = (s.labels.kv_heads, "Q", extent(PARTS, s.labels.kv_heads))
        return b.finish(*grid, requires=facts, of="graph.select")

    def _round(self, index: Value, state: list[Value]) -> tuple[Value, ...]:
        """Score the pages from `index` on for all rows; the state has counts, the page ids of the
        next round and the labels of this one."""
        b = self.b
        after = b.map(f"a + {self.shape.rows}", index, dtype="i32", hint="after")
        following = self._following(after, state[4])
        number = b.map("a + b", index, self.ahead, dtype="i32", hint="number")
        score = self._scores(state[5])
        number, offset = b.expand(number, 1), b.expand(self.offset, 1)
        inside = self.span.inside(number, offset, self.ends)
        step = self.step(score, self.top, self.factor)
        step = b.map("where(b, a, 0)", step, inside, dtype="i32", hint="step")
        self._keep(index, step)
        kinds = b.map("a >> 4", step, dtype="i32", hint="kind")
        return *add_counts(b, state[:4], kinds), *following

    def _keep(self, index: Value, steps: Value) -> None:
        """Write the steps [keys, members] of the pages from `index` on."""
        b, s, page = self.b, self.shape, self.shape.labels.page
        words = pack(b, steps, 0)
        lane = b.expand(b.iota(s.keys // WIDTH), 1)
        text = f"a + b // {page // WIDTH}"
        number = b.map(text, index, lane, dtype="i32", hint="number")
        word = b.map(f"a % {page // WIDTH}", lane, dtype="i32", hint="word")
        mine = b.map("a < b", number, self.ends, dtype="bool", hint="mine")
        at = b.map(f"a // {page} + b", self.start, number, dtype="i32", hint="at")
        b.store(self.bins, at, self.head, word, words, mask=mine)

    def _pages(self, index: Value, rounds: int) -> Value:
        """Return the ids [keys] of the pages of a round that comes so many rounds after `index`."""
        b, ahead = self.b, rounds * self.shape.rows
        number = b.map(f"a + b + {ahead}", index, self.ahead, dtype="i32", hint="number")
        return self.page(number, b.map("a < b", number, self.high, hint="there"))

    def _following(self, index: Value, page: Value) -> tuple[Value, Value]:
        """Return the page ids of the round after that of `index`, and the labels of that round
        [keys, words], whose pages are known."""
        b = self.b
        page = b.map("max(min(a, b - 1), 0)", page, self.pool_pages, dtype="i32", hint="page_id")
        number = b.map("a + b", index, self.ahead, dtype="i32", hint="number")
        there = b.map("a < b", number, self.high, hint="there")
        word = b.expand(b.iota(self.channels * self.bits // 32), 0)
        text = f"a & (b < {self.words})"
        known = b.map(text, b.expand(there, 1), word, dtype="bool", hint="known")
        codes = b.load(self.pool, b.expand(page, 1), self.head, word, b.expand(self.offset, 1),
                       mask=known, hint="codes")  # fmt: skip
        return self._pages(index, 1), codes

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
        words = b.load(self.rounded.query, row, self.head, place, mask=there, hint="words")
        text = f"(a >> (((b // {1 + packed}) % 4) * 8)) & 255"
        right = b.map(text, words, channel, dtype="i32", hint="byte")
        right = b.map("a - (a >> 7) * 256", right, dtype="i8", hint="right")
        return right, b.expand(
            b.load(self.rounded.bias, row, self.head, column_head, hint="shift"), 0
        )

    @property
    def channels(self) -> int:
        """Channels of the product: those of labels, then zeros up to a power of two."""
        return max(LEAST, _power_of_two(self.shape.labels.channels))

    @property
    def columns(self) -> int:
        """Columns of the product: a power of two of heads of each row, some of them twice."""
        return max(16, _power_of_two(self.shape.group) * self.shape.members)

    @property
    def bits(self) -> int:
        """Bits of a channel."""
        return 4 if self.shape.labels.format == "i4" else 8

    def _scores(self, codes: Value) -> Value:
        """Return the scores of some tokens for each row [keys, members]."""
        b, s = self.b, self.shape
        blank = b.full(0, "i32", s.keys, self.columns)
        blank = b.map("a - b", blank, self.shifts, dtype="i32", hint="blank")
        products = b.dot(b.unpack(codes, self.bits), self.right, blank)
        each = b.reshape(products, s.keys, self.columns // 2 // s.members, s.members, 2)
        return b.reduce("max", b.reduce("max", each, 3), 1, hint="score")
