"""What the passes of a compilation did, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .style import FAINT, Picture, colour, picture


def pass_chart(records: Sequence[Any]) -> Picture:
    """Return, pass by pass (`PassRecord`s), milliseconds and the operations of the module after it.

    A pass that changed nothing is grey.
    """
    figure, (times, sizes) = picture(9, 0.9 + 0.26 * len(records), columns=2)
    at = range(len(records))
    shades = [colour(0) if record.changed else FAINT for record in records]
    times.barh(at, [1000 * record.seconds for record in records], color=shades)
    times.set_yticks(at, [record.name for record in records], fontsize=8)
    times.set_title("milliseconds (grey: changed nothing)", fontsize=9, loc="left")
    counts = [sum(1 for _ in record.after.walk()) for record in records]
    sizes.barh(at, counts, color=shades)
    for place, (count, record) in enumerate(zip(counts, records, strict=True)):
        change = count - sum(1 for _ in record.before.walk())
        sizes.text(count, place, f" {count} ({change:+})", va="center", fontsize=7)
    sizes.set_yticks(at, [""] * len(records))
    sizes.margins(x=0.2)
    sizes.set_title("operations after it", fontsize=9, loc="left")
    for axes in (times, sizes):
        axes.invert_yaxis()
    return figure
