"""HTML and SVG as text that is escaped unless it was made here; and the shared style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from html import escape
from importlib.resources import files

VOID = frozenset({"br", "hr", "img", "input", "meta", "link"})
_SELF_CLOSED = frozenset({"circle", "line", "path", "rect", "polyline", "polygon", "use"})


class Markup(str):
    """Text that is markup already: `element` made it, and escaped what went into it."""

    __slots__ = ()

    def __add__(self, other: str) -> Markup:
        return Markup(str(self) + markup(other))


def markup(content: object) -> Markup:
    """Return markup as it is, anything else as escaped text."""
    return content if isinstance(content, Markup) else Markup(escape(str(content)))


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """Return parts after one another, each escaped unless it is markup."""
    return Markup(between.join(markup(part) for part in parts))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return an element; `None` leaves an attribute out, `True` gives it no value.

    An attribute's name loses a trailing underscore (`class_`); others become hyphens. A child
    that is no `Markup` is text, and is escaped.
    """
    given = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Markup(f"<{tag}{given}>")
    if tag in _SELF_CLOSED and not children:
        return Markup(f"<{tag}{given}/>")
    return Markup(f"<{tag}{given}>{joined(children)}</{tag}>")


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = name if name == "viewBox" else name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(text, quote=True)}"'


@cache
def style_sheet(name: str = "display.css") -> str:
    """Return a style sheet of this folder; it holds nothing that could end a <style> element."""
    text = files("weft.ir.display").joinpath(name).read_text(encoding="utf-8")
    assert "<" not in text
    return text


def style_element() -> Markup:
    """Return the <style> element that everything drawn here needs."""
    return Markup(f"<style>{style_sheet()}</style>")
