"""A view as HTML: a part of a page that brings its style along and reaches for nothing else."""

from __future__ import annotations

from .highlight import words
from .markup import Markup, element, joined, style_element
from .view import Block, Facts, Figure, Grid, Listing, Said, View, listing_lines

MOST_LINES = 2000
"""Of one listing; a notebook that holds more becomes slow."""


def page_part(view: View) -> str:
    """Return a view as one element, with its style sheet before it."""
    return style_element() + view_element(view)


def view_element(view: View) -> Markup:
    """Return a view as one element."""
    kind = element("span", view.kind, class_="weft-kind")
    head = element("header", kind, element("strong", view.title), class_="weft-head")
    return element("div", head, *(block_element(block) for block in view.blocks), class_="weft")


def block_element(block: Block) -> Markup:
    """Return one block of a view."""
    match block:
        case Facts():
            return _facts(block)
        case Listing():
            return _listing(block)
        case Grid():
            return _grid(block)
        case Figure():
            caption = element("figcaption", block.title) if block.title else ""
            return element("figure", Markup(block.drawing.svg()), caption, class_="weft-figure")
        case Said():
            return element("p", block.text, class_="weft-said")


def _facts(facts: Facts) -> Markup:
    pairs = [element("div", element("dt", name), element("dd", text)) for name, text in facts.pairs]
    return element("dl", *pairs, class_="weft-facts")


def _listing(listing: Listing) -> Markup:
    lines = listing_lines(listing.text, MOST_LINES)
    drawn = [highlighted(line, listing.language) for line in lines]
    code = element("pre", joined(drawn, "\n"), class_="weft-code", tabindex="0")
    if listing.folded:
        summary = element("summary", f"{listing.title} ({len(lines)} lines)")
        return element("details", summary, code, class_="weft-fold")
    caption = element("div", listing.title, class_="weft-caption") if listing.title else Markup()
    return caption + code


def highlighted(line: str, language: str) -> Markup:
    """Return a line of text with its words in colour."""
    return joined(
        element("span", text, class_=f"w-{kind}") if kind else text
        for kind, text in words(line, language)
    )


def _grid(grid: Grid) -> Markup:
    figures = [is_figure_column(grid, at) for at in range(len(grid.header))]
    head = [_cell("th", text, right) for text, right in zip(grid.header, figures, strict=True)]
    body = [element("tr", *_row(grid, number, figures)) for number in range(len(grid.rows))]
    if grid.shares:
        head.append(element("th", "share"))
    caption = element("caption", grid.title) if grid.title else ""
    inner = element("table", caption, element("thead", element("tr", *head)),
                    element("tbody", *body))  # fmt: skip
    return element("div", inner, class_="weft-grid", tabindex="0")


def _row(grid: Grid, number: int, figures: list[bool]) -> list[Markup]:
    row = grid.rows[number]
    cells = [_cell("td", text, right) for text, right in zip(row, figures, strict=True)]
    if grid.shares:
        share = max(0.0, min(1.0, grid.shares[number]))
        bar = element("span", class_="weft-bar", style=f"width:{100 * share:.1f}%")
        cells.append(element("td", element("span", bar, class_="weft-bar-room")))
    return cells


def _cell(tag: str, text: str, right: bool) -> Markup:
    return element(tag, text, class_="weft-right" if right else None)


def is_figure_column(grid: Grid, column: int) -> bool:
    """Whether a column's cells are figures, which stand to the right."""
    cells = [row[column] for row in grid.rows if row[column]]
    return bool(cells) and all(cell.lstrip("-+~")[:1].isdigit() for cell in cells)
