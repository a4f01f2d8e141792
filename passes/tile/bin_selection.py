"""The kernel that selects the keys in the highest steps of score, without sorting, in one pass.

`word_labels` has left the step of each token's score, and `step_counts` how many tokens of each
share of a row have the steps that matter (`bin_boundary`). Programs write all shares side by side.
In one share at most some tokens of the last step are taken and others not; all others take every
token from a step on.
"""

from __future__ import annotations

from ...ir.core import Operation, Value
from ...ir.sparse import MOST_SHARES
from ...ir.sparse import SCORE_STEPS as BINS
from .bin_boundary import BinSelection, Boundary
from .builder import KernelBuilder
from .packed_counts import KINDS
from .row_parts import SHARES
from .score_place import Place

RUN = 16
"""Tokens that follow each other in a thread."""


def select_bins(shape: BinSelection) -> Operation:
    """Return the kernel; a program writes the choices of a part of one row and key head.

    Arguments: B, C = CP * P, CP, base, kv_lengths (0: nothing is selected), budgets, span [B] (see
    `word_scores`), coarse, bins [CP, K, P] u8, fine (see `step_counts`), chosen [K, C] i32
    (ascending), counts [B, K] i32. Where the shape is adaptive, in place of `coarse` and `fine`
    tally, and worth [B, K] f32 (see `query_words`): all tokens of a step weigh the same.
    """
    return _SelectBins(shape).kernel()


