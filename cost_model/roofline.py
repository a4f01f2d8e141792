"""Rooflines: the time an operation cannot beat, what limits it, and a table for a graph module.

time = max(flops / rate, bytes / bandwidth) + launch; weights and KV stream from the fastest memory
that holds them all, activations from the fastest that holds the operation's own. `hrm.equations`
says where data should be computed when it is not beside its processor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..ir.core import Module, Operation, Symbol
from ..ir.display.view import Shown, View
from .binding import Binding, Formats
from .hardware import Hardware, Level, Rate
from .scene import Scene, Work
from .work import total, work_of


@dataclass(frozen=True)
class Interval:
    """Seconds: the least, the expected and the most that the hardware's error bars allow."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Interval) -> Interval:
        return Interval(
            self.low + other.low, self.expected + other.expected, self.high + other.high
        )

    def holds(self, seconds: float, slack: float = 0.0) -> bool:
        """Return whether a time lies within the interval, widened by the fraction `slack`."""
        return self.low * (1 - slack) <= seconds <= self.high * (1 + slack)


@dataclass(frozen=True)
class OpCost:
    """The price of one operation; `bound` is memory, compute, launch or none."""

    operation: str
    label: str
    work: Work
    seconds: Interval
    memory_s: float
    compute_s: float
    launch_s: float
    bound: str


@dataclass(frozen=True)
class StepCost(Shown):
    """The price of a whole step: its operations one after another."""

    operations: tuple[OpCost, ...]
    seconds: Interval
    work: Work

    def bound_share(self, bound: str) -> float:
        """Return the share of the expected time that operations with this bound take."""
        spent = sum(cost.seconds.expected for cost in self.operations if cost.bound == bound)
        return spent / self.seconds.expected if self.seconds.expected else 0.0

    def view(self) -> View:
        """Return the table of its operations with their shares of the time."""
        from .report import step_view

        return step_view(self)


def op_time(
    work: Work, level: Level, launch: Rate, working_set: float = 0.0
) -> tuple[Interval, float, float]:
    """Return the interval, and the expected memory and compute seconds, of one operation.

    `working_set` is the bytes of weights and KV that a whole step touches.
    """
    resident = level.memory_for(max(working_set, work.resident_bytes)).read
    local = level.memory_for(work.activation_bytes).copy
    rate = (level.matmul_rate if work.dense else level.vector_rate)(work.dtype)
    bounds = []
    for pick in ("max", "median", "min"):
        memory = work.resident_bytes / getattr(resident, pick)
        memory += work.activation_bytes / getattr(local, pick)
        bounds.append((memory, work.flops / getattr(rate, pick)))
    starts = (launch.min, launch.median, launch.max)
    times = [max(both) + start for both, start in zip(bounds, starts, strict=True)]
    return Interval(*times), *bounds[1]


def predict(
    module: Module,
    binding: Binding,
    hardware: Hardware,
    *,
    formats: Formats = Formats(),  # noqa: B008
    launch: str | None = None,
) -> list[OpCost]:
    """Return the price of every operation of a graph module that does work, in order.

    `launch` is a mode of the level (eager, graph, serial, parallel); None: the first listed.
    """
    place = hardware.level()
    scene = Scene.of(module, binding, formats)
    named = [(_label(op, scene), op.name, work_of(op, scene)) for op in module.walk()]
    busy = [(label, name, work) for label, name, work in named if work.bytes or work.flops]
    working_set = sum(work.resident_bytes for _, _, work in busy)
    start = place.launch_cost(launch)
    return [_price(label, name, work, place, start, working_set) for label, name, work in busy]


def step(costs: Iterable[OpCost]) -> StepCost:
    """Return the sum of operation prices."""
    operations = tuple(costs)
    seconds = Interval(0.0, 0.0, 0.0)
    for cost in operations:
        seconds = seconds + cost.seconds
    return StepCost(operations, seconds, total([cost.work for cost in operations]))


def _price(
    label: str, name: str, work: Work, level: Level, launch: Rate, working_set: float
) -> OpCost:
    seconds, memory, compute = op_time(work, level, launch, working_set)
    parts = {"memory": memory, "compute": compute, "launch": launch.median}
    bound = max(parts, key=lambda key: parts[key])
    return OpCost(name, label, work, seconds, memory, compute, launch.median, bound)


def _label(operation: Operation, scene: Scene) -> str:
    """Return the weight's name, or the result's, that tells one operation from its like."""
    for value in operation.operands:
        if scene.is_weight(value):
            return weight_name(scene.definitions[value.name])
    if operation.attribute("layer") is not None:
        return f"layer {operation['layer']}"
    return operation.results[0].name if operation.results else ""


def weight_name(operation: Operation) -> str:
    """Return the (first) checkpoint name of a `graph.weight`."""
    name = operation.attribute("name", operation.attribute("tensors", ""))
    while isinstance(name, tuple):
        name = name[0]
    return name.name if isinstance(name, Symbol) else str(name)
