"""What sparse attention loses, against the bytes that it reads."""

from __future__ import annotations

from collections.abc import Sequence

from .style import Picture, colour, picture

MARKS = "osD^v<>PX*hd"


def loss_against_bytes(points: Sequence[tuple[str, str, float, float]], title: str) -> Picture:
    """Return the picture of (attention, measure, share of dense bytes, loss) points.

    A colour an attention, a mark a measure; lower and further left is better.
    """
    figure, axes = picture(8, 4.5)
    names = list(dict.fromkeys(name for name, *_ in points))
    measures = list(dict.fromkeys(measure for _, measure, *_ in points))
    for name, measure, share, loss in points:
        axes.plot([share], [loss], MARKS[measures.index(measure) % len(MARKS)],
                  color=colour(names.index(name)), markersize=5)  # fmt: skip
    for number, name in enumerate(names):
        axes.plot([], [], "s", color=colour(number), label=name)
    for number, measure in enumerate(measures):
        axes.plot([], [], MARKS[number % len(MARKS)], color="#333333", label=measure)
    axes.axhline(0, color="#d9d9d9", linewidth=0.8)
    axes.set_xlabel("share of dense attention's bytes", fontsize=8)
    axes.set_ylabel("loss against dense (percent of perplexity, points)", fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
