"""Every kernel on the roofline: the work of the operations that it computes, in a typical step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..compiler import Compilation
from ..cost_model.binding import Binding, decode, prefill
from ..cost_model.hardware import Hardware
from ..cost_model.picture import roofs
from ..cost_model.roofline import op_time
from ..cost_model.scene import Scene, Work
from ..cost_model.work import work_of
from ..ir.core import Module, Operation
from ..ir.display.roofline import Point, RooflinePlot
from ..passes.tile.regimes import Regime
from .schedule import TokenPrices
from .stages import regime_name

CONTEXT = 256
"""Tokens that each sequence of a priced step has; the step of many rows feeds as many."""


@dataclass(frozen=True)
class KernelPrice:
    """A kernel in one regime: how often a step launches it, and what one launch takes."""

    kernel: str
    step: str
    launches: int
    work: Work
    seconds: float
    bound: str


def prices(compilation: Compilation, hardware: Hardware) -> list[KernelPrice]:
    """Return each regime's kernels with the predicted cost of a launch."""
    return [price for regime in compilation.regimes for price in _of_regime(regime, hardware)]


def picture(found: list[KernelPrice], hardware: Hardware) -> RooflinePlot:
    """Return the kernels as points under the machine's roofs."""
    resident = max((sum(p.work.resident_bytes * p.launches for p in found if p.step == step)
                    for step in {price.step for price in found}), default=0.0)  # fmt: skip
    points = tuple(
        Point(price.kernel, price.work.intensity, price.work.flops / price.seconds, price.step,
              price.seconds * price.launches, f"kernel-{price.kernel}")
        for price in found if price.work.flops and price.seconds
    )  # fmt: skip
    return roofs("every kernel on the roofline", hardware.level(), resident, points)


def token_prices(found: list[KernelPrice]) -> TokenPrices:
    """Return what a decode step of one sequence takes, and a token in a long prefill."""
    steps = {step: sum(price.seconds * price.launches for price in found if price.step == step)
             for step in (regime_name(1), regime_name(0))}  # fmt: skip
    return TokenPrices(steps[regime_name(1)], steps[regime_name(0)] / CONTEXT)


def rows_of(found: list[KernelPrice]) -> list[dict[str, Any]]:
    """Return the points as data."""
    return [
        {"kernel": price.kernel, "step": price.step, "launches": price.launches,
         "flops": price.work.flops, "bytes": price.work.bytes,
         "intensity": round(price.work.intensity, 4), "us": round(1e6 * price.seconds, 3),
         "bound": price.bound}
        for price in found
    ]  # fmt: skip


def _of_regime(regime: Regime, hardware: Hardware) -> Iterator[KernelPrice]:
    graph = next(record.before for record in regime.records if record.name == "lower-to-tiles")
    binding = decode(regime.rows, CONTEXT) if regime.rows else prefill(CONTEXT)
    works = _works(graph, binding)
    total = sum(work.resident_bytes for work in works.values())
    groups: dict[str, list[Work]] = {}
    for call in regime.function.regions[0].operations:
        if call.name in {"graph.call", "graph.library"} and call.results:
            name = call["kernel"].name if call.name == "graph.call" else call["routine"]
            known = [works[value.name] for value in call.results if value.name in works]
            groups.setdefault(name, []).extend(known[:1])
    level = hardware.level()
    launch = level.launch_cost()
    for name, members in groups.items():
        if members:
            work = _mean(members)
            seconds, memory, compute = op_time(work, level, launch, total)
            parts = {"memory": memory, "compute": compute, "launch": launch.median}
            bound = max(parts, key=lambda key: parts[key])
            step = regime_name(regime.rows)
            yield KernelPrice(name, step, len(members), work, seconds.expected, bound)


def _works(graph: Module, binding: Binding) -> dict[str, Work]:
    """Return the work of each value's operation; attention's partials count at their end."""
    scene = Scene.of(graph, binding)
    found: dict[str, Work] = {}
    for operation in graph.walk():
        work = work_of(operation, scene)
        if operation.name in {"graph.finalize", "graph.merge"}:
            work = _summed(operation, found, work)
        for value in operation.results:
            found[value.name] = work
    return found


def _summed(operation: Operation, found: dict[str, Work], work: Work) -> Work:
    for value in operation.operands:
        work = found.get(value.name, Work()) + work
    return work


def _mean(works: list[Work]) -> Work:
    """Return the mean work of launches of one kernel: layers are alike, but for their windows."""
    total = works[0]
    for work in works[1:]:
        total = total + work
    share = 1 / len(works)
    return replace(
        total, flops=total.flops * share, weight_bytes=total.weight_bytes * share,
        activation_bytes=total.activation_bytes * share,
        kv_read_bytes=total.kv_read_bytes * share,
        kv_written_bytes=total.kv_written_bytes * share,
    )  # fmt: skip
