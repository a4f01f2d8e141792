"""The hazard proof: whatever tasks take, each reads what its pipeline says that it reads.

An obligation says that one task is done before another starts: who wrote what a task reads, that
task, and who overwrites it, and one writer of a slot before the next. With these, by induction over
the writers of each slot, no page is overwritten while it is read, nothing is read before it is
there, and keys are written before attention reads them. Start and end of each task are unknown
integers; z3 shows that no values of them fit the pipeline's queues and events and break an
obligation. A path joins tasks through tasks launched between them (waits point backwards), so the
proof goes micro-batch by micro-batch, and windows that are alike up to their numbers are one lemma:
a model of any number of such layers is proven with it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

from ...ir.diagnostics import Note, PassError
from ...ir.offload.pipeline import Access, Kind, Pipeline


class Hazard(PassError):
    """Two tasks of a pipeline that may run in an order, or at a time, that they must not."""

    template = "pipeline {pipeline}: {second} {verb} {slot} while {first} may still {first_verb} it"
    hint = "{second} must wait for {first}"


class Missing(PassError):
    """A task that reads what is never, or only later, put where it reads."""

    template = "pipeline {pipeline}: {task} reads {access}, which {problem}"


class Obligation(NamedTuple):
    """Task `first` must be done before task `second` starts, on account of a slot."""

    first: int
    second: int
    slot: str
    what: str


_VERBS = {
    "arrival": ("reads", "write"), "overwrite": ("overwrites", "read"),
    "order": ("overwrites", "write"),
}  # fmt: skip


@dataclass(frozen=True)
class HazardProof:
    """What was shown of a pipeline: obligations, in how many different lemmas, by what, how long.

    `by` is `z3`, or `closure` where z3 is not installed: then a search for paths has decided.
    """

    pipeline: str
    tasks: int
    obligations: int
    lemmas: int
    windows: int
    by: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.pipeline}: {self.obligations} orders of {self.tasks} tasks hold for any "
            f"durations ({self.by}, {self.lemmas} lemmas for {self.windows} windows, "
            f"{self.seconds:.2f} s)"
        )


def obligations(pipeline: Pipeline) -> list[Obligation]:
    """Return what must be ordered, by number of task; raises Missing where no order would help."""
    held = {access.slot: access.holds for access in pipeline.holds}
    writers: dict[str, list[tuple[int, str]]] = {}
    for number, task in enumerate(pipeline.tasks):
        for access in task.writes:
            writers.setdefault(access.slot, []).append((number, access.holds))
    found: dict[tuple[int, int], Obligation] = {}

    def need(first: int, second: int, slot: str, what: str) -> None:
        if first != second:
            found.setdefault((first, second), Obligation(first, second, slot, what))

    for slot, written in writers.items():
        for (first, _), (second, _) in zip(written, written[1:], strict=False):
            need(first, second, slot, "order")
    for number, task in enumerate(pipeline.tasks):
        for access in task.reads:
            written = writers.get(access.slot, [])
            source = _source(pipeline, number, access, written, held.get(access.slot))
            if source >= 0:
                need(written[source][0], number, access.slot, "arrival")
            if source + 1 < len(written):
                following = written[source + 1][0]
                if following < number:
                    name = pipeline.tasks[following].name
                    problem = f"{name} overwrites, and {name} is launched before it"
                    raise Missing(pipeline=pipeline.name, task=task.name, access=str(access),
                                  problem=problem)  # fmt: skip
                need(number, following, access.slot, "overwrite")
    return list(found.values())


def _source(
    pipeline: Pipeline, number: int, access: Access, written: Sequence[tuple[int, str]],
    held: str | None,
) -> int:  # fmt: skip
    """Return which of a slot's writers a read wants, -1 for what was there before; or raise."""
    places = [place for place, (_, holds) in enumerate(written) if holds == access.holds]
    if held == access.holds:
        places.append(-1)
    task = pipeline.tasks[number]
    if len(places) == 1:
        place = places[0]
        if place < 0 or written[place][0] < number:
            return place
        later = pipeline.tasks[written[place][0]].name
        problem = f"{later} writes, and {later} is launched after it"
    else:
        problem = "nothing writes" if not places else "several tasks write"
    raise Missing(pipeline=pipeline.name, task=task.name, access=str(access), problem=problem)


def prove_hazards(pipeline: Pipeline) -> HazardProof:
    """Prove a pipeline free of hazards for any durations; raises Hazard, which names the pair."""
    start = perf_counter()
    needed = obligations(pipeline)
    edges = _edges(pipeline)
    windows = list(_windows(pipeline, _without_implied(pipeline, needed), edges))
    lemmas: set[_Lemma] = set()
    by = "z3"
    for base, lemma in windows:
        if lemma in lemmas:
            continue
        lemmas.add(lemma)
        broken, by = lemma.refute()
        if broken is not None:
            raise _hazard(pipeline, base, broken, needed)
    return HazardProof(pipeline.name, len(pipeline.tasks), len(needed), len(lemmas), len(windows),
                       by, perf_counter() - start)  # fmt: skip


