"""Text for notebooks: dumps cut to a width, and diffs in colour."""

from __future__ import annotations

from html import escape


class Diff(str):
    """A unified diff that a notebook shows in colour, and a terminal as it is."""

    def _repr_html_(self) -> str:
        lines = [_coloured(line) for line in self.splitlines()]
        style = "font-size: 12px; line-height: 1.35; overflow-x: auto"
        return f'<pre style="{style}">{"".join(lines)}</pre>'


def show_diff(text: str, width: int = 150) -> Diff:
    """Return a unified diff, its lines cut to `width` characters."""
    return Diff(cut(text, width))


def cut(text: object, width: int = 120, lines: int | None = None) -> str:
    """Return a text with no line longer than `width`; `lines` keeps the first ones.

    What is left out is marked by ` ..`, or counted.
    """
    every = str(text).splitlines()
    kept = every if lines is None else every[:lines]
    short = [line if len(line) <= width else line[: width - 3] + " .." for line in kept]
    if len(every) > len(kept):
        short.append(f".. {len(every) - len(kept)} more lines")
    return "\n".join(short)


_COLOURS = {"+": "#1a7f37", "-": "#cf222e", "@": "#8250df"}


def _coloured(line: str) -> str:
    colour = _COLOURS.get(line[:1])
    if colour is None:
        return escape(line) + "\n"
    return f'<span style="color: {colour}">{escape(line)}</span>\n'
