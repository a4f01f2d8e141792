"""The prefix tree drawn to scale: a token is a unit wide, a call that ends is a unit high."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.patches import Rectangle

from .style import Picture, picture

WIDTH = 9.0
LETTERS_AN_INCH = 18
"""Of the text on a block, in its size."""

LEAST_SHOWN = 10
"""Letters for which a block must have room, to have its text written on it."""


@dataclass(frozen=True)
class Block:
    """A node as a rectangle: from position `start`, `width` elements long, over `height` calls."""

    node: Any
    start: int
    width: int
    top: float
    height: float


def blocks(tree: Any) -> list[Block]:
    """Return the nodes of a `PrefixTree` as rectangles, parents left of their children."""
    return list(_placed(tree.root, 0.0))


def prefix_map(tree: Any, title: str = "") -> Picture:
    """Return the prompts of all calls, one below the other; what they share is drawn once.

    Colour is the number of calls that read a stretch; hatched is what only the run can tell.
    """
    found = [block for block in blocks(tree) if block.width]
    calls = max((block.top + block.height for block in found), default=1.0)
    figure, axes = picture(WIDTH, min(6.0, 1.4 + 0.16 * calls))
    most = max((block.node.readers for block in found), default=1)
    shades = colormaps["YlGnBu"]
    end = max((block.start + block.width for block in found), default=1)
    letters = 0.9 * WIDTH * LETTERS_AN_INCH / end
    for block in found:
        shade = shades(0.08 + 0.37 * block.node.readers / most)
        _draw(axes, block, shade, tree.tokenizer, int(letters * block.width))
    axes.set_xlim(0, end)
    axes.set_ylim(calls, 0)
    axes.set_xlabel("position in the prompt (tokens; an unknown stretch counts one)", fontsize=8)
    axes.set_ylabel("calls", fontsize=8)
    axes.set_title(title or _said(tree), fontsize=9, loc="left")
    return figure


def _said(tree: Any) -> str:
    counts = tree.counts
    share = 100 * counts.hits / counts.sent if counts.sent else 0.0
    return (
        f"{tree.rows} rows of {tree.name}: {counts.calls} calls send {counts.sent} known tokens, "
        f"{share:.0f} % of them hits; {tree.unique} are different"
    )


def _height(node: Any) -> float:
    return sum(map(_height, node.children.values())) if node.children else 1.0


def _placed(node: Any, top: float) -> Iterator[Block]:
    yield Block(node, node.start, len(node.elements), top, _height(node))
    for child in node.children.values():
        yield from _placed(child, top)
        top += _height(child)


def _draw(axes: Any, block: Block, shade: Any, tokenizer: Any, letters: int) -> None:
    from ..passes.program.prefixes.text import show

    unknown = block.node.tokens == 0
    axes.add_patch(
        Rectangle(
            (block.start, block.top), block.width, block.height, facecolor="white" if unknown
            else shade, edgecolor="#555555", linewidth=0.6, hatch="////" if unknown else None,
        )
    )  # fmt: skip
    if letters >= LEAST_SHOWN:
        text = show(block.node.elements, tokenizer, most=letters)
        label = text.replace("$", r"\$") if block.height < 3 else f"{text}\nx{block.node.readers}"
        axes.text(
            block.start + block.width / 2, block.top + block.height / 2, label,
            ha="center", va="center", fontsize=6, clip_on=True, family="monospace",
        )  # fmt: skip
