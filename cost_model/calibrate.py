"""Measures a machine through injected callables, and describes it with error bars.

Each probe does a known amount of work once and returns the seconds that it took. Probes run in
interleaved rounds, so that another tenant of the machine disturbs all of them alike; a figure's
error bar is the spread of its rounds.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Protocol

from ..ir.diagnostics import WeftError
from .hardware import Hardware, Level, Link, Memory, Rate

Probe = Callable[[], float]
"""Does its work once; returns seconds."""


class CalibrationError(WeftError):
    """A probe whose times cannot be a measurement."""

    kind = "calibration error"
    template = "probe {probe!r} returned {seconds!r} seconds"
    hint = "a probe returns the positive, finite time of one run"


class Measure(Protocol):
    """A probe and the work that one run of it does: bytes, FLOPs, or launches."""

    @property
    def probe(self) -> Probe:
        """Does the work once."""
        ...

    @property
    def amount(self) -> float:
        """How much work that is."""
        ...


class MemoryProbes(Protocol):
    """Reads and copies of a buffer that fits one memory; a copy's amount is read plus written."""

    @property
    def name(self) -> str:
        """The memory's name."""
        ...

    @property
    def capacity(self) -> float:
        """Bytes that stay there."""
        ...

    @property
    def read(self) -> Sequence[Measure]:
        """Candidates, of which the fastest describes the memory."""
        ...

    @property
    def copy(self) -> Sequence[Measure]:
        """Candidates, of which the fastest describes the memory."""
        ...

    @property
    def shared(self) -> Measure | None:
        """Reads while a link copies from here: bytes of both."""
        ...

    @property
    def by_threads(self) -> Mapping[int, Measure]:
        """Reads with so many threads."""
        ...


class LinkProbes(Protocol):
    """Copies from one level to another; `codegen.measure.gpu` and `measure_disk` make some."""

    @property
    def source(self) -> str:
        """The level that is read."""
        ...

    @property
    def target(self) -> str:
        """The level that is written."""
        ...

    @property
    def bandwidth(self) -> Sequence[Measure]:
        """Candidates from pinned memory, alone; the fastest describes the link."""
        ...

    @property
    def pageable(self) -> Measure | None:
        """From memory that is not pinned."""
        ...

    @property
    def together(self) -> Measure | None:
        """With the way back busy: the bytes of this way."""
        ...

    @property
    def latency(self) -> Measure | None:
        """Copies of next to nothing; the amount is how many."""
        ...


class LevelProbes(Protocol):
    """The probes of one level; `codegen.measure.cpu.CpuProbes` is one."""

    @property
    def name(self) -> str:
        """The level's name."""
        ...

    @property
    def kind(self) -> str:
        """What processor: cpu or gpu."""
        ...

    @property
    def threads(self) -> int:
        """How many threads the probes use."""
        ...

    @property
    def memories(self) -> Sequence[MemoryProbes]:
        """Fastest first."""
        ...

    @property
    def matmul(self) -> Mapping[str, Sequence[Measure]]:
        """Candidates by data type."""
        ...

    @property
    def vector(self) -> Mapping[str, Sequence[Measure]]:
        """Candidates by data type."""
        ...

    @property
    def launch(self) -> Mapping[str, Measure]:
        """One probe a launch mode."""
        ...

    @property
    def vector_by_threads(self) -> Mapping[str, Mapping[int, Measure]]:
        """Some of `vector` with so many threads."""
        ...


def calibrate(
    name: str,
    levels: Sequence[LevelProbes],
    links: Sequence[LinkProbes] = (),
    *,
    versions: Mapping[str, str],
    device: str,
    rounds: int = 9,
    report: Callable[[str], None] = lambda line: None,
) -> Hardware:
    """Run every probe `rounds` times, interleaved, and return the machine's description."""
    times = _rounds(_all_measures(levels) + _link_measures(links), rounds, report)
    provenance = {
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": rounds,
        "versions": dict(versions),
        "source": "measured by weft calibrate",
    }
    made = tuple(_level(probes, times) for probes in levels)
    return Hardware(name, made, tuple(_link(probes, times) for probes in links), provenance)


