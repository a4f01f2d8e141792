"""Brackets of a .weft text that have no partner."""

from __future__ import annotations

import re

PARTNER = {"(": ")", "[": "]"}

_WHOLE = re.compile(r'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
"""Strings and comments that end."""


def without_strings(text: str) -> str:
    """Return a text of the same lines and columns with blanks for its strings and comments."""
    return _WHOLE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def opened_at(text: str, position: int) -> int | None:
    """Return where the innermost bracket stands that is open at `position`."""
    opened = _open(without_strings(text)[:position])
    return opened[-1] if opened else None


def never_closed(text: str, position: int) -> int | None:
    """Return where the innermost bracket stands that is open at `position` and at the end."""
    opened = [place for place in _open(without_strings(text)) if place < position]
    return opened[-1] if opened else None


def _open(text: str) -> list[int]:
    """Return the places of the brackets that are open at a text's end; it has no strings."""
    opened: list[int] = []
    for found in re.finditer(r"[()\[\]]", text):
        if found[0] in PARTNER:
            opened.append(found.start())
        elif opened and PARTNER[text[opened[-1]]] == found[0]:
            opened.pop()
    return opened
