"""Recorded GPU kernels as a picture: decode attention beside the copy, and beside its peers."""

from __future__ import annotations

import re

from .recorded import Recorded
from .style import COLOURS, INK, Picture, colour, picture

PEERS = ("flash", "cudnn", "flex")


def attention_chart(record: Recorded, page: int = 16) -> Picture:
    """Return, by batch and context, bandwidth as a share of a copy's: ours, and the best peer's.

    `record` is `recorded("gpu_kernels")`; cases are named BATCHxCONTEXT.
    """
    ending = f"_page{page}"
    found = [re.fullmatch(rf"decode_(\d+x\d+){ending}", name) for name in record.figures]
    cases = [match[1] for match in found if match]
    figure, axes = picture(9, 3.2)
    for number, case in enumerate(cases):
        ours = record[f"decode_{case}{ending}"]
        axes.bar(number - 0.2, ours["of_copy"], width=0.4, color=COLOURS[0],
                 label="weft" if number == 0 else None)  # fmt: skip
        best, name = _best_peer(record, case, ours)
        if name:
            axes.bar(number + 0.2, best, width=0.4, color=colour(6),
                     label="best of the peers" if number == 0 else None)  # fmt: skip
            axes.text(number + 0.2, best, name, fontsize=5, rotation=90, va="bottom", ha="center")
    axes.axhline(1.0, color=INK, linewidth=0.7)
    axes.set_xticks(range(len(cases)), cases, fontsize=7, rotation=45, ha="right")
    axes.set_ylabel("share of a copy's bandwidth", fontsize=8)
    axes.set_title(
        f"decode attention, batch x context, pages of {page}\n{record.provenance('decode')}",
        fontsize=8, loc="left",
    )  # fmt: skip
    axes.legend(fontsize=7, frameon=False)
    return figure


def _best_peer(record: Recorded, case: str, ours: dict[str, float]) -> tuple[float, str]:
    """Return the share of the copy that the fastest peer reaches, and its name."""
    if f"peers_{case}" not in record:
        return 0.0, ""
    times = {name: each for name, each in record[f"peers_{case}"].items() if name in PEERS and each}
    if not times:
        return 0.0, ""
    name = min(times, key=lambda each: times[each])
    return ours["of_copy"] * ours["us"] / times[name], name
