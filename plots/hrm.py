"""Policies of models larger than a GPU as pictures: roofs of a step, pages, what lifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..cost_model.hrm.prediction import Lift, Prediction
from .style import COLOURS, FAINT, Picture, bars, picture


def roofs_chart(prediction: Prediction) -> Picture:
    """Return the least milliseconds that each resource needs in a step; the bound is coloured.

    The line is the step as simulated: what lies between it and the longest bar is waiting.
    """
    rows = sorted(prediction.roofs.items(), key=lambda row: -row[1])
    figure, axes = picture(7.5, 1.0 + 0.28 * len(rows))
    shades = [COLOURS[1] if name == prediction.bound else COLOURS[0] for name, _ in rows]
    axes.barh(range(len(rows)), [1e3 * seconds for _, seconds in rows], color=shades)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1e3 * prediction.step.expected, color="#333333", linewidth=1)
    axes.set_xlabel("ms a step", fontsize=8)
    rate, policy = prediction.throughput.expected, prediction.policy
    axes.set_title(
        f"{rate:,.1f} tokens/s predicted; {policy.batch} sequences in micro-batches of "
        f"{policy.micro_batch}, attention on the {policy.attention.upper()}",
        fontsize=9, loc="left",
    )  # fmt: skip
    return figure


def pages_chart(counts: Mapping[str, Mapping[str, int]]) -> Picture:
    """Return where the pages of experts lie (resident, streamed, cpu, disk), a bar a setting."""
    homes = ("resident", "streamed", "cpu", "disk")
    figure, axes = picture(7.5, 0.9 + 0.3 * len(counts))
    starts = [0] * len(counts)
    for home, shade in zip(homes, (*COLOURS[:3], FAINT), strict=True):
        values = [each.get(home, 0) for each in counts.values()]
        if any(values):
            axes.barh(range(len(counts)), values, left=starts, color=shade, label=home)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    axes.set_yticks(range(len(counts)), list(counts), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("pages of experts", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def lifts_chart(lifts: Sequence[Lift]) -> Picture:
    """Return by how many percent a quarter more of each resource would raise throughput."""
    rows = sorted(lifts, key=lambda lift: -lift.gain)
    gains = [100 * (lift.gain - 1) for lift in rows]
    return bars([lift.what for lift in rows], gains, "% more tokens/s with a quarter more of it")


def throughput_chart(rates: Mapping[float, float], what: str) -> Picture:
    """Return predicted tokens/s over an amount of memory in GiB."""
    figure, axes = picture(6.5, 2.8)
    axes.plot(list(rates), list(rates.values()), "o-", color=COLOURS[0])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{what} (GiB)", fontsize=8)
    axes.set_ylabel("tokens/s, predicted", fontsize=8)
    return figure
