"""Counts of steps where the boundary of a selection lies, part by part of a row.

`word_scores` has counted tokens by sixteenths of the steps. Where a budget alone bounds a
selection, that tells the sixteenth in which its last token is, and the sixteen steps of it are
counted here. Where what steps are worth matters too, all steps are.
"""

from __future__ import annotations

from ....ir.core import Operation, Value
from ....ir.dialects.tile import extents_of
from ....ir.sparse.policy import MOST_SHARES
from ....ir.sparse.policy import SCORE_STEPS as BINS
from ..builder import KernelBuilder
from .bin_boundary import BinSelection, Boundary, Tally, sum_of
from .packed_counts import KINDS, MOST, add_nibbles, sum_counts
from .row_parts import PARTS, SHARES, extent, parts_of
from .score_place import Place
from .step_words import WIDTH

FEW = 4
"""Words that a thread loads at once: sixteen bytes."""

ROUNDS = 255 // (FEW * WIDTH)
"""After so many rounds a byte of a thread's counts may be full."""


def step_counts(shape: BinSelection) -> Operation:
    """Return the kernel; a program counts a share of one row and key head.

    Arguments: B, C = CP * P, CP, base, kv_lengths, budgets, span [B] (see `word_scores`), coarse
    [B, K, 32, 16], bins [CP, K, P / 4] i32, fine [B, K, 32, 16] i32: of each share of a row the
    tokens in each of the sixteen steps. Where the shape is adaptive, without `coarse`, and in place
    of `fine` tally [B, K, 32, 256]. Counts of step 0 mean nothing.
    """
    return _StepCounts(shape).kernel()


