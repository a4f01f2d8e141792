"""A view as a `rich` renderable, for the terminal."""

from __future__ import annotations

from typing import Any

from .highlight import words
from .html import is_figure_column
from .view import Block, Facts, Figure, Grid, Listing, Said, View, listing_lines

MOST_LINES = 400
WIDTH = 96
_COLOURS = {
    "comment": "dim", "string": "green", "value": "cyan", "symbol": "magenta",
    "operation": "bold blue", "number": "yellow", "added": "green", "removed": "red",
}  # fmt: skip


def renderable(view: View) -> Any:
    """Return a view as a group of lines, tables and text."""
    from rich.console import Group
    from rich.text import Text

    head = Text.assemble((view.kind, "dim"), " ", (view.title, "bold"))
    return Group(head, *(_block(block) for block in view.blocks))


def _block(block: Block) -> Any:
    from rich.text import Text

    match block:
        case Facts():
            return _facts(block)
        case Listing():
            return _listing(block)
        case Grid():
            return _grid(block)
        case Figure():
            title = [(block.title + "\n", "dim")] if block.title else []
            return Text.assemble(*title, block.drawing.text(WIDTH), no_wrap=True)
        case Said():
            return Text(block.text)


def _facts(facts: Facts) -> Any:
    from rich.text import Text

    width = max((len(name) for name, _ in facts.pairs), default=0)
    lines = [((f"{name:>{width}}  ", "dim"), text + "\n") for name, text in facts.pairs]
    text = Text.assemble(*(part for line in lines for part in line))
    text.rstrip()
    return text


def _listing(listing: Listing) -> Any:
    from rich.text import Text

    if listing.folded:
        count = listing.text.count("\n") + 1
        return Text(f"{listing.title}: {count} lines", "dim")
    text = Text(listing.title + "\n" if listing.title else "", "dim")
    for line in listing_lines(listing.text, MOST_LINES):
        for kind, word in words(line, listing.language):
            text.append(word, _COLOURS.get(kind))
        text.append("\n")
    text.rstrip()
    return text


def _grid(grid: Grid) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=grid.title or None, title_justify="left", box=SIMPLE_HEAD)
    for at, name in enumerate(grid.header):
        table.add_column(name, justify="right" if is_figure_column(grid, at) else "left")
    if grid.shares:
        table.add_column("share")
    for number, row in enumerate(grid.rows):
        bar = [Text("█" * round(20 * grid.shares[number]), "blue")] if grid.shares else []
        table.add_row(*(Text(cell) for cell in row), *bar)
    return table
