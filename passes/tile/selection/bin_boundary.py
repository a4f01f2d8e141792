"""Where a selection by steps of score ends: the step above which all are taken, and how many of it.

`word_scores` has counted the tokens of each part of a row by sixteenths of the steps, and
`step_counts` by the steps of the sixteenth that the budget ends in, or, where what steps are worth
matters too, by all steps. Every program that selects works the boundary out from these.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from ....ir.core import Value
from ....ir.sparse.policy import MOST_PARTS, MOST_SHARES
from ....ir.sparse.policy import SCORE_STEPS as BINS
from ..builder import KernelBuilder
from .packed_counts import KINDS
from .row_parts import MOST_OF_MANY, PARTS, SHARES, Middle, parts_of

FEW = 2
"""Parts whose counts of sixteen kinds are one tile: a lane of a warp each."""


@dataclass(frozen=True)
class BinSelection:
    """The static shape: tokens of pages of `page`; `keys` tokens are looked at at a time. Beside
    the budget one amount more may bound what is taken, `threshold` or `top_p` (`ir.sparse.policy`).
    With `slots` what is written is where a token lies in the pool of keys, not its position.
    `pairs` as in `row_parts.extent`: where there are no others, nothing runs."""

    kv_heads: int
    page: int
    sinks: int = 4
    recent: int = 16
    keys: int = 2048
    threshold: float = 0.0
    top_p: float = 0.0
    slots: bool = False
    pairs: str = ""

    @property
    def adaptive(self) -> bool:
        """Whether how many are taken depends on what steps are worth."""
        return bool(self.threshold or self.top_p)

    @property
    def rows(self) -> int:
        """How many pages are looked at at a time."""
        return max(1, self.keys // self.page)

    @property
    def name(self) -> str:
        """A name that tells the shape, without what bounds it."""
        pairs = f"_{self.pairs}" * bool(self.pairs)
        return f"{self.kv_heads}_{self.page}_{self.sinks}_{self.recent}_{self.keys}{pairs}"


@dataclass(frozen=True)
class Ending:
    """Where a selection ends, for a share of a row: the step above which all are taken, how many of
    it are (`ties`), how many tokens above it and in it (`tied`) the shares before have, and how
    many in it this one has."""

    limit: Value
    ties: Value
    before: Value
    tied: Value
    mine: Value


class Tally:
    """Counts of a row by part and kind: some parts [n, 1] and their counts [n, kinds] at a time, so
    few that a warp holds them, and warps need not wait for each other to sum them up."""

    def __init__(self, b: KernelBuilder, counts: list[tuple[Value, Value]]) -> None:
        self.b, self.counts = b, counts

    def total(self) -> Value:
        """Return how many of each kind all parts have [kinds]."""
        return self.b.reduce("sum", self._added([count for _, count in self.counts]), 0, "total")

    def of(self, which: str, *values: Value) -> Value:
        """Return the counts [n, kinds] of those parts `a` for which a comparison with other values
        holds, parts added up over all but the first axis."""
        letters = "bcde"[: len(values)]
        text = f"where({which}, {'bcdef'[len(letters)]}, 0)"
        return self._added([self.b.map(text, part, *values, count, dtype="i32", hint="kept")
                            for part, count in self.counts])  # fmt: skip

    def _added(self, counts: list[Value]) -> Value:
        """Return a sum whose terms wait for each other as little as may be."""
        while len(counts) > 1:
            pairs = zip(counts[::2], counts[1::2], strict=True)
            counts = [self.b.map("a + b", *pair, dtype="i32", hint="added") for pair in pairs]
        return counts[0]


def sum_of(b: KernelBuilder, tile: Value) -> Value:
    """Return the sum over a tile's two axes."""
    return b.reduce("sum", b.reduce("sum", tile, 1), 0, hint="sum")