class _StepCounts:
    def __init__(self, shape: BinSelection) -> None:
        self.shape = shape
        name = "all_" * shape.adaptive + f"step_counts_{shape.name}"
        b = self.b = KernelBuilder(name)
        self.rows, *_ = (b.scalar(extent) for extent in ("B", "C", "CP"))
        self.place = Place(b, True, shape.page, pages=False)
        self.boundary = Boundary(b, self.rows, shape)
        self.bins = b.buffer("bins", "i32", "CP", shape.kv_heads, shape.page // WIDTH)
        kinds = BINS if shape.adaptive else KINDS
        self.counts = b.buffer("tally" if shape.adaptive else "fine", "i32", "B", shape.kv_heads,
                               MOST_SHARES, kinds)  # fmt: skip

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        axes = enumerate(("kv_head", "row", "part"))
        self.head, row, part = (b.program_id(axis, name) for axis, name in axes)
        self.place.enter(self.head, row)
        self.boundary.enter(self.head, row)
        low, high = self.boundary.span.part(part, SHARES)
        kind = b.iota(BINS if s.adaptive else KINDS)
        if s.adaptive:
            found = self._all(low, high)
        else:
            found = self._sixteenth(low, high, part)
            kind = b.map(f"{KINDS - 1} - a", kind, dtype="i32", hint="kind")
        b.store(self.counts, row, self.head, part, kind, found)
        facts = ("B >= 0", f"C == CP * {s.page}", *self.place.facts)
        grid = (s.kv_heads, "B", extent(SHARES, s.kv_heads, s.pairs))
        return b.finish(*grid, requires=facts, of="graph.select")

    def _words(self, base: Value, high: Value, few: int) -> Value:
        """Return the steps of some pages of the row as words [n, few], 0 past the end."""
        b, s = self.b, self.shape
        each = s.page // WIDTH // few
        lane = b.iota(s.rows * each)
        number = b.map(f"a + b // {each}", base, lane, dtype="i32", hint="number")
        there = b.expand(b.map("a < b", number, high, hint="there"), 1)
        text = f"a // {s.page} + b"
        at = b.expand(b.map(text, self.place.start, number, dtype="i32", hint="at"), 1)
        first = b.expand(b.map(f"a % {each} * {few}", lane, dtype="i32", hint="first"), 1)
        word = b.map("a + b", first, b.expand(b.iota(few), 0), dtype="i32", hint="word")
        return b.load(self.bins, at, self.head, word, mask=there, other=0, hint="steps")

    def _all(self, low: Value, high: Value) -> Value:
        """Return how many tokens of some pages are in each step [256]."""
        b, s = self.b, self.shape
        with b.loop(low, high, b.full(0, "i32", BINS), step=s.rows, hint="page") as loop:
            words = self._words(loop.index, high, 1)
            byte = b.expand(b.iota(WIDTH), 0)
            steps = b.map("(a >> (b * 8)) & 255", words, byte, dtype="i32", hint="step")
            steps = b.reshape(steps, s.rows * s.page)
            loop.yields(b.histogram(steps, loop.carried[0]))
        return loop.results[0]

    def _sixteenth(self, low: Value, high: Value, part: Value) -> Value:
        """Return how many are in each step of the sixteenth that the budget ends in [16], last step
        first.

        Steps of other sixteenths count as its first one; how many that has is what is left of all
        that were counted in the sixteenth.
        """
        b, s = self.b, self.shape
        few = min(FEW, s.page // WIDTH)
        ahead = self._words(low, high, few)  # before what they need not wait for
        tally, first, _ = self.boundary.sixteenth()
        text = "(a << 4) | (a << 12) | (a << 20) | (a << 28)"
        flip = b.map(f"({text}) ^ {0x0F0F0F0F}", first, dtype="i32", hint="flip")
        lanes = s.rows * s.page // WIDTH // few
        many = min(ROUNDS, MOST // (s.rows * s.page)) * s.rows
        with b.loop(low, high, b.full(0, "i32", KINDS), ahead, step=many, hint="first") as chunk:
            end = b.map(f"min(a + {many}, b)", chunk.index, high, dtype="i32", hint="end")
            counts = [b.full(0, "i32", lanes) for _ in range(4)]
            with b.loop(chunk.index, end, *counts, chunk.carried[1], step=s.rows,
                        hint="page") as loop:  # fmt: skip
                after = b.map(f"a + {s.rows}", loop.index, dtype="i32", hint="after")
                following = self._words(after, high, few)
                words = b.map("a ^ b", loop.carried[4], flip, dtype="i32", hint="words")
                loop.yields(*self._add(loop.carried[:4], words), following)
            more = sum_counts(b, loop.results[:4])
            more = b.map("a + b", chunk.carried[0], more, dtype="i32", hint="fine")
            chunk.yields(more, loop.results[4])
        kind = b.iota(KINDS)
        known = b.map(f"where(b < {KINDS - 1}, a, 0)", chunk.results[0], kind, dtype="i32")
        rest = b.map("a - b", self._mine(tally, first, part), b.reduce("sum", known, 0),
                     dtype="i32", hint="rest")  # fmt: skip
        return b.map(f"where(b < {KINDS - 1}, a, c)", known, kind, rest, dtype="i32", hint="fine")

    def _add(self, counts: list[Value], words: Value) -> list[Value]:
        """Return the counts with bytes of words [n, w], those above 15 as 15."""
        b, one = self.b, self.b.full(1, "i64")
        some = None
        for byte in range(WIDTH):
            text = f"min((a >> {8 * byte}) & 255, {KINDS - 1})"
            kind = b.map(text, words, dtype="i32", hint="kind")
            text = "b << (a * 4)" if some is None else "c + (b << (a * 4))"
            some = b.map(text, kind, one, *([some] if some else []), dtype="i64", hint="some")
        assert some is not None
        lanes, few = extents_of(some.type)
        if few > 2:  # two words have at most eight of a kind
            some = b.reduce("sum", b.reshape(some, lanes, few // 2, 2), 2, hint="some")
        return add_nibbles(b, counts, some)

    def _mine(self, tally: Tally, first: Value, part: Value) -> Value:
        """Return how many tokens of the share are in a sixteenth, by the counts of all parts."""
        b = self.b
        counts = [parts_of(b, self.rows, self.shape.kv_heads, each) for each in (PARTS, SHARES)]
        each = b.map("a // b", *counts, dtype="i32", hint="each")
        mine = tally.of("(a >= b * c) & (a < b * c + b)", each, part)
        kind, text = b.expand(b.iota(KINDS), 0), "where(b == c, a, 0)"
        return sum_of(b, b.map(text, mine, kind, first, dtype="i32", hint="mine"))
