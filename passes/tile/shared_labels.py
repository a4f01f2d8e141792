"""Labels that several rows share are read once, and scored for all of them; each selects by itself.

Rows of a fork have the same first pages. `runtime.label_groups` finds them: a group is a few rows
and how many first pages they share. The kernel here leaves the steps of these pages' tokens, and
counts of steps, for every row of a group; `word_scores` goes on where it ends. Rows of a group are
cut into parts at the same pages (`span`), so that a part's labels are the same for all.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.core import Operation, Value
from .word_labels import BINS, PARTS, Scoring, WordScores


def shared_labels(shape: WordScores) -> Operation:
    """Return the kernel; a program scores a part of a group's pages for each of its rows, half as
    many tokens at a time as `word_scores`: more would not fit the registers.

    Arguments: those of `word_scores` but `own`; Q, QM = Q * members, group_pages [Q] (pages that a
    group shares), group_rows [QM] (its rows, the first one always there; -1: none). Q is at most B.
    """
    return _SharedLabels(shape).kernel()


class _SharedLabels(Scoring):
    def __init__(self, shape: WordScores) -> None:
        super().__init__("shared_labels", replace(shape, keys=shape.keys // 2), "Q", "QM")
        self.pages = self.b.buffer("group_pages", "i32", "Q")
        self.rows = self.b.buffer("group_rows", "i32", "QM")

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        head, group, part = self.enter()
        page, members = s.labels.page, [self._member(group, n) for n in range(s.members)]
        self.place.enter(head, members[0][0])  # whose pages are read
        shared = b.load(self.pages, group, hint="shared")
        spans = [self.middle(row) for row, _ in members]
        parts = [span.part(part) for span in spans]
        low, end = parts[0]
        high = b.map("min(a, b)", end, shared, dtype="i32", hint="high")
        text = "where(a >= 0, min(b, c), 0)"
        ends = [b.map(text, real, end, high, dtype="i32", hint="end")
                for (_, real), (_, end) in zip(members, parts, strict=True)]  # fmt: skip
        bases = [b.load(self.place.base, row, hint="base") for row, _ in members]
        bin = b.iota(BINS)
        empty = [b.full(0, "i32", BINS) for _ in members]
        with b.loop(low, high, *empty, step=s.keys // page, hint="page") as loop:
            number = b.map("a + b", loop.index, self.ahead, dtype="i32", hint="number")
            there = b.map("a < b", number, high, hint="there")
            codes, counts = self.codes(number, there), []
            for (row, _), span, end, base, before in zip(
                members, spans, ends, bases, loop.carried, strict=True
            ):
                # loaded anew for each tile: queries of all rows are too many to be kept
                step = self.step(self.query_of(row), codes)
                mine = b.map("a < b", number, end, hint="mine")
                at = b.map(f"a // {page} + b", base, number, dtype="i32", hint="at")
                b.store(self.bins, at, head, self.offset, step, mask=mine)
                counts.append(self.count_steps(step, span.inside(number, self.offset, mine),
                                               before))  # fmt: skip
            loop.yields(*counts)
        for (row, _), end, counted in zip(members, ends, loop.results, strict=True):
            kept = b.map(f"a < (b - c) * {BINS}", bin, end, low, dtype="bool", hint="kept")
            b.store(self.tally, row, head, part, bin, counted, mask=kept)
        facts = (*self.facts, "0 <= Q", "Q <= B", f"QM == Q * {s.members}", 
                 "-1 <= group_rows[*] < B", "0 <= group_pages[*]")  # fmt: skip
        return b.finish(s.labels.kv_heads, "Q", PARTS, requires=facts, of="graph.select")

    def _member(self, group: Value, number: int) -> tuple[Value, Value]:
        """Return a row of the group, the first of the batch where there is none; and what is
        listed, which tells whether there is one."""
        b = self.b
        at = b.map(f"a * {self.shape.members} + {number}", group, dtype="i32", hint="at")
        row = b.load(self.rows, at, hint="member")
        return b.map("max(a, 0)", row, dtype="i32"), row
