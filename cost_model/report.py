"""Text tables of prices: what is predicted, and what was measured beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..ir.display.units import seconds_text
from ..ir.display.view import Facts, Grid, View
from .hardware import Figure
from .roofline import Interval, OpCost, StepCost

Row = tuple[str, ...]

HEADER: Row = ("operation", "label", "MFLOP", "MB", "flop/B", "bound", "predicted us", "range us")


def rows(costs: Iterable[OpCost]) -> list[Row]:
    """Return one row an operation, in the columns of `HEADER`."""
    return [
        (
            cost.operation,
            cost.label,
            f"{cost.work.flops / 1e6:.3f}",
            f"{cost.work.bytes / 1e6:.3f}",
            f"{cost.work.intensity:.2f}",
            cost.bound,
            f"{cost.seconds.expected * 1e6:.1f}",
            interval(cost.seconds),
        )
        for cost in costs
    ]


def interval(seconds: Interval) -> str:
    """Return `low-high` in microseconds."""
    return f"{seconds.low * 1e6:.1f}-{seconds.high * 1e6:.1f}"


def grouped(costs: Iterable[OpCost]) -> list[OpCost]:
    """Return the costs with repeats (the layers of a model) summed: one entry a kind of work."""
    groups: dict[tuple[str, str], list[OpCost]] = {}
    for cost in costs:
        groups.setdefault((cost.operation, _generic(cost.label)), []).append(cost)
    return [_merged(label, members) for (_, label), members in groups.items()]


@dataclass(frozen=True)
class Comparison:
    """A prediction beside a measurement of the same thing."""

    name: str
    predicted: Interval
    measured_s: float

    @property
    def ratio(self) -> float:
        """Measured over predicted: 1 is a perfect prediction, 2 twice as slow as priced."""
        return self.measured_s / self.predicted.expected

    @property
    def inside(self) -> bool:
        """Whether the measurement lies within the prediction's error bars."""
        return self.predicted.holds(self.measured_s)


def compare(predicted: Mapping[str, Interval], measured_s: Mapping[str, float]) -> list[Comparison]:
    """Return comparisons of the names that were both predicted and measured (seconds)."""
    both = [name for name in predicted if name in measured_s]
    return [Comparison(name, predicted[name], measured_s[name]) for name in both]


def comparison_table(comparisons: Iterable[Comparison]) -> str:
    """Return a text table: predicted, its range, measured, and their ratio."""
    header: Row = ("operation", "predicted us", "range us", "measured us", "ratio", "inside")
    body = [
        (
            each.name,
            f"{each.predicted.expected * 1e6:.1f}",
            interval(each.predicted),
            f"{each.measured_s * 1e6:.1f}",
            f"{each.ratio:.2f}",
            "yes" if each.inside else "no",
        )
        for each in comparisons
    ]
    return table(header, body)


def step_table(cost: StepCost) -> str:
    """Return the table of a step, with its total and what bounds it."""
    shares = {kind: cost.bound_share(kind) for kind in ("memory", "compute", "launch")}
    said = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
    seconds = cost.seconds
    total = f"total {seconds.expected * 1e6:.1f} us ({interval(seconds)}); bound by {said}"
    return table(HEADER, rows(grouped(cost.operations))) + total + "\n"


def short(name: str) -> str:
    """Return an operation's or a weight's name without what all of them have."""
    name = name.removeprefix("graph.").replace(".weight", "")
    return name.removeprefix("model.").removeprefix("layers.*.")


def step_view(cost: StepCost) -> View:
    """Return a step to look at: its time, what bounds it, and each kind of work's share."""
    shown, seconds = grouped(cost.operations), cost.seconds
    bounds = ", ".join(
        f"{kind} {cost.bound_share(kind):.0%}" for kind in ("memory", "compute", "launch")
    )
    between = f"{seconds_text(seconds.low)} to {seconds_text(seconds.high)}"
    facts = (
        ("predicted", seconds_text(seconds.expected)),
        ("between", between),
        ("bound by", bounds),
    )
    shares = tuple(one.seconds.expected / (seconds.expected or 1.0) for one in shown)
    table = tuple(
        (short(one.operation), short(one.label), *row[2:6], seconds_text(one.seconds.expected))
        for one, row in zip(shown, rows(shown), strict=True)
    )
    grid = Grid((*HEADER[:6], "predicted"), table, shares=shares)
    return View("cost of a step", f"{len(cost.operations)} operations", (Facts(facts), grid))


def figure_table(figures: Iterable[Figure]) -> str:
    """Return the rates of a machine with their error bars, one a line."""
    body = [
        (each.of, each.name, *map(each.text, (each.rate.min, each.rate.median, each.rate.max)))
        for each in figures
    ]
    return table(("level", "figure", "lowest", "median", "highest"), body)


def table(header: Row, body: Sequence[Row]) -> str:
    """Return aligned text: the first two columns to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (header, *body)) for column in range(len(header))]
    lines = [_line(header, widths), "  ".join("-" * width for width in widths)]
    return "\n".join([*lines, *(_line(row, widths) for row in body)]) + "\n"


def _line(row: Row, widths: Sequence[int]) -> str:
    cells = zip(row, widths, strict=True)
    aligned = [
        cell.rjust(width) if _is_figure(cell) else cell.ljust(width) for cell, width in cells
    ]
    return "  ".join(aligned).rstrip()


def _is_figure(cell: str) -> bool:
    return cell[:1].isdigit()


def _generic(label: str) -> str:
    """Return a label without numbers: `layers.3.mlp` equals `layers.4.mlp`, and `x_1` `x`."""
    parts = re.sub(r"(_\d+)+$", "", label.replace("layer ", "layer.")).split(".")
    return ".".join("*" if part.isdigit() else part for part in parts)


def _merged(label: str, members: Sequence[OpCost]) -> OpCost:
    work, seconds = members[0].work, members[0].seconds
    for member in members[1:]:
        work, seconds = work + member.work, seconds + member.seconds
    label = f"{label} x{len(members)}" if len(members) > 1 else members[0].label
    return OpCost(
        members[0].operation, label, work, seconds,
        sum(member.memory_s for member in members), sum(member.compute_s for member in members),
        sum(member.launch_s for member in members), members[0].bound,
    )  # fmt: skip
