"""Counts of steps where the boundary of a selection lies, part by part of a row.

`word_labels` has counted tokens by sixteenths of the steps. Where a budget alone bounds a
selection, that tells the sixteenth in which its last token is, and the sixteen steps of it are
counted here. Where what steps are worth matters too, all steps are.
"""

from __future__ import annotations

from ...ir.core import Operation, Value
from ...ir.sparse import MOST_SHARES
from ...ir.sparse import SCORE_STEPS as BINS
from .bin_boundary import BinSelection, Boundary
from .builder import KernelBuilder
from .packed_counts import KINDS, MOST, ROUNDS, add_counts, no_counts, sum_counts
from .row_parts import SHARES
from .score_place import Place


def step_counts(shape: BinSelection) -> Operation:
    """Return the kernel; a program counts a share of one row and key head.

    Arguments: B, C = CP * P, CP, base, kv_lengths, budgets, span [B] (see `word_scores`), coarse
    [B, K, 32, 16], bins [CP, K, P] u8, fine [B, K, 32, 16] i32: of each share of a row the tokens
    in each of the sixteen steps. Where the shape is adaptive, without `coarse`, and in place of
    `fine` tally [B, K, 32, 256]. Counts of step 0 mean nothing.
    """
    return _StepCounts(shape).kernel()


class _StepCounts:
    def __init__(self, shape: BinSelection) -> None:
        self.shape = shape
        name = f"step_counts_{shape.name}" + "_all" * shape.adaptive
        b = self.b = KernelBuilder(name)
        self.rows, *_ = (b.scalar(extent) for extent in ("B", "C", "CP"))
        self.place = Place(b, True, shape.page, pages=False)
        self.boundary = Boundary(b, self.rows, shape)
        self.bins = b.buffer("bins", "u8", "CP", shape.kv_heads, shape.page)
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
        found = self._all(low, high) if s.adaptive else self._sixteenth(low, high)
        kind = b.iota(BINS if s.adaptive else KINDS)
        b.store(self.counts, row, self.head, part, kind, found)
        facts = ("B >= 0", f"C == CP * {s.page}", *self.place.facts)
        return b.finish(s.kv_heads, "B", SHARES, requires=facts, of="graph.select")

    def _steps(self, base: Value, high: Value) -> Value:
        """Return the steps of some pages of the row [pages, P], 0 past the end."""
        b, s = self.b, self.shape
        number = b.map("a + b", base, b.expand(b.iota(s.rows), 1), dtype="i32", hint="number")
        there = b.map("a < b", number, high, hint="there")
        text = f"a // {s.page} + b"
        at = b.map(text, self.place.start, number, dtype="i32", hint="at")
        return b.load(self.bins, at, self.head, b.expand(b.iota(s.page), 0), mask=there,
                      dtype="i32", hint="step")  # fmt: skip

    def _all(self, low: Value, high: Value) -> Value:
        """Return how many tokens of some pages are in each step [256]."""
        b, s = self.b, self.shape
        with b.loop(low, high, b.full(0, "i32", BINS), step=s.rows, hint="page") as loop:
            steps = b.reshape(self._steps(loop.index, high), s.rows * s.page)
            loop.yields(b.histogram(steps, loop.carried[0]))
        return loop.results[0]

    def _sixteenth(self, low: Value, high: Value) -> Value:
        """Return how many are in each step of the sixteenth that the budget ends in [16]."""
        b, s = self.b, self.shape
        _, first, _ = self.boundary.sixteenth()
        many = min(ROUNDS, MOST // (s.rows * s.page)) * s.rows
        with b.loop(low, high, b.full(0, "i32", KINDS), step=many, hint="first") as chunk:
            end = b.map(f"min(a + {many}, b)", chunk.index, high, dtype="i32", hint="end")
            counts = no_counts(b, s.rows, s.page)
            with b.loop(chunk.index, end, *counts, step=s.rows, hint="page") as loop:
                text = f"a ^ (b * {KINDS})"  # below 16 if it is of this sixteenth
                kind = b.map(text, self._steps(loop.index, high), first, dtype="i32", hint="kind")
                loop.yields(*add_counts(b, loop.carried, kind, others=True))
            more = sum_counts(b, loop.results)
            chunk.yields(b.map("a + b", chunk.carried[0], more, dtype="i32", hint="fine"))
        return chunk.results[0]