def _without_implied(pipeline: Pipeline, needed: Sequence[Obligation]) -> list[Obligation]:
    """Leave out what the order of a queue implies: a queue runs its tasks one after another.

    Of what one task must precede, the first task of each queue is enough; of what it must follow,
    the last one.
    """
    queues = [task.queue for task in pipeline.tasks]
    first_of: dict[tuple[int, str], Obligation] = {}
    for each in needed:
        if queues[each.first] == queues[each.second] and each.first < each.second:
            continue
        key = (each.first, queues[each.second])
        if key not in first_of or each.second < first_of[key].second:
            first_of[key] = each
    last_of: dict[tuple[int, str], Obligation] = {}
    for each in first_of.values():
        key = (each.second, queues[each.first])
        if key not in last_of or each.first > last_of[key].first:
            last_of[key] = each
    return list(last_of.values())


def race(pipeline: Pipeline) -> Obligation | None:
    """Return an obligation that no path of queues and events ensures, or None: without a solver."""
    before = _closure(len(pipeline.tasks), _edges(pipeline))
    for each in obligations(pipeline):
        if not before[each.second] >> each.first & 1:
            return each
    return None


def _edges(pipeline: Pipeline) -> list[tuple[int, int]]:
    numbers = {task.name: number for number, task in enumerate(pipeline.tasks)}
    return [
        (numbers[first], numbers[second])
        for second, befores in pipeline.predecessors().items()
        for first in befores
    ]


def _closure(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each task the bits of those done before it; edges come by their second task."""
    before = [0] * count
    for first, second in edges:
        before[second] |= before[first] | 1 << first
    return before


class _Broken(NamedTuple):
    first: int
    second: int
    times: tuple[int, int, int] | None  # start and end of the first, start of the second


@dataclass(frozen=True)
class _Lemma:
    """That edges ensure obligations, tasks numbered within a window."""

    tasks: int
    edges: tuple[tuple[int, int], ...]
    wanted: tuple[tuple[int, int], ...]

    def refute(self) -> tuple[_Broken | None, str]:
        """Return an obligation that fails, with times that show it, and who has found out."""
        by = "z3" if _has_z3() else "closure"
        return _refuted(self, by), by

    def search(self) -> _Broken | None:
        """Return an obligation that no path ensures, if there is one."""
        before = _closure(self.tasks, self.edges)
        failing = (pair for pair in self.wanted if not before[pair[1]] >> pair[0] & 1)
        pair = next(failing, None)
        return None if pair is None else _Broken(*pair, None)

    def solve(self, z3: Any) -> _Broken | None:
        starts = [z3.Int(f"s{number}") for number in range(self.tasks)]
        ends = [z3.Int(f"e{number}") for number in range(self.tasks)]
        solver = z3.SolverFor("QF_IDL")
        solver.add([begin <= end for begin, end in zip(starts, ends, strict=True)])
        solver.add([starts[0] >= 0] if starts else [])
        solver.add([ends[first] <= starts[second] for first, second in self.edges])
        solver.add(z3.Or([starts[second] < ends[first] for first, second in self.wanted]))
        if solver.check() == z3.unsat:
            return None
        model = solver.model()

        def value(of: Any) -> int:
            return model.eval(of, model_completion=True).as_long()

        for first, second in self.wanted:
            times = (value(starts[first]), value(ends[first]), value(starts[second]))
            if times[2] < times[1]:
                return _Broken(first, second, times)
        raise AssertionError("z3 found a race that its own times do not show")


@lru_cache(maxsize=4096)
def _refuted(lemma: _Lemma, by: str) -> _Broken | None:
    """Refute a lemma once: pipelines of one model share most of theirs."""
    if by == "closure":
        return lemma.search()
    import z3

    return lemma.solve(z3)


def _has_z3() -> bool:
    try:
        import z3  # noqa: F401
    except ImportError:
        return False
    return True


def _windows(
    pipeline: Pipeline, needed: Sequence[Obligation], edges: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, _Lemma]]:
    """Yield (number of its first task, lemma): what must be ordered before each micro-batch ends.

    Paths between two tasks stay between their numbers, so a window needs no edges from outside.
    """
    bounds = [n for n, task in enumerate(pipeline.tasks) if task.kind is Kind.ROUTE]
    bounds = [0, *bounds, len(pipeline.tasks)]
    inside: dict[int, list[Obligation]] = {}
    for each in needed:
        inside.setdefault(bisect_right(bounds, each.second), []).append(each)
    seconds = [second for _, second in edges]
    for place, found in sorted(inside.items()):
        base, high = min(each.first for each in found), bounds[place]
        near = edges[bisect_left(seconds, base) : bisect_left(seconds, high)]
        kept = tuple((first - base, second - base) for first, second in near if first >= base)
        wanted = sorted((each.first - base, each.second - base) for each in found)
        yield base, _Lemma(high - base, kept, tuple(wanted))


def _hazard(pipeline: Pipeline, base: int, broken: _Broken, needed: Sequence[Obligation]) -> Hazard:
    pair = (broken.first + base, broken.second + base)
    each = next(each for each in needed if (each.first, each.second) == pair)
    verb, first_verb = _VERBS[each.what]
    first, second = (pipeline.tasks[number].name for number in pair)
    notes = ()
    if broken.times is not None:
        begin, end, after = broken.times
        text = f"for instance {first} runs from {begin} to {end}, and {second} starts at {after}"
        notes = (Note(text),)
    return Hazard(pipeline=pipeline.name, first=first, second=second, slot=each.slot, verb=verb,
                  first_verb=first_verb, notes=notes)  # fmt: skip
