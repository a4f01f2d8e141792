"""What calibration found in a model's keys: which channels carry them, and how unevenly."""

from __future__ import annotations

import numpy as np

from ..ir.sparse.calibration import AttentionCalibration
from .style import Picture, colour, picture


def spread_by_rank(calibration: AttentionCalibration) -> np.ndarray:
    """Return the share of variance of each channel [layers * kv_heads, channels], by rank."""
    rows = [
        np.array([head.deviation[channel] ** 2 for channel in head.order])
        for layer in calibration.layers
        for head in layer
    ]
    table = np.stack(rows)
    return table / table.sum(axis=1, keepdims=True)


def channel_chart(calibration: AttentionCalibration, channels: int) -> Picture:
    """Return each head's channels by importance: their share of the variance of its keys.

    Left, a row a head, dark where much is. Right, the share that the first ones hold together, with
    a line at `channels`, those of a label.
    """
    table = spread_by_rank(calibration)
    figure, (heat, sums) = picture(9, 3.2, columns=2)
    heat.imshow(np.sqrt(table), aspect="auto", cmap="Blues", interpolation="nearest")
    heat.set_xlabel("channel, by importance in the calibration", fontsize=8)
    heat.set_ylabel("layer x key head", fontsize=8)
    heat.set_title("share of a key's variance (root)", fontsize=9, loc="left")
    total = np.cumsum(table, axis=1)
    at = np.arange(1, table.shape[1] + 1)
    for row in total:
        sums.plot(at, row, color=colour(5), linewidth=0.7, alpha=0.6)
    sums.plot(at, np.median(total, axis=0), color=colour(0), linewidth=2)
    sums.axvline(channels, color=colour(1), linewidth=1)
    sums.text(channels, 0.02, f" label: {channels}", fontsize=7, color=colour(1))
    sums.set_ylim(0, 1.02)
    sums.set_xlabel("first channels", fontsize=8)
    sums.set_title("share of variance that they hold (a line a head)", fontsize=9, loc="left")
    return figure


def bytes_chart(speedups: dict[str, list[float]], contexts: list[int]) -> Picture:
    """Return dense over sparse bytes by context, a line a policy."""
    figure, axes = picture(7, 3)
    for number, (name, values) in enumerate(speedups.items()):
        axes.plot(contexts, values, "o-", markersize=3, color=colour(number), label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [f"{context:,}" for context in contexts], fontsize=7, rotation=45)
    axes.axhline(1, color="#333333", linewidth=0.6)
    axes.set_xlabel("context (tokens)", fontsize=8)
    axes.set_ylabel("dense bytes over sparse", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return figure
