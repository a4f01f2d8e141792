"""The roofline plot: FLOP/s over FLOPs a byte, the machine's ceilings, work as points below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import atan2, degrees, sqrt

from .markup import Markup, element
from .plot import COLOURS, LETTER, Scale, cut, decades, label, legend, segment, svg, x_axis, y_axis
from .units import seconds_text, si

HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 400.0, 84.0, 34.0, 18.0, 62.0


@dataclass(frozen=True)
class Slope:
    """A bandwidth in bytes/s; minor ones are drawn faintly (caches, links)."""

    name: str
    rate: float
    minor: bool = False


@dataclass(frozen=True)
class Ceiling:
    """A compute rate in FLOP/s."""

    name: str
    rate: float
    minor: bool = False


@dataclass(frozen=True)
class Point:
    """Work: FLOPs a byte, FLOP/s reached or predicted; `seconds` of it give the point's size."""

    name: str
    intensity: float
    rate: float
    group: str = ""
    seconds: float = 0.0
    key: str = ""
    hollow: bool = False
    """Drawn as a ring: measured beside predicted, say."""


@dataclass(frozen=True)
class Turn:
    """An intensity at which a bound changes, as a vertical line."""

    name: str
    intensity: float


@dataclass(frozen=True)
class RooflinePlot:
    """Ceilings, slopes, points and turning points of one picture."""

    title: str
    slopes: tuple[Slope, ...]
    ceilings: tuple[Ceiling, ...]
    points: tuple[Point, ...] = ()
    turns: tuple[Turn, ...] = ()
    width: float = 720.0

    def svg(self) -> str:
        """Return the picture."""
        x, y = self._scales()
        groups = list(dict.fromkeys(point.group for point in self.points if point.group))
        colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(groups)}
        bottom = HEIGHT - BOTTOM
        return svg(
            self.width, HEIGHT, self.title,
            x_axis(x, TOP, bottom, _number, "operational intensity, FLOP a byte"),
            y_axis(y, LEFT, self.width - RIGHT, lambda value: si(value, "FLOP/s")),
            *self._roofs(x, y),
            *(self._turn(turn, x) for turn in self.turns),
            *(_point(point, colours.get(point.group, "blue"), self._longest(), x, y)
              for point in self._large_first()),
            legend([(name, colours[name]) for name in groups], LEFT, HEIGHT - 8),
        )  # fmt: skip

    def text(self, width: int = 80) -> str:
        """Return the roofs, and each point with its share of the roof above it."""
        lines = [f"{roof.name}: {si(roof.rate, 'B/s')}" for roof in self.slopes]
        lines += [f"{roof.name}: {si(roof.rate, 'FLOP/s')}" for roof in self.ceilings]
        for point in self.points:
            roof = self.attainable(point.intensity)
            share = f"{point.rate / roof:4.0%} of the roof" if roof else f"{'no arithmetic':>16}"
            said = f"{point.intensity:8.2f} FLOP/B  {si(point.rate, 'FLOP/s'):>13}"
            lines.append(f"{said}  {share}  {point.name}")
        return cut(lines, width)

    def attainable(self, intensity: float) -> float:
        """Return the FLOP/s that the major roofs allow at an intensity."""
        slopes = [roof.rate for roof in self.slopes if not roof.minor]
        ceilings = [roof.rate for roof in self.ceilings if not roof.minor]
        return min([*(rate * intensity for rate in slopes), *ceilings])

    def _scales(self) -> tuple[Scale, Scale]:
        across = [point.intensity for point in self.points] + [t.intensity for t in self.turns]
        ridge = max(c.rate for c in self.ceilings) / max(s.rate for s in self.slopes)
        x_low, x_high = decades([*across, ridge / 20, ridge * 4])
        rates = [point.rate for point in self.points] + [roof.rate for roof in self.ceilings]
        y_low, y_high = decades([*rates, self.attainable(x_low) * 2])
        return (Scale(x_low, x_high, LEFT, self.width - RIGHT, log=True),
                Scale(y_low, y_high, HEIGHT - BOTTOM, TOP, log=True))  # fmt: skip

    def _roofs(self, x: Scale, y: Scale) -> Iterator[Markup]:
        top = max(roof.rate for roof in self.ceilings)
        for roof in self.slopes:
            start, end = max(x.low, y.low / roof.rate), min(x.high, top / roof.rate)
            if end <= start:
                continue
            kind = "roof minor" if roof.minor else "roof"
            yield segment(x(start), y(start * roof.rate), x(end), y(end * roof.rate), kind)
            at = start * (end / start) ** 0.25  # where points are few
            yield _along(x, y, at, roof)
        fastest = max(roof.rate for roof in self.slopes)
        for roof in self.ceilings:
            start = max(x.low, roof.rate / fastest)
            kind = "roof minor" if roof.minor else "roof"
            yield segment(x(start), y(roof.rate), x(x.high), y(roof.rate), kind)
            said = f"{roof.name} {si(roof.rate, 'FLOP/s')}"
            yield label(
                self.width - RIGHT - 4,
                y(roof.rate) + (14 if roof.minor else -6),
                said,
                "end",
                "strong",
            )

    def _turn(self, turn: Turn, x: Scale) -> Markup:
        at, bottom = x(turn.intensity), HEIGHT - BOTTOM
        right = at + LETTER * len(turn.name) + 8 > self.width - RIGHT
        place = label(
            at - 4 if right else at + 4, bottom - 6, turn.name, "end" if right else "start"
        )
        return segment(at, TOP, at, bottom, "mark") + place

    def _longest(self) -> float:
        return max((point.seconds for point in self.points), default=0.0)

    def _large_first(self) -> list[Point]:
        return sorted(self.points, key=lambda point: -point.seconds)


def _along(x: Scale, y: Scale, at: float, roof: Slope) -> Markup:
    """Return a slope's name, written along it."""
    x0, y0 = x(at), y(at * roof.rate)
    x1, y1 = x(at * 1.2), y(at * 1.2 * roof.rate)
    angle = degrees(atan2(y1 - y0, x1 - x0))
    return element("text", f"{roof.name} {si(roof.rate, 'B/s')}", text_anchor="middle",
                   class_=None if roof.minor else "strong",
                   transform=f"translate({x0:.1f} {y0 - 7:.1f}) rotate({angle:.1f})")  # fmt: skip


def _point(point: Point, colour: str, longest: float, x: Scale, y: Scale) -> Markup:
    radius = 4.0 + (8.0 * sqrt(point.seconds / longest) if longest else 1.0)
    said = f"{point.name}\n{point.intensity:.3g} FLOP/B, {si(point.rate, 'FLOP/s')}"
    if point.seconds:
        said += f", {seconds_text(point.seconds)}"
    return element(
        "circle", element("title", said), cx=f"{x(point.intensity):.1f}",
        cy=f"{y(point.rate):.1f}", r=f"{radius:.1f}", data_key=point.key or None,
        data_name=point.name, class_=f"point {colour}{' hollow' if point.hollow else ''}",
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:g}"
