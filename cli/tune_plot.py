"""`weft tune --plot`: throughput by host memory as a file, and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..options import BadOption
from .output import check_picture, write_picture
from .render import remarks

if TYPE_CHECKING:
    from ..cost_model.hrm.host_curve import HostCurve


def check(plot: Path | None, measured: Path | None) -> None:
    """Raise before a search whose plot could not be drawn or written.

    BadOption, NoPictures, NotWritten, NoRecord.
    """
    if measured is not None and plot is None:
        raise BadOption(problem="--measured is for the points of a --plot")
    check_picture(plot)
    if measured is not None:
        from ..plots.host_memory import measured_rates

        measured_rates(measured)


def draw(curve: HostCurve, title: str, plot: Path, measured: Path | None) -> None:
    """Write the picture of a curve, with what a record has of it."""
    from ..plots.host_memory import host_memory_chart, measured_rates

    points = [] if measured is None else measured_rates(measured)
    write_picture(host_memory_chart(curve, title, points), plot)
    remarks().print(f"plot saved in {plot}", markup=False)
