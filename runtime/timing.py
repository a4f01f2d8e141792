"""How long launches take: by the host's clock, or on a GPU by events around a recorded graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from .library import Launch

ROUNDS = 20


@dataclass(frozen=True)
class BoundLaunch:
    """A launch of a step that could be run now: its number among the step's, and what it runs."""

    number: int
    kernel: str
    operation: str
    launch: Launch

    def run(self) -> None:
        """Launch it."""
        function, arguments = self.launch
        function(*arguments)


def host_seconds(run: Callable[[], None], rounds: int = ROUNDS) -> float:
    """Return the median seconds of some runs, after one that does not count."""
    run()
    return median(once_seconds(run) for _ in range(rounds))


def once_seconds(run: Callable[[], None]) -> float:
    """Return the seconds of one run by the host's clock."""
    start = perf_counter()
    run()
    return perf_counter() - start


def step_seconds(launches: Sequence[BoundLaunch], rounds: int = ROUNDS) -> list[float]:
    """Return the median seconds of each launch of a step by the host's clock, as they follow one
    another there; a first time does not count."""
    times = [[once_seconds(each.run) for each in launches] for _ in range(rounds + 1)]
    return [median(values) for values in zip(*times[1:], strict=True)]


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
    from .graphs import CudaGraphs

    replay = CudaGraphs().record(run)
    replay()
    return median(event_seconds(replay) for _ in range(rounds))


def launch_seconds(launches: Sequence[BoundLaunch], seconds: Callable[[Callable[[], None]], float],
                   function: Callable[..., Any] | None = None) -> float:  # fmt: skip
    """Return the seconds of one of some launches of a kernel, as they follow one another.

    Those of all layers run in turn, so that weights come from where they are in a step.
    `function` is launched in their stead, if given: the same kernel in another schedule.
    """

    def run() -> None:
        for each in launches:
            own, arguments = each.launch
            (function or own)(*arguments)

    return seconds(run) / len(launches)
