"""`weft tune --plot`: throughput by host memory as a file, and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..options import BadOption
from .attention import write_text
from .render import remarks

if TYPE_CHECKING:
    from ..cost_model.hrm.host_curve import HostCurve
    from ..plots.style import Picture

SUFFIXES = (".svg", ".png")


def check(plot: Path | None, measured: Path | None) -> None:
    """Raise before a search whose plot could not be drawn: BadOption, NoPictures, NoRecord."""
    if plot is not None and plot.suffix not in SUFFIXES:
        raise BadOption(problem=f"--plot {plot} is neither .svg nor .png")
    if measured is not None and plot is None:
        raise BadOption(problem="--measured is for the points of a --plot")
    if plot is not None:
        from ..stages import require_pictures

        require_pictures()
    if measured is not None:
        from ..plots.host_memory import measured_rates

        measured_rates(measured)


def draw(curve: HostCurve, title: str, plot: Path, measured: Path | None) -> None:
    """Write the picture of a curve, with what a record has of it."""
    from ..plots.host_memory import host_memory_chart, measured_rates

    points = [] if measured is None else measured_rates(measured)
    save(host_memory_chart(curve, title, points), plot)
    remarks().print(f"plot saved in {plot}", markup=False)


def save(picture: Picture, plot: Path) -> None:
    """Write a picture as its suffix says; raises BadOption."""
    if plot.suffix == ".svg":
        write_text(plot, picture.svg())
        return
    try:
        plot.write_bytes(picture.png(dots_per_inch=144))
    except OSError as error:
        problem = f"{plot} cannot be written: {error.strerror}"
        raise BadOption(problem=problem, hint="give another place") from None
