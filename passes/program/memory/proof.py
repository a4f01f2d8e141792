"""The memory proof: z3 shows that rows fit, whatever the schedule and however long gens get.

Each frame (a program's stream, a fork's branch) has a lemma: for all lengths of its stream and all
places where a page may end, for all sets of its parts that may go side by side, its pages are at
most the budget's. A lemma uses those of the frames inside it, so that a program of any size is
proven frame by frame. Proofs are records that outlive z3: they are kept beside compiled code.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....ir.budget import UNBOUNDED, Budgets, Limits, Peak, Symbols
from ....ir.core import Operation
from ....ir.diagnostics import CapacityError
from ....ir.whole_file import write_whole
from .story import story

_VERSION = 3
EFFORT = 2_000_000
"""Steps of z3's that a lemma may take, a few seconds: whether it is proven is no matter of how busy
the machine is."""


class NotProven(CapacityError):
    """A frame whose pages may exceed its budget: a mistake of the compiler, not of the program."""

    template = "the budget of {frame} is wrong: it says {pages} pages, but {example}"


@dataclass(frozen=True)
class MemoryProof:
    """What was shown of a program: pages a row needs at most, and how many rows fit.

    `by` is `z3`, `cache` or `arithmetic` (z3 is not installed: the bound is computed, and no
    solver has checked it). `story` names what needs most, forks and gens; `key` is the hash of
    what it speaks of.
    """

    program: str
    key: str
    row_pages: int
    pages: int
    most_rows: int
    lemmas: int
    by: str
    story: str
    bounded: bool
    """Whether the program bounds its streams, and not only the model's context."""
    seconds: float = 0.0

    def fits(self, rows: int) -> bool:
        """Return whether so many rows that are open fit."""
        return rows <= self.most_rows

    def explain(self, rows: int) -> str:
        """Return in words that rows fit, or which do not and what needs how much."""
        how = {"z3": "proven by z3", "cache": "proven by z3 before"}.get(
            self.by, "computed; z3 is not installed, so no solver has checked it"
        )
        need = rows * self.row_pages
        told, needs = ("1 row", "needs") if rows == 1 else (f"{rows} rows", "need")
        if self.fits(rows):
            return f"{told} {needs} at most {need} of {self.pages} KV pages ({how})"
        if self.row_pages >= UNBOUNDED:
            return f"{self.story} has no bound; rows are admitted by what they hold"
        may = "not even one row is sure to fit"
        if self.most_rows:
            rows_are = "row is" if self.most_rows == 1 else "rows are"
            may = f"at most {self.most_rows} {rows_are} sure to fit"
        if not self.bounded:
            may += "; only the model's context bounds it, so rows are admitted by what they hold"
        return (
            f"{told} x {self.story} {needs} {need} pages, {need - self.pages} more than "
            f"{self.pages}; {may} ({how})"
        )


def prove_memory(
    programs: Iterable[Operation], program: str, symbols: Symbols, limits: Limits, pages: int,
    cache: Path | None = None,
) -> MemoryProof:  # fmt: skip
    """Return a proof for a program whose rows have these sizes, from the cache or made now.

    Raises NotProven if a budget does not hold.
    """
    start = time.perf_counter()
    named = {function["name"].name: function for function in programs}
    budgets = Budgets(named.values(), limits)
    peak = budgets.peak(program, symbols)
    key = _key(peak, limits, pages)
    known = _read(cache, key)
    by, lemmas = "cache", known.lemmas if known else 0
    if known is None:
        by, lemmas = _prove(peak, limits, f"@{program}")
    most = pages // peak.pages if peak.pages else UNBOUNDED
    told = story(named, program, peak, limits)
    proof = MemoryProof(
        program, key, peak.pages, pages, most, lemmas, by, told, peak.bounded,
        round(time.perf_counter() - start, 6),
    )  # fmt: skip
    if by == "z3":
        _keep(cache, proof)
    return proof


def _prove(peak: Peak, limits: Limits, name: str) -> tuple[str, int]:
    try:
        import z3
    except ImportError:
        return "arithmetic", 0
    done: set[Any] = set()
    for frame, what in _frames(peak, name):
        if frame.pages >= UNBOUNDED:
            continue
        lemma = _Lemma(frame, limits)
        if lemma.key not in done:
            done.add(lemma.key)
            lemma.prove(z3, what)
    return "z3", len(done)


def _frames(peak: Peak, what: str) -> Iterator[tuple[Peak, str]]:
    """Yield every frame, inner before outer; scored options have one for each sequence."""
    for use in peak.parts:
        if use.inner is not None:
            yield from _frames(use.inner, use.what)
    yield peak, what


