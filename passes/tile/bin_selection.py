"""The kernels that select the keys in the highest steps of score, without sorting, in one pass.

`word_labels` has left the step of each token's score, and how many tokens of each part of a row
are in each step. `step_bounds` makes of these the step above which all are taken, how many of that
step, from the lowest position up, and where in the row's list each part begins; then `select_bins`
writes all parts side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from ...ir.core import Operation, Value
from ...ir.sparse import MOST_PARTS
from ...ir.sparse import SCORE_STEPS as BINS
from .builder import KernelBuilder
from .score_place import Place
from .word_labels import PARTS, Middle, parts_of

RUN = 8
"""Tokens that follow each other in a thread."""

BOUNDS = 2 * MOST_PARTS + 3
"""What is known of the bounds of a row and key head: of each part, and of all."""


@dataclass(frozen=True)
class BinSelection:
    """The static shape: tokens of pages of `page`; `keys` tokens are looked at at a time. Beside
    the budget one amount more may bound what is taken, `threshold` or `top_p` (`ir.sparse`)."""

    kv_heads: int
    page: int
    sinks: int = 4
    recent: int = 16
    keys: int = 2048
    threshold: float = 0.0
    top_p: float = 0.0

    @property
    def adaptive(self) -> bool:
        """Whether how many are taken depends on what steps are worth."""
        return bool(self.threshold or self.top_p)

    @property
    def name(self) -> str:
        """A name that tells the shape of what selects."""
        return f"select_bins_{self.kv_heads}_{self.page}_{self.sinks}_{self.recent}_{self.keys}"


def step_bounds(shape: BinSelection) -> Operation:
    """Return the kernel that finds from which step on a row's keys are taken.

    Arguments: B, kv_lengths (0: nothing is selected), budgets [B] (the most tokens that may be
    read), tally [B, K, 32, 256] i32, bounds [B, K, 64 + 3] i32: how many tokens above the step and
    how many in it the parts before each part have, 32 each, then the step, how many of it are
    taken, and how many tokens of the middle in all; counts [B, K] i32. Where the shape is adaptive,
    then worth [B, K] f32 (see `query_words`): all tokens of a step weigh the same.
    """
    return _StepBounds(shape).kernel()


class _StepBounds:
    def __init__(self, shape: BinSelection) -> None:
        self.shape = shape
        amount = f"_at{shape.threshold}" if shape.threshold else f"_p{shape.top_p}"
        name = shape.name.replace("select_bins", "step_bounds") + amount * shape.adaptive
        b = self.b = KernelBuilder(name.replace(".", "_"))
        self.rows = b.scalar("B")
        self.lengths, self.budgets = (b.buffer(n, "i32", "B") for n in ("kv_lengths", "budgets"))
        self.tally = b.buffer("tally", "i32", "B", shape.kv_heads, MOST_PARTS, BINS)
        self.bounds = b.buffer("bounds", "i32", "B", shape.kv_heads, BOUNDS)
        self.counts = b.buffer("counts", "i32", "B", shape.kv_heads)
        self.worth = b.buffer("worth", "f32", "B", shape.kv_heads) if shape.adaptive else None

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        head, row = b.program_id(0, "kv_head"), b.program_id(1, "row")
        length = b.load(self.lengths, row, hint="length")
        span = Middle(b, self.rows, s.sinks, s.recent, s.page, length)
        text = "max(min(a - (b - (c - d)), c - d), 0)"
        want = b.map(text, b.load(self.budgets, row, hint="budget"), length, span.last, span.first,
                     dtype="i32", hint="want")  # fmt: skip
        part, bin = b.expand(b.iota(MOST_PARTS), 1), b.expand(b.iota(BINS), 0)
        parts = parts_of(b, self.rows)
        text = "(a < where(c > 0, b, 0)) & (d >= 0)"
        live = b.map(text, part, parts, length, bin, dtype="bool", hint="live")
        tally = b.load(self.tally, row, head, part, bin, mask=live, hint="counted")
        total = b.reduce("sum", tally, 0, hint="total")
        if self.worth is not None:
            worth = b.load(self.worth, row, head, hint="worth")
            want = b.map("min(a, b)", want, self._enough(total, worth), dtype="i32", hint="want")
        limit, ties = self._boundary(total, want)
        lane = b.iota(MOST_PARTS)
        for place, test in enumerate(("a > b", "a == b")):
            text = f"where({test}, c, 0)"
            each = b.map(text, bin, limit, tally, dtype="i32", hint="each")
            found = b.reduce("sum", each, 1, hint="found")
            before = b.map("a - b", b.scan(found, 0), found, dtype="i32", hint="before")
            at = b.map(f"a + {place * MOST_PARTS}", lane, dtype="i32", hint="at")
            b.store(self.bounds, row, head, at, before)
        for place, value in enumerate((limit, ties, want), 2 * MOST_PARTS):
            b.store(self.bounds, row, head, b.full(place, "i32"), value)
        count = b.map("a + b + c - d", span.first, want, length, span.last, dtype="i32",
                      hint="count")  # fmt: skip
        b.store(self.counts, row, head, count)
        return b.finish(s.kv_heads, "B", requires=("B >= 0",), of="graph.select")

    def _enough(self, total: Value, worth: Value) -> Value:
        """Return how many of the best tokens a threshold or a share of the mass asks for."""
        b, s = self.b, self.shape
        bin = b.iota(BINS)
        best = b.reduce("max", b.map("where(b > 0, a, 0)", bin, total, dtype="i32"), 0, hint="best")
        below = b.map("f32(max(b - a, 0)) * c", bin, best, worth, hint="below")
        if s.threshold:
            text = f"where(b <= {-log2(s.threshold)!r}, a, 0)"
            return b.reduce("sum", b.map(text, total, below, dtype="i32"), 0, hint="enough")
        weight = b.map("exp2(0.0 - a)", below, hint="weight")
        mass = b.map("f32(a) * b", total, weight, hint="mass")
        whole = b.reduce("sum", mass, 0, hint="whole")
        text = (
            f"max(a * {s.top_p!r} - (a - b), 0.0)"  # what tokens of steps above leave to this one
        )
        left = b.map(text, whole, b.scan(mass, 0), dtype="f32", hint="left")
        text = "where(c > 0.0, min(a, i32(0.0 - floor(0.0 - min(c / max(b, 1e-30), 1e9)))), 0)"
        taken = b.map(text, total, weight, left, dtype="i32", hint="taken")
        return b.reduce("sum", taken, 0, hint="enough")

    def _boundary(self, total: Value, want: Value) -> tuple[Value, Value]:
        """Return the step above which all are taken, and how many of it."""
        b = self.b
        rest = b.map("a - b + c", b.reduce("sum", total, 0), b.scan(total, 0), total,
                     dtype="i32", hint="rest")  # fmt: skip
        reach = b.map("where(a >= b, 1, 0)", rest, want, dtype="i32", hint="reach")
        limit = b.map("max(a - 1, 0)", b.reduce("sum", reach, 0), dtype="i32", hint="limit")
        text = "where(a > b, c, 0)"
        over = b.map(text, b.iota(BINS), limit, total, dtype="i32", hint="over")
        above = b.reduce("sum", over, 0, hint="above")
        return limit, b.map("a - b", want, above, dtype="i32", hint="ties")


def select_bins(shape: BinSelection) -> Operation:
    """Return the kernel; a program writes the choices of a part of one row and key head.

    Arguments: B, C = CP * P, CP, base, kv_lengths, span [B] (see `word_scores`), bins [CP, K, P]
    u8, bounds [B, K, 67] i32, chosen [K, C] i32 (ascending).
    """
    return _SelectBins(shape).kernel()


class _SelectBins:
    def __init__(self, shape: BinSelection) -> None:
        self.shape = shape
        b = self.b = KernelBuilder(shape.name)
        self.rows, *_ = (b.scalar(extent) for extent in ("B", "C", "CP"))
        self.place = Place(b, True, shape.page, pages=False)
        self.lengths, self.spans = (b.buffer(n, "i32", "B") for n in ("kv_lengths", "span"))
        self.bins = b.buffer("bins", "u8", "CP", shape.kv_heads, shape.page)
        self.bounds = b.buffer("bounds", "i32", "B", shape.kv_heads, BOUNDS)
        self.chosen = b.buffer("chosen", "i32", shape.kv_heads, "C")

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        self.head, self.row, self.part = (
            b.program_id(axis, name) for axis, name in enumerate(("kv_head", "row", "part"))
        )
        self.place.enter(self.head, self.row)
        self.length = b.load(self.lengths, self.row, hint="length")
        span = b.load(self.spans, self.row, hint="span")
        self.span = Middle(b, self.rows, s.sinks, s.recent, s.page, self.length, span)
        before = b.load(self.bounds, self.row, self.head, self.part, hint="before")
        at = b.map(f"a + {MOST_PARTS}", self.part, dtype="i32", hint="at")
        equal = b.load(self.bounds, self.row, self.head, at, hint="equal")
        self.limit, self.ties, want = (
            b.load(self.bounds, self.row, self.head, b.full(2 * MOST_PARTS + n, "i32"), hint=hint)
            for n, hint in enumerate(("limit", "ties", "want"))
        )
        self._choose(before, equal)
        self._ends(want)
        facts = ("B >= 0", f"C == CP * {s.page}", *self.place.facts)
        return b.finish(s.kv_heads, "B", PARTS, requires=facts, of="graph.select")

    def _choose(self, before: Value, equal: Value) -> None:
        """Write the part's choices of the middle. Threads have `RUN` tokens each: sums within a
        run come first, then one over runs."""
        b, s = self.b, self.shape
        first = b.expand(b.map(f"a * {RUN}", b.iota(s.keys // RUN), dtype="i32"), 1)
        lane = b.map("a + b", first, b.expand(b.iota(RUN), 0), dtype="i32", hint="lane")
        ahead = b.map(f"a // {s.page}", lane, dtype="i32", hint="ahead")
        offset = b.map(f"a % {s.page}", lane, dtype="i32", hint="offset")
        low, high = self.span.part(self.part)
        with b.loop(low, high, before, equal, step=s.keys // s.page, hint="page") as loop:
            over, tied = loop.carried
            number = b.map("a + b", loop.index, ahead, dtype="i32", hint="number")
            there = b.map("a < b", number, high, hint="there")
            at = b.map(f"a // {s.page} + b", self.place.start, number, dtype="i32", hint="at")
            step = b.load(self.bins, at, self.head, offset, mask=there, dtype="i32", hint="step")
            inside = self.span.inside(number, offset, there)
            text = "where(a, where(b > c, 1, where(b == c, 65536, 0)), 0)"
            mark = b.map(text, inside, step, self.limit, dtype="i32", hint="mark")
            each = b.reduce("sum", mark, 1, hint="each")
            runs = b.map("a - b", b.scan(each, 0), each, dtype="i32", hint="runs")
            ranks = b.map("a + b", b.scan(mark, 1), b.expand(runs, 1), dtype="i32", hint="ranks")
            rank = b.map("a + (b >> 16)", tied, ranks, dtype="i32", hint="rank")
            text = "((a & 1) == 1) | ((a > 65535) & (b <= c))"
            take = b.map(text, mark, rank, self.ties, dtype="bool", hint="take")
            text = "a + b + (c & 65535) + min(d, e) - 1"
            place = b.map(text, self.span.first, over, ranks, rank, self.ties, dtype="i32",
                          hint="place")  # fmt: skip
            unit = b.map(f"a * {s.page} + b", number, offset, dtype="i32", hint="unit")
            self._put(place, unit, take)
            marks = b.reduce("sum", each, 0, hint="marks")
            loop.yields(b.map("a + (b & 65535)", over, marks, dtype="i32"),
                        b.map("a + (b >> 16)", tied, marks, dtype="i32"))  # fmt: skip

    def _ends(self, want: Value) -> None:
        """The first part writes the forced tokens around the middle."""
        b, s, span = self.b, self.shape, self.span
        lane = b.iota(max(s.sinks, s.recent, 1))
        mine, zero = b.map("a == 0", self.part, hint="mine"), b.full(0, "i32")
        low = b.map("where(a, b, c)", mine, span.first, zero, dtype="i32", hint="low")
        self._put(lane, lane, b.map("a < b", lane, low, dtype="bool"))
        unit = b.map("a + b", span.last, lane, dtype="i32", hint="unit")
        place = b.map("a + b + c", span.first, want, lane, dtype="i32", hint="place")
        high = b.map("where(a, b, c)", mine, self.length, zero, dtype="i32", hint="high")
        self._put(place, unit, b.map("a < b", unit, high, dtype="bool"))

    def _put(self, place: Value, unit: Value, take: Value) -> None:
        text = "a & (b >= 0) & (b < c)"
        kept = self.b.map(text, take, place, self.length, dtype="bool", hint="kept")
        self.b.store(self.chosen, *self.place.at(place), unit, mask=kept)
