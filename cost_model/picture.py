"""A step's operations on a machine's roofline, to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..ir.display.roofline import Ceiling, Point, RooflinePlot, Slope
from ..ir.display.units import seconds_text
from ..ir.display.view import Facts, Figure, Shown, View
from .hardware import Level
from .report import grouped, short
from .roofline import OpCost


@dataclass(frozen=True)
class Roofline(Shown):
    """Priced operations under the roofs of one level; repeats (layers) make one point.

    Each point stands at its FLOPs a byte and at the FLOP/s that its predicted time means.
    """

    title: str
    level: Level
    costs: tuple[OpCost, ...]

    @staticmethod
    def of(title: str, level: Level, costs: Iterable[OpCost]) -> Roofline:
        """Return the roofline of some costs, those of like operations joined."""
        return Roofline(title, level, tuple(grouped(costs)))

    @property
    def working_set(self) -> float:
        """Bytes of weights and KV that the step touches: they decide which memory it reads."""
        return sum(cost.work.resident_bytes for cost in self.costs)

    def plot(self) -> RooflinePlot:
        """Return the picture."""
        return roofs(self.title, self.level, self.working_set, tuple(self._points()), self._dtype)

    @property
    def _dtype(self) -> str:
        return next((cost.work.dtype for cost in self.costs if cost.work.dense), "f32")

    def view(self) -> View:
        """Return the picture with what the step takes."""
        total = sum(cost.seconds.expected for cost in self.costs)
        facts = (("predicted", seconds_text(total)), ("on", self.level.name))
        return View("roofline", self.title, (Facts(facts), Figure(self.plot())))

    def _points(self) -> Iterable[Point]:
        for cost in self.costs:
            seconds = cost.seconds.expected
            if cost.work.flops and cost.work.bytes and seconds:
                name = f"{short(cost.operation)} {short(cost.label)}"
                rate = cost.work.flops / seconds
                yield Point(name, cost.work.intensity, rate, f"{cost.bound} bound", seconds)


def roofs(
    title: str, level: Level, working_set: float, points: tuple[Point, ...] = (),
    dtype: str = "f32",
) -> RooflinePlot:  # fmt: skip
    """Return a level's roofs with points below them.

    The memory that holds `working_set` bytes gives the roof; the others are drawn faintly.
    """
    home = level.memory_for(working_set)
    slopes = tuple(
        Slope(f"{memory.name} read", memory.read.median, minor=memory is not home)
        for memory in level.memories
    )
    ceilings = (
        Ceiling(f"{dtype} matmul", level.matmul_rate(dtype).median),
        Ceiling("f32 vector", level.vector_rate("f32").median, minor=True),
    )
    return RooflinePlot(title, slopes, ceilings, points)