def rate(amount: float, seconds: Sequence[float]) -> Rate:
    """Return work a second: the median of the runs, and the slowest and fastest one."""
    return Rate(amount / max(seconds), amount / median(seconds), amount / min(seconds))


Times = dict[int, list[float]]


def _all_measures(levels: Sequence[LevelProbes]) -> list[tuple[str, Measure]]:
    found: list[tuple[str, Measure]] = []
    for level in levels:
        for memory in level.memories:
            found += [(f"{memory.name} read", measure) for measure in memory.read]
            found += [(f"{memory.name} copy", measure) for measure in memory.copy]
            found += [(f"{memory.name} read by {n}", m) for n, m in memory.by_threads.items()]
            found += [(f"{memory.name} shared", m) for m in (memory.shared,) if m is not None]
        for what, table in (("matmul", level.matmul), ("vector", level.vector)):
            for dtype, measures in table.items():
                found += [(f"{what} {dtype}", measure) for measure in measures]
        for what, counts in level.vector_by_threads.items():
            found += [(f"vector {what} by {count}", each) for count, each in counts.items()]
        found += [(f"launch {mode}", measure) for mode, measure in level.launch.items()]
    return found


def _link_measures(links: Sequence[LinkProbes]) -> list[tuple[str, Measure]]:
    found: list[tuple[str, Measure]] = []
    for link in links:
        name = f"{link.source} to {link.target}"
        found += [(name, measure) for measure in link.bandwidth]
        extra = {"pageable": link.pageable, "together": link.together, "latency": link.latency}
        found += [(f"{name} {word}", each) for word, each in extra.items() if each is not None]
    return found


def _rounds(
    measures: list[tuple[str, Measure]], rounds: int, report: Callable[[str], None]
) -> Times:
    once = {id(measure): (name, measure) for name, measure in measures}
    times: Times = {key: [] for key in once}
    for number in range(rounds):
        report(f"round {number + 1} of {rounds}")
        for name, measure in once.values():
            seconds = measure.probe()
            if not 0 < seconds < float("inf"):
                raise CalibrationError(probe=name, seconds=seconds)
            times[id(measure)].append(seconds)
    return times


def _best(measures: Sequence[Measure], times: Times) -> Rate:
    rates = [rate(measure.amount, times[id(measure)]) for measure in measures]
    return max(rates, key=lambda each: each.median)


def _level(probes: LevelProbes, times: Times) -> Level:
    memories = tuple(_memory(each, times) for each in probes.memories)
    matmul = {dtype: _best(each, times) for dtype, each in probes.matmul.items()}
    vector = {dtype: _best(each, times) for dtype, each in probes.vector.items()}
    launch = {mode: _cost(times[id(each)], each.amount) for mode, each in probes.launch.items()}
    by_threads = {
        what: {count: _best([each], times) for count, each in counts.items()}
        for what, counts in probes.vector_by_threads.items()
    }
    return Level(
        probes.name, probes.kind, memories, matmul, vector, launch, probes.threads, by_threads
    )  # fmt: skip


def _memory(probes: MemoryProbes, times: Times) -> Memory:
    threads = {count: _best([each], times) for count, each in probes.by_threads.items()}
    return Memory(
        probes.name, probes.capacity, _best(probes.read, times), _best(probes.copy, times),
        _maybe(probes.shared, times), threads,
    )  # fmt: skip


def _link(probes: LinkProbes, times: Times) -> Link:
    latency = probes.latency
    return Link(
        probes.source, probes.target, _best(probes.bandwidth, times),
        _maybe(probes.pageable, times), _maybe(probes.together, times),
        None if latency is None else _cost(times[id(latency)], latency.amount),
    )  # fmt: skip


def _maybe(measure: Measure | None, times: Times) -> Rate | None:
    return None if measure is None else _best([measure], times)


def _cost(seconds: Sequence[float], amount: float) -> Rate:
    return Rate(min(seconds) / amount, median(seconds) / amount, max(seconds) / amount)
