"""Pictures over time: tracks of intervals (a Gantt chart), and amounts that change in steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .markup import Markup, element
from .plot import COLOURS, LETTER, Scale, cut, fits, label, legend, segment, svg, x_axis, y_axis
from .units import seconds_text

TRACK, TOP, BOTTOM, RIGHT = 24.0, 12.0, 56.0, 18.0


@dataclass(frozen=True)
class Interval:
    """A stretch of time in seconds on a track; `kind` gives the colour."""

    start: float
    end: float
    name: str
    kind: str = ""
    key: str = ""


@dataclass(frozen=True)
class Track:
    """A row of intervals that do not overlap, or that nest."""

    name: str
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class Timeline:
    """Tracks under one another over one axis of time."""

    title: str
    tracks: tuple[Track, ...]
    width: float = 720.0
    unit: str = "s"
    """What times are counted in: seconds, or something else that is named on the axis."""
    colours: tuple[tuple[str, str], ...] = ()
    """The colours of kinds that should not have the next one of the palette."""

    def say(self, time: float) -> str:
        """Return a time for people."""
        return seconds_text(time) if self.unit == "s" and time else f"{time:g}"

    @property
    def _span(self) -> tuple[float, float]:
        times = [t for track in self.tracks for i in track.intervals for t in (i.start, i.end)]
        return min(times, default=0.0), max(times, default=1.0)

    def kinds(self) -> dict[str, str]:
        """Return the colour of each kind, in order of appearance."""
        found = dict.fromkeys(i.kind for track in self.tracks for i in track.intervals if i.kind)
        palette = {kind: COLOURS[at % len(COLOURS)] for at, kind in enumerate(found)}
        return {kind: dict(self.colours).get(kind, colour) for kind, colour in palette.items()}

    def svg(self) -> str:
        """Return the picture."""
        left = 14 + LETTER * max((len(track.name) for track in self.tracks), default=0)
        first, last = self._span
        scale = Scale(0.0, max(last - first, 1e-9), left, self.width - RIGHT)
        bottom = TOP + TRACK * len(self.tracks)
        colours, parts = self.kinds(), []
        for row, track in enumerate(self.tracks):
            y = TOP + TRACK * row
            parts.append(label(left - 8, y + 16, track.name, "end"))
            parts += [_bar(i, first, y + 3, scale, colours, self.say) for i in track.intervals]
        names = [(kind, colour) for kind, colour in colours.items()]
        unit = "" if self.unit == "s" else self.unit
        below = bottom + (54 if unit else 40)
        return svg(
            self.width, below + BOTTOM - 40, self.title,
            x_axis(scale, TOP, bottom, self.say, unit), *parts, legend(names, left, below),
        )  # fmt: skip

    def text(self, width: int = 80) -> str:
        """Return one line a track: where something runs, by the first letter of its kind."""
        left = max((len(track.name) for track in self.tracks), default=0)
        room, (first, last) = max(10, width - left - 2), self._span
        lines = []
        for track in self.tracks:
            cells = ["·"] * room
            for interval in track.intervals:
                start, end = (_cell(t, first, last, room) for t in (interval.start, interval.end))
                start = min(start, room - 1)  # what ends everything is seen, too
                letter = (interval.kind or interval.name or "█")[0]
                cells[start : max(end, start + 1)] = [letter] * max(end - start, 1)
            lines.append(f"{track.name:>{left}}  {''.join(cells[:room])}")
        kinds = ", ".join(f"{kind[0]} {kind}" for kind in self.kinds())
        return cut([*lines, f"{'':>{left}}  {self.say(last - first)}; {kinds}"], width)


@dataclass(frozen=True)
class Series:
    """An amount that keeps each value until the next time: (seconds, amount)."""

    name: str
    values: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Amounts:
    """Amounts over time, in steps; `limit` is drawn as a line that they may not cross."""

    title: str
    series: tuple[Series, ...]
    unit: str = ""
    limit: float = 0.0
    limit_name: str = "capacity"
    width: float = 720.0
    height: float = 220.0

    @property
    def _span(self) -> tuple[float, float]:
        times = [time for one in self.series for time, _ in one.values]
        return min(times, default=0.0), max(times, default=1.0)

    def svg(self) -> str:
        """Return the picture."""
        first, last = self._span
        peak = max((v for one in self.series for _, v in one.values), default=1.0)
        near = self.limit if self.limit and self.limit <= 3 * peak else 0.0
        x = Scale(0.0, max(last - first, 1e-9), 72.0, self.width - RIGHT)
        y = Scale(0.0, 1.1 * max(peak, near, 1e-9), self.height - BOTTOM, 26.0)
        names = [(one.name, COLOURS[at % len(COLOURS)]) for at, one in enumerate(self.series)]
        drawn = [_area(one, first, last, x, y, names[at][1]) for at, one in enumerate(self.series)]
        limit: list[Markup] = []
        if near:
            limit = [segment(x.start, y(near), x.end, y(near), "roof minor"),
                     label(x.end - 4, y(near) - 5, self.limit_name, "end")]  # fmt: skip
        return svg(
            self.width, self.height, self.title,
            x_axis(x, 26.0, y.start, lambda time: seconds_text(time) if time else "0"),
            y_axis(y, 72.0, self.width - RIGHT, lambda value: f"{value:,.6g}", self.unit),
            *drawn, *limit, legend(names, 72.0, self.height - 14),
        )  # fmt: skip

    def text(self, width: int = 80) -> str:
        """Return each amount as a row of bars, and its peak."""
        left = max((len(one.name) for one in self.series), default=0)
        room = width - left - 24
        span = self._span
        rows = [f"{one.name:>{left}}  {self._bars(one, room, span)}" for one in self.series]
        return cut(rows, width)

    def _bars(self, one: Series, room: int, span: tuple[float, float]) -> str:
        peak = max((v for _, v in one.values), default=0.0)
        if not peak:
            return "0 throughout"
        first, last = span
        cells = [0.0] * max(room, 10)
        ends = [*(time for time, _ in one.values[1:]), last]
        for (time, value), end in zip(one.values, ends, strict=True):
            start, stop = (_cell(each, first, last, len(cells) - 1) for each in (time, end))
            for at in range(start, stop + 1):
                cells[at] = max(cells[at], value)
        bars = "".join(" ▁▂▃▄▅▆▇█"[round(8 * value / peak)] for value in cells)
        return f"{bars} peak {peak:,.6g} {self.unit}"


def _cell(time: float, first: float, last: float, room: int) -> int:
    return round((time - first) / (last - first) * room) if last > first else 0


def _bar(one: Interval, first: float, y: float, x: Scale, colours: dict[str, str],
         say: Callable[[float], str]) -> Markup:  # fmt: skip
    start, end = x(one.start - first), x(one.end - first)
    said = f"{one.name}\n{say(one.end - one.start)} at {say(one.start - first)}"
    width = max(end - start, 0.75)
    bar = element("rect", element("title", said), x=f"{start:.2f}", y=f"{y:.1f}",
                  width=f"{width:.2f}", height=TRACK - 6, rx=2 if width > 6 else None,
                  class_=f"bar {colours.get(one.kind, 'blue')}", data_key=one.key or None,
                  data_name=one.name)  # fmt: skip
    name = fits(one.name, width - 8)
    inside = element("text", name, x=f"{start + 5:.1f}", y=f"{y + 13:.1f}", class_="on-bar")
    return bar + inside if name else bar


def _area(one: Series, first: float, last: float, x: Scale, y: Scale, colour: str) -> Markup:
    if not one.values:
        return Markup()
    path, previous = [], one.values[0][1]
    for time, value in one.values:
        path += [
            f"L{x(time - first):.1f} {y(previous):.1f}",
            f"L{x(time - first):.1f} {y(value):.1f}",
        ]
        previous = value
    path.append(f"L{x(last - first):.1f} {y(previous):.1f}")
    start = x(one.values[0][0] - first)
    inside = f"M{start:.1f} {y(0):.1f} {' '.join(path)} L{x(last - first):.1f} {y(0):.1f}Z"
    return element("path", element("title", one.name), d=inside, class_=f"area {colour}")
