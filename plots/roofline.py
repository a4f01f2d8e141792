"""The roofline of a level with operations as points, and predictions beside measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..cost_model.hardware import Level
from ..cost_model.report import Comparison, grouped
from ..cost_model.roofline import OpCost
from .style import COLOURS, INK, Picture, colour, picture

LEAST_FLOPS = 1.0
"""Operations below it (copies of rows) have no place on a roofline."""


def roofline(
    level: Level,
    costs: Iterable[OpCost],
    measured_s: Mapping[str, float] | None = None,
    dtype: str = "f32",
    title: str = "",
) -> Picture:
    """Return attainable FLOP/s over operational intensity, with a point a kind of operation.

    A memory is a slope, each its read bandwidth; the flat roof is the rate of matrix products of
    `dtype`. A ring is where the prediction puts an operation; a dot is where `measured_s` (seconds
    by operation name, all its launches together) found it. Both logarithmic.
    """
    kinds = by_name(costs)
    figure, axes = picture(7.5, 4.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    places = {name: cost.work.intensity for name, cost in kinds.items()}
    low = min([0.1, *(0.5 * place for place in places.values())])
    high = max([100.0, *(4 * place for place in places.values())])
    _roofs(axes, level, dtype, low, high)
    for number, (name, cost) in enumerate(kinds.items()):
        shade, at = colour(number), places[name]
        predicted = cost.work.flops / cost.seconds.expected
        label = name.removeprefix("graph.")
        axes.plot(at, predicted, "o", markerfacecolor="none", markeredgecolor=shade, label=label)
        if measured_s and name in measured_s:
            reached = cost.work.flops / measured_s[name]
            axes.plot([at, at], [predicted, reached], color=shade, linewidth=0.8)
            axes.plot(at, reached, "o", color=shade, markersize=5)
    axes.set_xlim(low, high)
    axes.set_xlabel("operational intensity (FLOP per byte)", fontsize=8)
    axes.set_ylabel("FLOP/s", fontsize=8)
    told = "ring: predicted" + (", dot: measured here" if measured_s else "")
    axes.set_title(title or f"roofline of {level.name}; {told}", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def by_name(costs: Iterable[OpCost]) -> dict[str, OpCost]:
    """Return the work and time of each kind of operation that computes, all launches together."""
    from dataclasses import replace

    kinds: dict[str, OpCost] = {}
    for cost in grouped(costs):
        if cost.work.flops < LEAST_FLOPS:
            continue
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


def _roofs(axes, level: Level, dtype: str, low: float, high: float) -> None:  # noqa: ANN001
    roof = level.matmul_rate(dtype).median
    for number, memory in enumerate(level.memories):
        bandwidth = memory.read.median
        ridge = roof / bandwidth
        axes.plot([low, min(ridge, high)], [low * bandwidth, min(roof, high * bandwidth)],
                  color=INK, linewidth=1.2 if memory is level.main else 0.7,
                  linestyle="-" if memory is level.main else "--")  # fmt: skip
        axes.annotate(f"{memory.name} {bandwidth / 1e9:.0f} GB/s", (low, low * bandwidth),
                      xytext=(4, 2), textcoords="offset points", fontsize=7, rotation=0,
                      va="bottom" if number % 2 == 0 else "top")  # fmt: skip
        if memory is level.main and ridge < high:
            axes.axvline(ridge, color=INK, linewidth=0.5, linestyle=":")
    slowest = min(roof / level.main.read.median, high)
    fastest = min(roof / level.memories[0].read.median, high)
    axes.plot([min(slowest, fastest), high], [roof, roof], color=INK, linewidth=1.2)
    axes.text(high, roof, f"{dtype} products {roof / 1e9:.0f} GFLOP/s", fontsize=7, ha="right",
              va="bottom")  # fmt: skip
