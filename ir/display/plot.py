"""What pictures share: an <svg> of a size, scales with ticks, axes, legends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .markup import Markup, element, joined

COLOURS = ("blue", "orange", "green", "purple", "teal", "red")
LETTER = 6.4
"""Pixels that a letter of a label takes, about: labels are not measured."""
EDGE = 14.0
"""Pixels beyond the end of an axis in which a label may still stand."""


@dataclass(frozen=True)
class Scale:
    """From numbers to pixels: of `low..high` onto `start..end`, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a number, kept within the scale."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 8) -> list[float]:
        """Return round numbers within the scale."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, -(-(last - first + 1) // most))
            return [10.0**power for power in range(first, last + 1, step)]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / most
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
        count = math.floor(self.high / step + 1e-9)
        return [step * at for at in range(math.ceil(self.low / step - 1e-9), count + 1)]


def decades(values: Iterable[float]) -> tuple[float, float]:
    """Return powers of ten around positive numbers."""
    found = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def svg(width: float, height: float, title: str, *children: object) -> Markup:
    """Return an <svg> of a size in pixels, with its title for those who do not see it."""
    return element(
        "svg", *children, class_="weft-svg", xmlns="http://www.w3.org/2000/svg", role="img",
        aria_label=title, width=f"{width:g}", height=f"{height:g}",
        viewBox=f"0 0 {width:g} {height:g}",
    )  # fmt: skip


def label(
    x: float, y: float, text: str, anchor: str = "start", class_: str | None = None
) -> Markup:
    """Return a text at a place."""
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_,
                   text_anchor=anchor if anchor != "start" else None)  # fmt: skip


def segment(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}",
                   class_=class_)  # fmt: skip


def x_axis(scale: Scale, top: float, bottom: float, say: Callable[[float], str], name: str = ""
           ) -> Markup:  # fmt: skip
    """Return grid lines, numbers below them, and the axis's name."""
    parts: list[Markup] = []
    for tick in scale.ticks(max(2, int((scale.end - scale.start) / 80))):
        x, said = scale(tick), say(tick)
        near = x + LETTER * len(said) / 2 > scale.end + EDGE
        parts.append(segment(x, top, x, bottom, "grid"))
        parts.append(label(x + EDGE * near, bottom + 15, said, "end" if near else "middle"))
    if name:
        parts.append(label((scale.start + scale.end) / 2, bottom + 32, name, "middle"))
    return joined([*parts, segment(scale.start, bottom, scale.end, bottom, "axis")])


def y_axis(scale: Scale, left: float, right: float, say: Callable[[float], str], name: str = ""
           ) -> Markup:  # fmt: skip
    """Return grid lines, numbers to their left, and the axis's name above."""
    parts: list[Markup] = []
    for tick in scale.ticks(max(2, int(abs(scale.end - scale.start) / 42))):
        y = scale(tick)
        parts += [segment(left, y, right, y, "grid"), label(left - 8, y + 4, say(tick), "end")]
    if name:
        parts.append(label(left - 8, scale.end - 10, name, "end" if len(name) < 9 else "start"))
    return joined(parts)


def legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> Markup:
    """Return names with their colours, in one row."""
    parts: list[Markup] = []
    for name, colour in entries:
        parts.append(element("rect", x=f"{x:.1f}", y=f"{y - 9:.1f}", width=10, height=10, rx=2,
                             class_=colour))  # fmt: skip
        parts.append(label(x + 15, y, name))
        x += 15 + LETTER * len(name) + 18
    return joined(parts)


def fits(text: str, pixels: float) -> str:
    """Return a label shortened to a width, or nothing where not even three letters fit."""
    room = int(pixels / LETTER)
    if len(text) <= room:
        return text
    return text[: room - 1] + "…" if room >= 4 else ""


def cut(lines: Sequence[str], width: int) -> str:
    """Return lines as one text, none longer than `width`."""
    return "".join(f"{line[:width].rstrip()}\n" for line in lines)
