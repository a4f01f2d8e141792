"""A discrete-event simulator of pipelines: queues in order, waits, and resources that all share.

Tasks of different queues may use one memory, link or processor. When together they ask for more
than it gives they slow each other down in proportion: the roof that the published hierarchical
model leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from ..ir.diagnostics import PassError


class SimulationError(PassError):
    """A pipeline that cannot run to its end, or a task without a time."""

    kind = "simulation error"
    template = "{problem}"


class Queued(Protocol):
    """A task to the simulator; `ir.offload.pipeline.Task` is one."""

    @property
    def name(self) -> str:
        """Its name, unique."""
        ...

    @property
    def queue(self) -> str:
        """Where it is queued; a queue runs its tasks in the order listed."""
        ...


@dataclass(frozen=True)
class Cost:
    """What a task takes alone: seconds, and amounts of shared resources within them.

    An amount is in any unit of its capacity: bytes, or seconds of a processor whose capacity is 1.
    """

    seconds: float
    uses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    """When each task started and ended, in seconds."""

    start: dict[str, float]
    end: dict[str, float]
    queues: dict[str, tuple[str, ...]]

    @property
    def seconds(self) -> float:
        """When the last task ended."""
        return max(self.end.values(), default=0.0)

    def busy(self, queue: str) -> float:
        """Return the share of the time that a queue was at work."""
        spent = sum(self.end[name] - self.start[name] for name in self.queues[queue])
        return spent / self.seconds if self.seconds else 0.0


def simulate(
    tasks: Sequence[Queued],
    predecessors: Mapping[str, Sequence[str]],
    costs: Mapping[str, Cost],
    capacities: Mapping[str, float] | None = None,
) -> Timeline:
    """Return the timeline of tasks whose predecessors include the one before on their queue.

    `capacities` gives each shared resource's amount a second; one that is left out is unbounded.
    Raises SimulationError for a task without a cost, or with one that is no time, for a resource
    that gives nothing, and for tasks that wait in a circle.
    """
    _check([task.name for task in tasks], costs, capacities or {})
    queues: dict[str, list[str]] = {}
    for task in tasks:
        queues.setdefault(task.queue, []).append(task.name)
    run = _Run(predecessors, costs, capacities or {})
    run.all([task.name for task in tasks])
    return Timeline(run.start, run.end, {q: tuple(n) for q, n in queues.items()})


def _check(
    names: Sequence[str], costs: Mapping[str, Cost], capacities: Mapping[str, float]
) -> None:  # fmt: skip
    for name in names:
        if name not in costs:
            raise SimulationError(problem=f"task {name} has no cost")
        if not 0 <= costs[name].seconds < inf:
            raise SimulationError(problem=f"task {name} takes {costs[name].seconds} seconds")
    for resource, amount in capacities.items():
        if not amount > 0:
            raise SimulationError(problem=f"{resource} gives {amount} a second")


class _Run:
    """The state of one simulation: what runs now and how much of it is left."""

    def __init__(
        self,
        predecessors: Mapping[str, Sequence[str]],
        costs: Mapping[str, Cost],
        capacities: Mapping[str, float],
    ) -> None:
        self.costs, self.capacities = costs, capacities
        self.predecessors = predecessors
        self.open = {name: len(set(before)) for name, before in predecessors.items()}
        self.after: dict[str, list[str]] = {}
        for name, before in predecessors.items():
            for other in set(before):
                self.after.setdefault(other, []).append(name)
        self.left: dict[str, float] = {}
        self.rates: dict[str, list[tuple[str, float]]] = {}
        self.now = 0.0
        self.start: dict[str, float] = {}
        self.end: dict[str, float] = {}

    def all(self, names: Sequence[str]) -> None:
        for name in names:
            if not self.open.get(name, 0):
                self._begin(name)
        while self.left:
            self._advance()
        stuck = [name for name in names if name not in self.end]
        if stuck:
            waits = ", ".join(b for b in self.predecessors[stuck[0]] if b not in self.end)
            raise SimulationError(problem=f"task {stuck[0]} never starts: it waits for {waits}")

    def _begin(self, name: str) -> None:
        self.start[name] = self.now
        self.left[name] = self.costs[name].seconds
        self.rates[name] = self._rates(name)

    def _advance(self) -> None:
        speeds = self._speeds()
        step = min(self.left[name] / speeds[name] for name in self.left)
        self.now += step
        done = []
        for name in self.left:
            self.left[name] -= step * speeds[name]
            if self.left[name] <= 1e-15 * self.now:
                done.append(name)
        for name in done:
            del self.left[name]
            self.end[name] = self.now
        for name in done:
            for follower in self.after.get(name, ()):
                self.open[follower] -= 1
                if not self.open[follower]:
                    self._begin(follower)

    def _speeds(self) -> dict[str, float]:
        """1 for tasks that run as if alone; less where they ask too much of what they share."""
        asked: dict[str, float] = {}
        for name in self.left:
            for resource, rate in self.rates[name]:
                asked[resource] = asked.get(resource, 0.0) + rate
        given = {
            resource: min(1.0, self.capacities[resource] / rate)
            for resource, rate in asked.items()
            if rate
        }
        return {
            name: min((given.get(r, 1.0) for r, _ in self.rates[name]), default=1.0)
            for name in self.left
        }

    def _rates(self, name: str) -> list[tuple[str, float]]:
        """What a task asks of each bounded resource a second when it runs alone."""
        cost = self.costs[name]
        if cost.seconds <= 0:
            return []
        return [(r, amount / cost.seconds) for r, amount in cost.uses.items()
                if r in self.capacities and amount]  # fmt: skip