class Boundary:
    """Where the selection of a row and key head ends, as kernels find it: declares kv_lengths,
    budgets [B] (the most tokens that may be read) and coarse [B, K, 32, 16]."""

    def __init__(self, b: KernelBuilder, rows: Value, shape: BinSelection) -> None:
        self.b, self.rows, self.shape = b, rows, shape
        self.lengths, self.budgets = (b.buffer(n, "i32", "B") for n in ("kv_lengths", "budgets"))
        self.spans = b.buffer("span", "i32", "B")
        self.coarse = None
        if not shape.adaptive:
            self.coarse = b.buffer("coarse", "i32", "B", shape.kv_heads, MOST_PARTS, KINDS)

    def enter(self, head: Value, row: Value) -> None:
        """Say whose it is: sets the row's `length` and middle, `span`, and how many tokens of that
        its budget leaves room for, `want`."""
        b, s = self.b, self.shape
        self.head, self.row = head, row
        self.length = b.load(self.lengths, row, hint="length")
        span = b.load(self.spans, row, hint="span")
        self.span = Middle(b, self.rows, s.kv_heads, s.sinks, s.recent, s.page, self.length, span)
        text = "max(min(a - (b - (c - d)), c - d), 0)"
        budget = b.load(self.budgets, row, hint="budget")
        self.want = b.map(text, budget, self.length, self.span.last, self.span.first, dtype="i32",
                          hint="want")  # fmt: skip

    def tally(self, buffer: Value, kinds: int, parts: str = SHARES) -> Tally:
        """Read the counts [parts, kinds] of all parts of the row, 0 where it has no tokens."""
        b = self.b
        most = MOST_PARTS if parts == PARTS else MOST_SHARES
        most = MOST_OF_MANY if self.shape.pairs == "many" else most
        few = most if kinds == BINS else FEW
        count = parts_of(b, self.rows, self.shape.kv_heads, parts)
        lane, kind = b.expand(b.iota(few), 1), b.expand(b.iota(kinds), 0)
        found = []
        for first in range(0, most, few):
            part = b.map(f"a + {first}", lane, dtype="i32", hint="part")
            text = "(a < b) & (c >= 0)"
            live = b.map(text, part, count, kind, dtype="bool", hint="live")
            counts = b.load(buffer, self.row, self.head, part, kind, mask=live, hint="tally")
            text = "where(b > 0, a, 0)"  # not by the mask: these loads wait for no length
            found.append((part, b.map(text, counts, self.length, dtype="i32", hint="tally")))
        return Tally(b, found)

    def of(self, total: Value, want: Value) -> tuple[Value, Value]:
        """Return the highest kind that has, with those above it, as many as are wanted, and how
        many of it are; `total` is how many each kind has."""
        b = self.b
        rest = b.map("a - b + c", b.reduce("sum", total, 0), b.scan(total, 0), total,
                     dtype="i32", hint="rest")  # fmt: skip
        reach = b.map("where(a >= b, 1, 0)", rest, want, dtype="i32", hint="reach")
        over = b.map("where(a >= b, 0, a)", rest, want, dtype="i32", hint="over")
        limit = b.map("max(a - 1, 0)", b.reduce("sum", reach, 0), dtype="i32", hint="limit")
        above = b.reduce("max", over, 0, hint="above")  # of the next kind and those above it
        return limit, b.map("a - b", want, above, dtype="i32", hint="left")

    def sixteenth(self) -> tuple[Tally, Value, Value]:
        """Return the counts of sixteenths of all parts, in which of them the last wanted token is,
        and how many are wanted of that."""
        assert self.coarse is not None
        tally = self.tally(self.coarse, KINDS, PARTS)
        return tally, *self.of(tally.total(), self.want)

    def end(self, fine: Value, share: Value) -> Ending:
        """Return where the selection ends, for a share of the row; `fine` is what `step_counts` has
        left."""
        b = self.b
        steps = self.tally(fine, KINDS)  # before what it need not wait for
        tally, first, left = self.sixteenth()
        second, ties = self.of(steps.total(), left)
        limit = b.map(f"a * {KINDS} + b", first, second, dtype="i32", hint="limit")
        text = "a * (b // c)"
        counts = [parts_of(b, self.rows, self.shape.kv_heads, each) for each in (PARTS, SHARES)]
        part = b.map(text, share, *counts, dtype="i32", hint="part")
        coarser, finer = tally.of("a < b", part), steps.of("a < b", share)
        kind = b.expand(b.iota(KINDS), 0)
        text = "where(c > d, a, 0) + where(c > e, b, 0)"
        before = b.map(text, coarser, finer, kind, first, second, dtype="i32", hint="before")
        equal = [b.map("where(b == c, a, 0)", each, kind, second, dtype="i32", hint="equal")
                 for each in (finer, steps.of("a == b", share))]  # fmt: skip
        return Ending(limit, ties, *(sum_of(b, each) for each in (before, *equal)))

    def end_by_worth(self, tally: Value, worth: Value, share: Value) -> Ending:
        """Return the same where steps are worth a power of two [B, K]; `want` becomes less."""
        b = self.b
        bin, counts = b.iota(BINS), self.tally(tally, BINS)
        total = b.map("where(b > 0, a, 0)", counts.total(), bin, dtype="i32", hint="total")
        value = b.load(worth, self.row, self.head, hint="worth")
        self.want = b.map("min(a, b)", self.want, self._enough(total, value), dtype="i32",
                          hint="want")  # fmt: skip
        limit, ties = self.of(total, self.want)
        before, mine = counts.of("a < b", share), counts.of("a == b", share)
        kind = b.expand(bin, 0)
        kept = [b.map(f"where(b {which} c, a, 0)", each, kind, limit, dtype="i32", hint="kept")
                for each, which in ((before, ">"), (before, "=="), (mine, "=="))]  # fmt: skip
        return Ending(limit, ties, *(sum_of(b, each) for each in kept))

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
