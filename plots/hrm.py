"""Policies of models larger than a GPU as pictures: turning points, roofs of a step, lifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cost_model.hardware import Hardware
from ..cost_model.hrm.equations import (
    attainable,
    attention_intensity,
    ffn_intensity,
    link_bound_below,
    stay_below,
)
from ..cost_model.hrm.prediction import Lift, Prediction
from ..ir.display.roofline import Ceiling, Point, RooflinePlot, Slope, Turn
from ..ir.display.view import Figure, Said, Shown, View
from ..ir.model import ModelConfig
from .style import COLOURS, FAINT, Picture, bars, picture


@dataclass(frozen=True)
class TurningPoints(Shown):
    """A GPU with its host as one roofline: what may cross the link, and what is better left.

    The axis is FLOPs a byte that would cross. Experts are drawn for each of `batches`: their
    weights are read once a step, so that intensity grows with the batch; attention's does not.
    """

    hardware: Hardware
    config: ModelConfig
    batches: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    element: float = 2.0
    dtype: str = "bf16"

    def attention_stays_below(self) -> float:
        """Return P1 of equation 9 for attention: moved at less, it is better left on the CPU."""
        own = attention_intensity(self.config.heads, self.config.kv_heads, self.element)
        return stay_below(own, self._cpu, self._link, self.dtype)

    def experts_wait_below(self) -> float:
        """Return P2 of equation 10 for experts: moved at less, the GPU waits for the link."""
        most = max(self._experts(batch) for batch in self.batches)
        return link_bound_below(most, self._gpu, self._link, self.dtype)

    def plot(self) -> RooflinePlot:
        """Return the picture."""
        gpu, cpu, link = self._gpu, self._cpu, self._link
        slopes = (
            Slope("link", link.median), Slope("host memory", cpu.main.read.median, minor=True),
            Slope("GPU memory", gpu.main.read.median, minor=True),
        )  # fmt: skip
        ceilings = (
            Ceiling("GPU", gpu.matmul_rate(self.dtype).median),
            Ceiling("CPU", cpu.matmul_rate(self.dtype).median, minor=True),
        )
        turns = (
            Turn("P1 of attention", self.attention_stays_below()),
            Turn("P2 of experts", self.experts_wait_below()),
        )
        return RooflinePlot("turning points", slopes, ceilings, tuple(self._points()), turns)

    def view(self) -> View:
        """Return the picture, and how to read it."""
        said = Said(
            "Points are what the link can feed; a ring is what the CPU attains on data left where "
            "it is. Left of P1 data is better left; left of P2 the GPU waits for the link."
        )
        return View("turning points", self.hardware.name, (Figure(self.plot()), said))

    def _points(self) -> list[Point]:
        own = attention_intensity(self.config.heads, self.config.kv_heads, self.element)
        found = [self._moved("attention", own, "attention"), self._left("attention", own)]
        for batch in self.batches:
            intensity = self._experts(batch)
            found.append(self._moved(f"experts, batch {batch}", intensity, "experts"))
        return [*found, self._left("experts", self._experts(self.batches[0]))]

    def _experts(self, batch: int) -> float:
        return ffn_intensity(
            batch, self.config.experts_per_token, self.config.experts, self.element
        )

    def _moved(self, name: str, intensity: float, group: str) -> Point:
        roof = self._gpu.matmul_rate(self.dtype).median
        return Point(name, intensity, min(roof, self._link.median * intensity), group)

    def _left(self, name: str, intensity: float) -> Point:
        rate = attainable(intensity, self._cpu, self.dtype)
        return Point(f"{name} on the CPU", intensity, rate, name, hollow=True)

    @property
    def _gpu(self) -> Any:
        return self.hardware.level("gpu")

    @property
    def _cpu(self) -> Any:
        return self.hardware.level("cpu")

    @property
    def _link(self) -> Any:
        return self.hardware.link("cpu", "gpu").bandwidth


def roofs_chart(prediction: Prediction) -> Picture:
    """Return the least milliseconds that each resource needs in a step; the bound is coloured.

    The line is the step as simulated: what lies between it and the longest bar is waiting.
    """
    rows = sorted(prediction.roofs.items(), key=lambda row: -row[1])
    figure, axes = picture(7.5, 1.0 + 0.28 * len(rows))
    shades = [COLOURS[1] if name == prediction.bound else COLOURS[0] for name, _ in rows]
    axes.barh(range(len(rows)), [1e3 * seconds for _, seconds in rows], color=shades)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1e3 * prediction.step.expected, color="#333333", linewidth=1)
    axes.set_xlabel("ms a step", fontsize=8)
    rate, policy = prediction.throughput.expected, prediction.policy
    axes.set_title(
        f"{rate:,.1f} tokens/s predicted; {policy.batch} sequences in micro-batches of "
        f"{policy.micro_batch}, attention on the {policy.attention.upper()}",
        fontsize=9, loc="left",
    )  # fmt: skip
    return figure


def pages_chart(counts: Mapping[str, Mapping[str, int]]) -> Picture:
    """Return where the pages of experts lie (resident, streamed, cpu, disk), a bar a setting."""
    homes = ("resident", "streamed", "cpu", "disk")
    figure, axes = picture(7.5, 0.9 + 0.3 * len(counts))
    starts = [0] * len(counts)
    for home, shade in zip(homes, (*COLOURS[:3], FAINT), strict=True):
        values = [each.get(home, 0) for each in counts.values()]
        if any(values):
            axes.barh(range(len(counts)), values, left=starts, color=shade, label=home)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    axes.set_yticks(range(len(counts)), list(counts), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("pages of experts", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def lifts_chart(lifts: Sequence[Lift]) -> Picture:
    """Return by how many percent a quarter more of each resource would raise throughput."""
    rows = sorted(lifts, key=lambda lift: -lift.gain)
    gains = [100 * (lift.gain - 1) for lift in rows]
    return bars([lift.what for lift in rows], gains, "% more tokens/s with a quarter more of it")


def throughput_chart(rates: Mapping[float, float], what: str) -> Picture:
    """Return predicted tokens/s over an amount of memory in GiB."""
    figure, axes = picture(6.5, 2.8)
    axes.plot(list(rates), list(rates.values()), "o-", color=COLOURS[0])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{what} (GiB)", fontsize=8)
    axes.set_ylabel("tokens/s, predicted", fontsize=8)
    return figure
