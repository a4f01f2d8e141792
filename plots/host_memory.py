"""Throughput by host memory as a picture: what is predicted, its bound, what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cost_model.hrm.host_curve import HostCurve
from ..ir.offload.page_formats import LOSSY as LOSSES
from .recorded import NoRecord
from .style import COLOURS, INK, Picture, picture

GIB = 1 << 30


@dataclass(frozen=True)
class Measured:
    """Tokens/s of decode steps by bytes of host memory, and where they were measured."""

    rates: tuple[tuple[float, float], ...]
    where: str


EXACT, LOSSY = "rate_by_host_memory", "rate_by_host_memory_int8"
"""The figures of a record that are drawn."""


def measured_rates(path: Path) -> list[Measured]:
    """Return the rates that `bench.moe_offload` recorded, for each format of pages, lossy ones
    last, if there are any; raises NoRecord."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        figures, about = content["figures"], content["sections"]["host_memory"]
        found: dict[str, list[tuple[float, float]]] = {}
        for row in (*figures[EXACT], *(figures.get(LOSSY) or ())):
            rates = found.setdefault(row.get("pages", "bf16"), [])
            rates.append((row["host_bytes"], row["tokens_per_s"]))
        gpu, commit = about["machine"].get("gpu", "?"), about["commit"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise NoRecord(path=path, what="figure", name=EXACT) from None
    where = f"measured on {gpu}, {commit}: pages of "
    return [
        Measured(tuple(sorted(rates)), f"{where}{format}{' (lossy)' if format in LOSSES else ''}")
        for format, rates in found.items()
    ]


def host_memory_chart(
    curve: HostCurve, title: str = "", measured: Sequence[Measured] = ()
) -> Picture:
    """Return tokens/s of decode steps over GiB of host memory, predicted, bound and measured.

    The line to the left marks the least memory that has the throughput of the right end.
    """
    figure, axes = picture(7.5, 3.6)
    at = [point.host_memory / GIB for point in curve.points]
    low, rates, high = zip(
        *((p.rate.low, p.rate.expected, p.rate.high) for p in curve.points), strict=True
    )
    axes.fill_between(at, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(at, [p.bound_rate for p in curve.points], "--", color=COLOURS[1], label="its bound")
    axes.plot(at, rates, "o-", color=COLOURS[0], markersize=4, label="best policy, predicted")
    for number, each in enumerate(measured, start=2):
        memory = [size / GIB for size, _ in each.rates]
        axes.plot(memory, [rate for _, rate in each.rates], "s", color=COLOURS[number],
                  markersize=5, label=each.where)  # fmt: skip
    least = curve.least / GIB
    axes.axhline(curve.whole.rate.expected, color=INK, linewidth=0.5, alpha=0.5)
    axes.axvline(least, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{curve.saving:.2f}x less host memory", (least, 1), fontsize=7, va="top",
        xycoords=("data", "axes fraction"),
        xytext=(3, -2), textcoords="offset points",
    )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlabel("host memory (GiB)", fontsize=8)
    axes.set_ylabel("tokens/s of decode steps", fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
    return figure
