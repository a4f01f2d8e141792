"""How long launches take: by the host's clock, or on a GPU by events around a recorded graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import torch

from .library import Launch, nothing

ROUNDS = 20

LEAST, LONG = 3, 0.1
"""Rounds of a step at least; and seconds that one may take to be timed `ROUNDS` times, or fewer
times as it takes longer."""


@dataclass(frozen=True)
class BoundLaunch:
    """A launch of a step that could be run now: its number among the step's, the kernel that is
    called, and what it runs: that one, or `instead` another that takes the same."""

    number: int
    kernel: str
    operation: str
    launch: Launch
    instead: str = ""

    @property
    def runs(self) -> str:
        """The name of the kernel that a step like this one runs."""
        return self.instead or self.kernel

    @property
    def idle(self) -> bool:
        """Whether a step like this one leaves it out."""
        return self.launch[0] is nothing

    def run(self) -> None:
        """Launch it."""
        function, arguments = self.launch
        function(*arguments)

    def by(self, function: Callable[..., Any]) -> BoundLaunch:
        """Return the same of another function: the kernel in another schedule."""
        return replace(self, launch=(function, self.launch[1]))


def host_seconds(run: Callable[[], None], rounds: int = ROUNDS) -> float:
    """Return the median seconds of some runs, after one that does not count."""
    run()
    return median(once_seconds(run) for _ in range(rounds))


def once_seconds(run: Callable[[], None]) -> float:
    """Return the seconds of one run by the host's clock."""
    start = perf_counter()
    run()
    return perf_counter() - start


def step_seconds(launches: Sequence[BoundLaunch]) -> list[float]:
    """Return the median seconds of each launch of a step by the host's clock, as they follow one
    another there; a first time does not count."""

    def once() -> list[float]:
        return [once_seconds(each.run) for each in launches]

    whole = max(sum(once()), 1e-9)
    rounds = min(ROUNDS, max(LEAST, int(ROUNDS * LONG / whole)))
    return [median(values) for values in zip(*(once() for _ in range(rounds)), strict=True)]


def event_seconds(run: Callable[[], None]) -> float:
    """Return the seconds that a GPU takes for what one run launches, and wait for it."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in "be")
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def graph_seconds(run: Callable[[], None], rounds: int = ROUNDS) -> float:
    """Return the median seconds that a GPU takes for some launches, recorded as one graph."""
    from ..devices.graphs import CudaGraphs

    replay = CudaGraphs().record(run)
    replay()
    return median(event_seconds(replay) for _ in range(rounds))


def launch_seconds(
    launches: Sequence[BoundLaunch], seconds: Callable[[Callable[[], None]], float]
) -> float:
    """Return the seconds of one of some launches of a kernel, as they follow one another.

    Those of all layers run in turn, so that weights come from where they are in a step.
    """

    def run() -> None:
        for each in launches:
            each.run()

    return seconds(run) / len(launches)
