"""What to show of a thing, as data; `Shown` gives a class its looks in Jupyter and on a terminal.

A class derives from `Shown` and says in `view()` what there is to see. Drawing is elsewhere:
`html` for notebooks and pages, `terminal` for the `rich` protocol. No picture needs a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Drawing(Protocol):
    """A picture that can be drawn as SVG, and said in text where there is none."""

    def svg(self) -> str:
        """Return the picture as one <svg> element with the style that it needs."""
        ...

    def text(self, width: int = 80) -> str:
        """Return the picture, or its facts, in lines of at most `width` characters."""
        ...


@dataclass(frozen=True)
class Facts:
    """Names and what is known under them."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Listing:
    """Program text; `language` is a key of `highlight.RULES`. Folded ones open at a click."""

    text: str
    language: str = "ir"
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Grid:
    """A table; columns of figures are set to the right. `shares` (0..1, one a row) draw a bar."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Said:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A picture under its caption."""

    drawing: Drawing
    title: str = ""


Block = Facts | Listing | Grid | Said | Figure


@dataclass(frozen=True)
class View:
    """What there is to see: a title with its kind, and blocks below one another."""

    kind: str
    title: str
    blocks: tuple[Block, ...] = field(default=())


class Shown:
    """Base of what a person may look at: `view` says what, the rest follows."""

    def view(self) -> View:
        """Return what to show."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from .html import page_part

        return page_part(self.view())

    def __rich__(self) -> Any:
        """What `rich.print` shows."""
        from .terminal import renderable

        return renderable(self.view())


def show(thing: Any) -> None:
    """Print what there is to see of a thing on the terminal, in colour where it has colours."""
    from rich.console import Console

    Console(highlight=False).print(thing)


def listing_lines(text: str, most: int = 0) -> Sequence[str]:
    """Return a text's lines; past `most` (0: all) one line says how many are left out."""
    lines = text.rstrip("\n").split("\n")
    if most and len(lines) > most:
        return [*lines[:most], f"... {len(lines) - most} more lines"]
    return lines
