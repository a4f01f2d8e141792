"""What all pictures share: their class, which every notebook shows, and their colours."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO, StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's colours, which people with any colour vision can tell apart."""

INK, FAINT = "#333333", "#d9d9d9"
DOTS_PER_INCH = 80


class Picture(Figure):
    """A figure that shows itself in a notebook, without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
        """Return the picture as PNG."""
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
        return buffer.getvalue()

    def svg(self) -> str:
        """Return the picture as SVG with text as text; the same picture gives the same file."""
        buffer = StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "weft"}):
            self.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def picture(width: float = 8, height: float = 3.5, columns: int = 1) -> tuple[Picture, Any]:
    """Return an empty picture of `width` x `height` inches, and its axes: one, or a list."""
    figure = Picture(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for each in axes:
        plain(each)
    return figure, axes[0] if columns == 1 else axes


def plain(axes: Axes) -> None:
    """Leave out the lines that say nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def colour(number: int) -> str:
    """Return the colour of the n-th thing."""
    return COLOURS[number % len(COLOURS)]


def bars(
    names: Sequence[str], values: Sequence[float], unit: str, title: str = "", height: float = 0.0
) -> Picture:
    """Return lying bars, the first name on top, each with its value."""
    figure, axes = picture(7, height or 0.7 + 0.28 * len(names))
    at = range(len(names))
    axes.barh(at, values, color=COLOURS[0])
    axes.set_yticks(at, names, fontsize=8)
    axes.invert_yaxis()
    for place, value in zip(at, values, strict=True):
        axes.text(
            value,
            place,
            f" {value:,.0f}" if value >= 100 else f" {value:.3g}",
            va="center",
            fontsize=7,
            color=INK,
        )
    axes.set_xlabel(unit, fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    return figure
