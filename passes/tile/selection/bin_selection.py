"""The kernel that selects the keys in the highest steps of score, without sorting, in one pass.

`word_scores` has left the step of each token's score, and `step_counts` how many tokens of each
share of a row have the steps that matter (`bin_boundary`). Programs write all shares side by side.
In one share at most some tokens of the last step are taken and others not; all others take every
token from a step on.
"""

from __future__ import annotations

from ....ir.core import Operation, Value
from ....ir.sparse.policy import MOST_SHARES
from ....ir.sparse.policy import SCORE_STEPS as BINS
from ..builder import KernelBuilder
from .bin_boundary import BinSelection, Boundary, Ending
from .packed_counts import KINDS
from .row_parts import SHARES, extent
from .score_place import Place
from .selection import amount_name
from .step_words import WIDTH, AtLeast, bits, count_bits, lowest_place

RUN = 32
"""Tokens that follow each other in a thread: a bit each."""

AT_ONCE = 4
"""Words that a thread loads at once: sixteen bytes."""


def select_bins(shape: BinSelection) -> Operation:
    """Return the kernel; a program writes the choices of a part of one row and key head.

    Arguments: B, C = CP * P, CP, base, kv_lengths (0: nothing is selected), budgets, span [B] (see
    `word_scores`), coarse, bins [CP, K, P / 4] i32, fine (see `step_counts`), chosen [K, C] i32
    (by position, ascending), counts [B, K] i32. With `slots` also N, E, pages [E], row_page [B].
    Where the shape is adaptive, in place of `coarse` and `fine` tally, and worth [B, K] f32 (see
    `query_words`): all tokens of a step weigh the same.
    """
    return _SelectBins(shape).kernel()


