"""Which experts the CPU computes: the coldest of those in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.offload.schedules import PipelineShape

LEAST_GAIN = 0.1
"""The share of the CPU's pairs that a change must save; less is noise."""


def colder(shape: PipelineShape, taken: Sequence[Sequence[int]]) -> PipelineShape | None:
    """Return the shape with each layer's coldest parked experts on the CPU, or None.

    `taken` counts pairs by layer and expert. Only experts whose pages are in host memory change
    places (streamed and CPU), so nothing is copied; None where too few pairs would be saved.
    """
    ringed, cpu = [], []
    before = after = 0
    for i in range(shape.layers):
        mine, disk = shape.pages_of("cpu", i), shape.pages_of("disk", i)
        parked = [p for p in (*shape.ringed[i], *mine) if p not in disk]
        by_heat = sorted(parked, key=lambda p: (taken[i][p], p not in mine, p))
        chosen = tuple(sorted(by_heat[: len(mine)]))
        before += sum(taken[i][p] for p in mine)
        after += sum(taken[i][p] for p in chosen)
        cpu.append(chosen)
        ringed.append(tuple(sorted(set(shape.ringed[i]) - set(chosen) | (set(mine) - set(chosen)))))
    if before == 0 or (before - after) / before < LEAST_GAIN:
        return None
    return replace(shape, cpu=tuple(cpu), ringed=tuple(ringed))