class _SelectBins:
    def __init__(self, shape: BinSelection) -> None:
        self.shape = shape
        amount = f"_at{shape.threshold}" if shape.threshold else f"_p{shape.top_p}"
        name = f"select_bins_{shape.name}" + amount.replace(".", "_") * shape.adaptive
        b = self.b = KernelBuilder(name.replace("-", "m"))
        self.rows, *_ = (b.scalar(extent) for extent in ("B", "C", "CP"))
        self.place = Place(b, True, shape.page, pages=False)
        self.boundary = Boundary(b, self.rows, shape)
        self.bins = b.buffer("bins", "u8", "CP", shape.kv_heads, shape.page)
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
        end = (ends.end_by_worth(self.tally, self.worth, self.part) if s.adaptive
               else ends.end(self.fine, self.part))  # fmt: skip
        self.limit, self.ties, self.span, self.length = end.limit, end.ties, ends.span, ends.length
        text = "where((a < c) & (a + b > c), 1, 0)"
        some = b.map(text, end.tied, end.mine, self.ties, dtype="i32", hint="some")
        low, high = self.span.part(self.part, SHARES)
        middle = b.map("where(a > 0, b, c)", some, low, high, dtype="i32", hint="middle")
        self._whole(low, middle, end.before, end.tied)
        self._ranked(middle, high, end.before, end.tied)
        self._ends(ends.want)
        facts = ("B >= 0", f"C == CP * {s.page}", *self.place.facts)
        return b.finish(s.kv_heads, "B", SHARES, requires=facts, of="graph.select")

    def _tokens(self, base: Value, high: Value) -> tuple[Value, Value]:
        """Return the positions and steps of some tokens, `RUN` in a thread; 0 past the end."""
        b, s = self.b, self.shape
        run = min(RUN, s.page)
        first = b.expand(b.map(f"a * {run}", b.iota(s.rows * s.page // run), dtype="i32"), 1)
        lane = b.map("a + b", first, b.expand(b.iota(run), 0), dtype="i32", hint="lane")
        number = b.map(f"a + b // {s.page}", base, lane, dtype="i32", hint="number")
        offset = b.map(f"a % {s.page}", lane, dtype="i32", hint="offset")
        there = b.map("a < b", number, high, hint="there")
        at = b.map(f"a // {s.page} + b", self.place.start, number, dtype="i32", hint="at")
        step = b.load(self.bins, at, self.head, offset, mask=there, dtype="i32", hint="step")
        unit = b.map(f"a * {s.page} + b", number, offset, dtype="i32", hint="unit")
        return unit, step

    def _whole(self, low: Value, high: Value, before: Value, tied: Value) -> None:
        """Write a part's choices where those of the last step are all taken, or none of them."""
        b, s = self.b, self.shape
        text = "where(a < b, c, c + 1)"
        least = b.map(text, tied, self.ties, self.limit, dtype="i32", hint="least")
        text = "a + b + min(c, d) - 1"
        over = b.map(text, self.span.first, before, tied, self.ties, dtype="i32", hint="over")
        with b.loop(low, high, over, step=s.rows, hint="page") as loop:
            unit, step = self._tokens(loop.index, high)
            take = b.map("a >= b", step, least, dtype="bool", hint="take")
            mark = b.map("where(a, 1, 0)", take, dtype="i32", hint="mark")
            each = b.reduce("sum", mark, 1, hint="each")
            text = "a + b - c"
            runs = b.map(text, loop.carried[0], b.scan(each, 0), each, dtype="i32", hint="runs")
            place = b.map("a + b", b.scan(mark, 1), b.expand(runs, 1), dtype="i32", hint="place")
            self._put(place, unit, take)
            more = b.reduce("sum", each, 0, hint="more")
            loop.yields(b.map("a + b", loop.carried[0], more, dtype="i32", hint="over"))

    def _ranked(self, low: Value, high: Value, before: Value, tied: Value) -> None:
        """Write a part's choices where some of the last step are taken, from the lowest position
        up: marks count tokens above it in their low half, and those in it in their high half."""
        b, s = self.b, self.shape
        with b.loop(low, high, before, tied, step=s.rows, hint="page") as loop:
            over, tied = loop.carried
            unit, step = self._tokens(loop.index, high)
            text = "where(a > b, 1, where(a == b, 65536, 0))"
            mark = b.map(text, step, self.limit, dtype="i32", hint="mark")
            each = b.reduce("sum", mark, 1, hint="each")
            runs = b.map("a - b", b.scan(each, 0), each, dtype="i32", hint="runs")
            ranks = b.map("a + b", b.scan(mark, 1), b.expand(runs, 1), dtype="i32", hint="ranks")
            rank = b.map("a + (b >> 16)", tied, ranks, dtype="i32", hint="rank")
            text = "((a & 1) == 1) | ((a > 65535) & (b <= c))"
            take = b.map(text, mark, rank, self.ties, dtype="bool", hint="take")
            text = "a + b + (c & 65535) + min(d, e) - 1"
            place = b.map(text, self.span.first, over, ranks, rank, self.ties, dtype="i32",
                          hint="place")  # fmt: skip
            self._put(place, unit, take)
            marks = b.reduce("sum", each, 0, hint="marks")
            loop.yields(b.map("a + (b & 65535)", over, marks, dtype="i32"),
                        b.map("a + (b >> 16)", tied, marks, dtype="i32"))  # fmt: skip

    def _ends(self, want: Value) -> None:
        """The first part writes the forced tokens around the middle, and how many are chosen."""
        b, s, span = self.b, self.shape, self.span
        lane = b.iota(max(s.sinks, s.recent, 1))
        mine, zero = b.map("a == 0", self.part, hint="mine"), b.full(0, "i32")
        low = b.map("where(a, b, c)", mine, span.first, zero, dtype="i32", hint="low")
        self._put(lane, lane, b.map("a < b", lane, low, dtype="bool"))
        unit = b.map("a + b", span.last, lane, dtype="i32", hint="unit")
        place = b.map("a + b + c", span.first, want, lane, dtype="i32", hint="place")
        high = b.map("where(a, b, c)", mine, self.length, zero, dtype="i32", hint="high")
        self._put(place, unit, b.map("a < b", unit, high, dtype="bool"))
        text = "a + b + c - d"
        count = b.map(text, span.first, want, self.length, span.last, dtype="i32", hint="count")
        b.store(self.counts, self.row, self.head, count, mask=mine)

    def _put(self, place: Value, unit: Value, take: Value) -> None:
        text = "a & (b >= 0) & (b < c)"
        kept = self.b.map(text, take, place, self.length, dtype="bool", hint="kept")
        self.b.store(self.chosen, *self.place.at(place), unit, mask=kept)