ALONE = -1
"""In place of an the pages of an inner frame: scored sequences have none."""


class _Lemma:
    """One frame's claim: its pages are at most `peak.pages`."""

    def __init__(self, peak: Peak, limits: Limits) -> None:
        self._peak = peak
        self._limits = limits
        self._parts: Counter[tuple[int, int, int, tuple[int, ...], bool]] = Counter()
        for use in peak.parts:
            inner = use.inner.pages if use.inner is not None else ALONE
            self._parts[use.width, inner, use.longest, use.stretches, use.kept] += use.times
        parts = frozenset(self._parts.items())
        self.key = (peak.tokens, peak.pages, peak.branch, peak.above, parts)

    def prove(self, z3: Any, what: str) -> None:
        """Ask z3 for a schedule that needs more; raises NotProven if there is one."""
        solver = z3.Solver()
        solver.set("rlimit", EFFORT)
        length, own = z3.Int("tokens"), z3.Int("pages of the stream")
        solver.add(length >= 0, length <= self._peak.tokens)
        self._stream(z3, solver, length, own)
        total, beside = own, []
        for number, ((width, inner, longest, lengths, kept), times) in enumerate(
            self._parts.items()
        ):
            count = z3.Int(f"part {number}")
            solver.add(count >= 0, count <= times)
            beside += [] if kept else [count]
            if inner != ALONE:
                pages = min(width * inner, UNBOUNDED)
            elif longest < 0:
                pages = self._sequences(z3, lengths)
            else:
                self._sequences(z3, (min(longest, self._limits.context),))
                pages = self._limits.side_pages(width, longest)
            total = total + count * pages
        if self._limits.ahead < UNBOUNDED and beside:
            solver.add(z3.Sum(beside) <= self._limits.ahead)
        solver.add(total > self._peak.pages)
        answer = solver.check()
        if answer != z3.unsat:
            example = str(solver.model()) if answer == z3.sat else "z3 cannot decide it"
            raise NotProven(frame=what, pages=self._peak.pages, example=example)

    def _stream(self, z3: Any, solver: Any, length: Any, own: Any) -> None:
        """Say how many pages a stream of `length` tokens adds, wherever it begins."""
        size, peak = self._limits.page_size, self._peak
        if not peak.branch:
            solver.add(own == (length + size - 1) / size)
        elif peak.above >= 0:
            above = z3.Int("tokens above")
            solver.add(above >= 0, above <= peak.above, above + length <= self._limits.context)
            solver.add(own == z3.If(above + length > 0, (above + length + size - 1) / size, 1))
        else:
            self._branch(z3, solver, length, own, "tokens above")

    def _branch(self, z3: Any, solver: Any, length: Any, own: Any, name: str) -> None:
        """A branch has what its parent's full pages do not hold; the copied page is its own."""
        size, above = self._limits.page_size, z3.Int(name)
        solver.add(above >= 0)
        last = (above + length + size - 1) / size
        solver.add(own == z3.If(length > 0, last - above / size, 1))

    def _sequences(self, z3: Any, lengths: tuple[int, ...]) -> int:
        """Return the pages of scored stretches, each of which has a lemma of its own."""
        for length in set(lengths):
            bound = self._limits.branch_pages(length)
            inner, own = z3.Solver(), z3.Int("pages")
            self._branch(z3, inner, z3.IntVal(length), own, "tokens above")
            inner.add(own > bound)
            if inner.check() != z3.unsat:
                raise NotProven(frame="scored options", pages=bound, example=str(inner.model()))
        return sum(map(self._limits.branch_pages, lengths))


def _key(peak: Peak, limits: Limits, pages: int) -> str:
    text = f"{_VERSION}\n{peak}\n{limits}\n{pages}"
    return "memory_" + hashlib.sha256(text.encode()).hexdigest()


def _read(cache: Path | None, key: str) -> MemoryProof | None:
    if cache is None:
        return None
    try:
        known = MemoryProof(**json.loads((cache / f"{key}.json").read_text(encoding="utf-8")))
        return known if known.key == key and known.by == "z3" else None
    except (OSError, ValueError, TypeError):
        return None  # absent or damaged: proven anew


def _keep(cache: Path | None, proof: MemoryProof) -> None:
    """Write a proof so that others see all of it or none; a closed folder only costs the reuse."""
    if cache is None:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(cache / f"{proof.key}.json", json.dumps(asdict(proof)))
    except OSError:
        pass
