"""What a machine can do: levels of memory with their processors, links between them, launch costs.

A level is one level of the hierarchical roofline (MoE-Lightning, ASPLOS 2025, section 3.2): a
memory and the processor beside it. Its memories are listed fastest (caches) to slowest.
Every figure is a `Rate`: smallest, median and largest of what was measured; equal when nominal.
Units: bandwidths in bytes/s, compute rates in FLOP/s, capacities in bytes, launch costs in s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ir.diagnostics import WeftNameError
from ..ir.display.units import bytes_text, counted, seconds_text, si
from ..ir.display.view import Facts, Grid, Shown, View


class NoSuchFigure(WeftNameError):
    """A level, a link, a data type or a launch mode that a hardware description does not have."""

    kind = "hardware error"
    template = "hardware {hardware!r} has no {what} {name!r}"
    hint = (
        "it has: {known}; `weft calibrate` writes all that it measures, `--hardware h200` is whole"
    )


@dataclass(frozen=True)
class Rate:
    """A measured figure with its error bar: min <= median <= max."""

    min: float
    median: float
    max: float

    @staticmethod
    def exact(value: float) -> Rate:
        """Return a figure without an error bar (a data sheet's, or an assumption)."""
        return Rate(value, value, value)

    def scaled(self, factor: float) -> Rate:
        """Return the figure times a positive factor."""
        return Rate(self.min * factor, self.median * factor, self.max * factor)


@dataclass(frozen=True)
class Memory:
    """A memory of a level: `read` is a pure read, `copy` counts bytes read plus bytes written.

    `shared` is what reads of the processor and copies over links move together, where that was
    measured; `by_threads` is the read bandwidth of so many threads.
    """

    name: str
    capacity: float
    read: Rate
    copy: Rate
    shared: Rate | None = None
    by_threads: Mapping[int, Rate] = field(default_factory=dict)


@dataclass(frozen=True)
class Level:
    """A processor and the memories it reads, fastest first; the last one holds everything.

    `matmul` and `vector` are rates by data type: of matrix products and of elementwise work.
    `launch` is the cost of starting one operation, by mode (eager, graph; serial, parallel).
    `vector_by_threads` has rates of `vector` on so many threads, where that was measured.
    """

    name: str
    kind: str
    memories: tuple[Memory, ...]
    matmul: Mapping[str, Rate]
    vector: Mapping[str, Rate]
    launch: Mapping[str, Rate]
    threads: int = 1
    vector_by_threads: Mapping[str, Mapping[int, Rate]] = field(default_factory=dict)

    @property
    def main(self) -> Memory:
        """The slowest memory, which holds the weights."""
        return self.memories[-1]

    def memory_for(self, size: float) -> Memory:
        """Return the fastest memory that holds `size` bytes, the main one when none does."""
        return next((memory for memory in self.memories if size <= memory.capacity), self.main)

    def matmul_rate(self, dtype: str) -> Rate:
        """Return the rate of matrix products over `dtype`, or of the next wider type it has."""
        return _widening(self, self.matmul, dtype)

    def vector_rate(self, dtype: str) -> Rate:
        """Return the rate of elementwise work in `dtype`, or in the next wider type it has."""
        return _widening(self, self.vector, dtype)

    def launch_cost(self, mode: str | None = None) -> Rate:
        """Return the cost of one launch in s; without a mode, of the first one listed."""
        if mode is None:
            return next(iter(self.launch.values()), Rate.exact(0.0))
        if mode not in self.launch:
            raise _no_figure(self.name, "launch mode", mode, self.launch)
        return self.launch[mode]


@dataclass(frozen=True)
class Link:
    """A way between two levels; `bandwidth` for pinned host memory, `pageable` for other.

    `together` is its bandwidth while the way back is busy too (two copy engines at work), and
    `latency` the seconds that a copy of next to nothing takes.
    """

    source: str
    target: str
    bandwidth: Rate
    pageable: Rate | None = None
    together: Rate | None = None
    latency: Rate | None = None


@dataclass(frozen=True)
class Hardware(Shown):
    """A machine: levels (the first is where the model runs by default), links, provenance."""

    name: str
    levels: tuple[Level, ...]
    links: tuple[Link, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def level(self, name: str | None = None) -> Level:
        """Return the level of that name; without a name, the first."""
        if name is None:
            return self.levels[0]
        found = {level.name: level for level in self.levels}
        if name not in found:
            raise _no_figure(self.name, "level", name, found)
        return found[name]

    def of_kind(self, kind: str) -> Level:
        """Return the first level of a kind, cpu or gpu; "": the first of all."""
        found = {level.kind: level for level in reversed(self.levels)}
        if kind and kind not in found:
            raise _no_figure(self.name, "level of kind", kind, found)
        return found[kind] if kind else self.levels[0]

    def link(self, source: str, target: str) -> Link:
        """Return the link from one level to another."""
        found = {f"{link.source}->{link.target}": link for link in self.links}
        key = f"{source}->{target}"
        if key not in found:
            raise _no_figure(self.name, "link", key, found)
        return found[key]

    def view(self) -> View:
        """Return its levels' figures, medians."""
        told = {key: str(self.provenance[key]) for key in ("device", "source", "date")
                if key in self.provenance}  # fmt: skip
        rows = tuple((each.of, each.name, each.text(each.rate.median)) for each in self.figures())
        grid = Grid(("level", "figure", "median"), rows)
        return View("hardware", self.name, (Facts(tuple(told.items())), grid))

    def figures(self) -> list[Figure]:
        """Return all that is known of its levels and links, in their order."""
        of_levels = [figure for level in self.levels for figure in _figures_of_level(level)]
        return of_levels + [figure for link in self.links for figure in _figures_of_link(link)]


@dataclass(frozen=True)
class Figure:
    """One rate of a machine: the level that it is `of` (or `link`), its name and unit."""

    of: str
    name: str
    rate: Rate
    unit: str

    def text(self, value: float) -> str:
        """Return a value of this figure for people."""
        return seconds_text(value) if self.unit == "s" else si(value, self.unit)


def _figures_of_level(level: Level) -> list[Figure]:
    found = [("FLOP/s", f"matmul {dtype}", rate) for dtype, rate in level.matmul.items()]
    found += [("FLOP/s", f"vector {dtype}", rate) for dtype, rate in level.vector.items()]
    found += [
        ("FLOP/s", f"vector {what} by {counted(count, 'thread')}", rate)
        for what, rates in level.vector_by_threads.items() for count, rate in rates.items()
    ]  # fmt: skip
    found += [("s", f"launch, {mode}", rate) for mode, rate in level.launch.items()]
    memories = [figure for memory in level.memories for figure in _figures_of_memory(memory)]
    return [Figure(level.name, name, rate, unit) for unit, name, rate in [*memories, *found]]


def _figures_of_memory(memory: Memory) -> list[tuple[str, str, Rate]]:
    found = {"read": memory.read, "copy": memory.copy, "read beside copies": memory.shared}
    found |= {f"read by {counted(n, 'thread')}": each for n, each in memory.by_threads.items()}
    place = f"{memory.name}, {bytes_text(memory.capacity)}"
    return [("B/s", f"{place}: {what}", rate) for what, rate in found.items() if rate is not None]


def _figures_of_link(link: Link) -> list[Figure]:
    way = f"{link.source} to {link.target}"
    found = {"": link.bandwidth, ", pageable": link.pageable, ", with the way back": link.together}
    rates = [Figure("link", way + what, rate, "B/s") for what, rate in found.items() if rate]
    return rates + [Figure("link", f"{way}, latency", rate, "s") for rate in [link.latency] if rate]


_WIDER = {
    "i8": "bf16", "u8": "bf16", "f8e4m3": "bf16", "f16": "bf16", "bf16": "f32", "f64": "f32",
}  # fmt: skip


def _widening(level: Level, rates: Mapping[str, Rate], dtype: str) -> Rate:
    name: str | None = dtype
    while name is not None and name not in rates:
        name = _WIDER.get(name)
    if name is None:
        raise _no_figure(level.name, "compute rate for", dtype, rates)
    return rates[name]


def _no_figure(hardware: str, what: str, name: str, known: Mapping[str, Any]) -> NoSuchFigure:
    return NoSuchFigure(
        hardware=hardware, what=what, name=name, known=", ".join(known) or "none at all"
    )
