"""Predictions beside measurements: on a roofline, and as intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..cost_model.hardware import Level
from ..cost_model.picture import Roofline
from ..cost_model.report import Comparison
from ..cost_model.roofline import OpCost
from ..ir.display.roofline import Point, RooflinePlot
from ..ir.display.view import Figure, Said, Shown, View
from .style import COLOURS, INK, Picture, picture

LEAST_FLOPS = 1.0
"""Operations below it (copies of rows) have no place on a roofline."""


@dataclass(frozen=True)
class MeasuredRoofline(Shown):
    """A roofline with a point for each kind of operation, and a ring where it was measured.

    `measured_s` is seconds by operation name, all its launches of a step together.
    """

    title: str
    level: Level
    costs: tuple[OpCost, ...]
    measured_s: Mapping[str, float]

    def plot(self) -> RooflinePlot:
        """Return the picture."""
        kinds = by_name(self.costs)
        base = Roofline.of(self.title, self.level, self.costs).plot()
        predicted = [self._point(name, cost, cost.seconds.expected) for name, cost in kinds.items()]
        reached = [
            replace(self._point(name, kinds[name], seconds), hollow=True)
            for name, seconds in self.measured_s.items()
            if name in kinds
        ]
        return replace(base, points=(*predicted, *reached))

    def view(self) -> View:
        """Return the picture, and how to read it."""
        said = Said("A point is what the cost model predicts, a ring what was measured.")
        return View("roofline", self.title, (Figure(self.plot()), said))

    def _point(self, name: str, cost: OpCost, seconds: float) -> Point:
        label = name.removeprefix("graph.")
        return Point(label, cost.work.intensity, cost.work.flops / seconds, label, seconds)


def by_name(costs: Iterable[OpCost]) -> dict[str, OpCost]:
    """Return the work and time of each kind of operation that computes, all launches together."""
    kinds: dict[str, OpCost] = {}
    for cost in costs:
        if cost.work.flops >= LEAST_FLOPS:
            seen = kinds.get(cost.operation)
            kinds[cost.operation] = cost if seen is None else replace(
                seen, work=seen.work + cost.work, seconds=seen.seconds + cost.seconds
            )  # fmt: skip
    return kinds


def comparison_chart(comparisons: Sequence[Comparison], title: str = "") -> Picture:
    """Return predicted intervals (bars) with what was measured (dots), in microseconds."""
    figure, axes = picture(7.5, 0.9 + 0.34 * len(comparisons))
    for number, each in enumerate(comparisons):
        low, high = 1e6 * each.predicted.low, 1e6 * each.predicted.high
        axes.barh(number, high - low, left=low, height=0.5, color=COLOURS[5])
        expected = 1e6 * each.predicted.expected
        axes.plot([expected, expected], [number - 0.25, number + 0.25], color=INK, linewidth=1)
        axes.plot(1e6 * each.measured_s, number, "o", color=COLOURS[1])
        told = f"  x{each.ratio:.2f}"
        axes.text(max(1e6 * each.measured_s, high), number, told, va="center", fontsize=7)
    names = [each.name.removeprefix("graph.") for each in comparisons]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("microseconds", fontsize=8)
    told = "bar: predicted, from best to worst; dot: measured; x: measured over expected"
    axes.set_title(title or told, fontsize=9, loc="left")
    return figure
