"""A tree of stretches, as bars: where each begins, how long it is, and how many read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .markup import Markup, element
from .plot import Scale, cut, fits, label, legend, segment, svg, x_axis

ROW, TOP, BOTTOM, LEFT = 22.0, 26.0, 56.0, 12.0


@dataclass(frozen=True)
class Stretch:
    """`length` units from position `start`, read by `readers`; its children begin at its end."""

    start: float
    length: float
    text: str
    readers: int
    children: tuple[Stretch, ...] = field(default=())
    key: str = ""

    def walk(self) -> Iterator[tuple[int, Stretch]]:
        """Yield (depth, stretch), parents first."""
        todo = [(0, self)]
        while todo:
            depth, stretch = todo.pop()
            yield depth, stretch
            todo += [(depth + 1, child) for child in reversed(stretch.children)]


@dataclass(frozen=True)
class StretchTree:
    """The bars of some trees; a bar that many read is darker."""

    title: str
    roots: tuple[Stretch, ...]
    unit: str = "tokens"
    width: float = 720.0

    def svg(self) -> str:
        """Return the picture."""
        bars = [entry for root in self.roots for entry in root.walk()]
        total = max((one.start + one.length for _, one in bars), default=1.0)
        scale = Scale(0.0, max(total, 1.0), LEFT, self.width * 0.55)
        bottom = TOP + ROW * len(bars)
        rows = {id(one): row for row, (_, one) in enumerate(bars)}
        return svg(
            self.width, bottom + BOTTOM, self.title,
            x_axis(scale, TOP, bottom, lambda value: f"{value:g}", self.unit),
            *(_links(one, rows, scale) for _, one in bars),
            *(self._bar(one, rows[id(one)], scale) for _, one in bars),
            legend([("read by several calls", "blue"), ("read by one", "dim")],
                   self.width * 0.55 + 40, bottom + 24),
        )  # fmt: skip

    def text(self, width: int = 80) -> str:
        """Return one line a stretch, children indented."""
        lines = []
        for root in self.roots:
            for depth, one in root.walk():
                said = (
                    f"{'  ' * depth}{one.length:g} {self.unit}, {one.readers} readers: {one.text}"
                )
                lines.append(said)
        return cut(lines, width)

    def _bar(self, one: Stretch, row: int, scale: Scale) -> Markup:
        x, y = scale(one.start), TOP + ROW * row
        width = max(scale(one.start + one.length) - x, 2.0)
        said = f"{one.text}\n{one.length:g} {self.unit} from {one.start:g}, {one.readers} readers"
        colour = "blue" if one.readers > 1 else "dim"
        bar = element("rect", element("title", said), x=f"{x:.1f}", y=f"{y + 4:.1f}", rx=2,
                      width=f"{width:.1f}", height=ROW - 8, class_=f"bar {colour}",
                      data_key=one.key or None, data_name=one.text)  # fmt: skip
        count = f"{one.length:g} × {one.readers}"
        at = x + width + 7
        text = fits(f"{count}   {one.text}", self.width - at - 6)
        return bar + label(at, y + 15, text, class_="strong" if one.readers > 1 else None)


def _links(one: Stretch, rows: dict[int, int], scale: Scale) -> Markup:
    """Return a line down from a stretch's end to its last child."""
    if not one.children:
        return Markup()
    x = scale(one.start + one.length)
    top, last = (
        TOP + ROW * rows[id(one)] + ROW / 2,
        TOP + ROW * rows[id(one.children[-1])] + ROW / 2,
    )
    return segment(x, top, x, last, "axis")