class _SelectBins:
    def __init__(self, shape: BinSelection) -> None:
        self.shape = shape
        kind = "worth" if shape.adaptive else "bins"
        name = f"select_{kind}_{shape.name}" + amount_name(shape.threshold, shape.top_p)
        b = self.b = KernelBuilder(name + "_slots" * shape.slots)
        extents = ("B", "N", "E") if shape.slots else ("B",)
        self.rows, *_ = (b.scalar(extent) for extent in (*extents, "C", "CP"))
        self.place = Place(b, True, shape.page, pages=shape.slots)
        self.boundary = Boundary(b, self.rows, shape)
        self.bins = b.buffer("bins", "i32", "CP", shape.kv_heads, shape.page // WIDTH)
        sizes = ("B", shape.kv_heads, MOST_SHARES)
        if shape.adaptive:
            self.tally = b.buffer("tally", "i32", *sizes, BINS)
            self.worth = b.buffer("worth", "f32", "B", shape.kv_heads)
        else:
            self.fine = b.buffer("fine", "i32", *sizes, KINDS)
        self.chosen = b.buffer("chosen", "i32", shape.kv_heads, "C")
        self.counts = b.buffer("counts", "i32", "B", shape.kv_heads)

    def kernel(self) -> Operation:
        b, s, ends = self.b, self.shape, self.boundary
        axes = enumerate(("kv_head", "row", "part"))
        self.head, self.row, self.part = (b.program_id(axis, name) for axis, name in axes)
        self.place.enter(self.head, self.row)
        ends.enter(self.head, self.row)
        self.span, self.length = ends.span, ends.length
        low, self.high = self.span.part(self.part, SHARES)
        ahead = self._read(low)  # before what it need not wait for
        end = (ends.end_by_worth(self.tally, self.worth, self.part) if s.adaptive
               else ends.end(self.fine, self.part))  # fmt: skip
        self._middle(low, ahead, end)
        self._ends(ends.want)
        facts = ("B >= 0", f"C == CP * {s.page}", *self.place.facts)
        grid = (s.kv_heads, "B", extent(SHARES, s.kv_heads, s.pairs))
        return b.finish(*grid, requires=facts, of="graph.select")

    def _middle(self, low: Value, ahead: list[Value], end: Ending) -> None:
        """Write a part's choices of the middle: those above the last step, and of that as many as
        are left. The words of a round are read while those of the one before are listed."""
        b, s = self.b, self.shape
        above = b.map("a + 1", end.limit, dtype="i32", hint="above")
        self.least = [AtLeast(b, least) for least in (end.limit, above)]
        text = "a + b + min(c, d)"
        at = b.map(text, self.span.first, end.before, end.tied, end.ties, dtype="i32", hint="at")
        left = b.map("max(a - b, 0)", end.ties, end.tied, dtype="i32", hint="left")
        with b.loop(low, self.high, at, left, *ahead, step=s.rows, hint="page") as loop:
            at, left, *words = loop.carried
            following = self._read(b.map(f"a + {s.rows}", loop.index, dtype="i32", hint="after"))
            unit, over, tied = self._runs(words)
            text = "a | (b << 16)"
            counts = [count_bits(b, over), count_bits(b, tied)]
            each = b.map(text, *counts, dtype="i32", hint="each")
            before = b.map("a - b", b.scan(each, 0), each, dtype="i32", hint="before")
            text = "max(min(a - (b >> 16), c), 0)"
            kept = b.map(text, left, before, counts[1], dtype="i32", hint="kept")
            text = "a + (b & 65535) + min(c, b >> 16)"
            place = b.map(text, at, before, left, dtype="i32", hint="place")
            self._put_runs(place, unit, over, tied, kept)
            found = b.reduce("sum", each, 0, hint="found")
            text = "a + (b & 65535) + min(c, b >> 16)"
            loop.yields(b.map(text, at, found, left, dtype="i32", hint="at"),
                        b.map("max(a - (b >> 16), 0)", left, found, dtype="i32"),
                        *following)  # fmt: skip

    def _read(self, base: Value) -> list[Value]:
        """Return what the page of each run of some pages counts as in what is written, and the
        run's words, some at a time; 0 past the end."""
        b, s = self.b, self.shape
        run, lane = self._lanes()
        each, words = s.page // run, run // WIDTH
        number = b.map(f"a + b // {each}", base, lane, dtype="i32", hint="number")
        inside = b.map("a < b", number, self.high, hint="there")
        text = f"a // {s.page} + b"
        at = b.expand(b.map(text, self.place.start, number, dtype="i32", hint="at"), 1)
        first = b.expand(b.map(f"a % {each} * {words}", lane, dtype="i32", hint="first"), 1)
        few, there = min(words, AT_ONCE), b.expand(inside, 1)
        parts = [self._page(number, inside)]
        for part in range(words // few):
            text = f"a + b + {part * few}"
            word = b.map(text, first, b.expand(b.iota(few), 0), dtype="i32", hint="word")
            parts.append(b.load(self.bins, at, self.head, word, mask=there, hint="steps"))
        return parts

    def _lanes(self) -> tuple[int, Value]:
        """Return how many tokens a run has, and the runs that are looked at at a time."""
        run = min(RUN, self.shape.page)
        return run, self.b.iota(self.shape.rows * self.shape.page // run)

    def _runs(self, words: list[Value]) -> tuple[Value, Value, Value]:
        """Return what the first token of each run that was read is written as, and which of its
        tokens are above the last step and in it, as bits; none past the end."""
        b, s = self.b, self.shape
        page, *parts = words
        some, over = (bits(b, [least.marks(x) for x in parts]) for least in self.least)
        run, lane = self._lanes()
        text = f"a * {s.page} + b % {s.page // run} * {run}"
        unit = b.map(text, page, lane, dtype="i32", hint="unit")
        return unit, over, b.map("a ^ b", some, over, dtype="i32", hint="tied")

    def _page(self, number: Value, there: Value) -> Value:
        """Return what pages of the row count as in what is written."""
        if not self.shape.slots:
            return number
        assert self.place.pages is not None
        entry = self.b.map("a + b", self.place.entry, number, dtype="i32", hint="entry")
        return self.b.load(self.place.pages, entry, mask=there, hint="page_id")

    def _put_runs(self, place: Value, unit: Value, over: Value, tied: Value, kept: Value) -> None:
        """Write a run's choices from the lowest up: what is over, and the first `kept` tied."""
        b = self.b
        text = "a | where(c > 0, b, 0)"
        left = b.map(text, over, tied, kept, dtype="i32", hint="left")
        most = b.reduce("max", count_bits(b, left), 0, hint="most")
        with b.loop(b.full(0, "i32"), most, left, place, kept, hint="choice") as loop:
            left, place, kept = loop.carried
            lowest = b.map("a & (0 - a)", left, dtype="i32", hint="lowest")
            equal = b.map("where((a & b) != 0, 1, 0)", lowest, tied, dtype="i32", hint="equal")
            text = "where((a != 0) & ((b == 0) | (c > 0)), 1, 0)"
            take = b.map(text, lowest, equal, kept, dtype="i32", hint="take")
            at = b.map("a + b", unit, lowest_place(b, lowest), dtype="i32", hint="at")
            self._put(place, at, b.map("a > 0", take, dtype="bool"))
            loop.yields(b.map("a ^ b", left, lowest, dtype="i32"),
                        b.map("a + b", place, take, dtype="i32"),
                        b.map("a - b", kept, equal, dtype="i32"))  # fmt: skip

    def _ends(self, want: Value) -> None:
        """The first part writes the forced tokens around the middle, and how many are chosen."""
        b, s, span = self.b, self.shape, self.span
        lane = b.iota(max(s.sinks, s.recent, 1))
        mine, zero = b.map("a == 0", self.part, hint="mine"), b.full(0, "i32")
        low = b.map("where(a, b, c)", mine, span.first, zero, dtype="i32", hint="low")
        self._put(lane, *self._forced(lane, low))
        unit = b.map("a + b", span.last, lane, dtype="i32", hint="unit")
        place = b.map("a + b + c", span.first, want, lane, dtype="i32", hint="place")
        high = b.map("where(a, b, c)", mine, self.length, zero, dtype="i32", hint="high")
        self._put(place, *self._forced(unit, high))
        text = "a + b + c - d"
        count = b.map(text, span.first, want, self.length, span.last, dtype="i32", hint="count")
        b.store(self.counts, self.row, self.head, count, mask=mine)

    def _forced(self, unit: Value, end: Value) -> tuple[Value, Value]:
        """Return what is written of some positions, and which are before an end."""
        b, page = self.b, self.shape.page
        take = b.map("a < b", unit, end, dtype="bool", hint="take")
        number = self._page(b.map(f"a // {page}", unit, dtype="i32", hint="number"), take)
        text = f"a * {page} + b % {page}"
        return b.map(text, number, unit, dtype="i32", hint="unit"), take

    def _put(self, place: Value, unit: Value, take: Value) -> None:
        text = "a & (b >= 0) & (b < c)"
        kept = self.b.map(text, take, place, self.length, dtype="bool", hint="kept")
        self.b.store(self.chosen, *self.place.at(place), unit, mask=kept)
