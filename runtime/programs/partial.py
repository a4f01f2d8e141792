"""A typed value while it is being generated: what of its JSON is certain so far."""

from __future__ import annotations

import json
from typing import Any

from ...ir.numbers import is_number
from .events import Listener, PartialValue, Path, TextPiece

NOTHING = object()
"""Stands for a value of which nothing is known yet."""

_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
_AFTER_NUMBER = {*_SPACE, ",", "]", "}"}


class PartialTeller:
    """Tells a listener the pieces of a gen's text and, where the known part grew, its value."""

    def __init__(self, listener: Listener, name: str, path: Path) -> None:
        self._listener = listener
        self._name = name
        self._path = path
        self._known = Known()
        self._told: Any = NOTHING

    def __call__(self, text: str) -> None:
        """Take a piece of the text."""
        self._listener(TextPiece(self._name, text, self._path))
        if self._known.feed(text) and (value := self._known.value) != self._told:
            self._told = value
            self._listener(PartialValue(self._name, value, self._path))


class Known:
    """What is certain of the JSON value that begins a text, of which pieces come: whole fields and
    elements. Strings and numbers count once they have ended.

    What was read is not looked at again, however long the text gets.
    """

    def __init__(self) -> None:
        self._rest = ""
        """Text that does not say enough yet."""
        self._open: list[dict[str, Any] | list[Any]] = []
        """Records and lists that have not ended, the outermost first."""
        self._places: list[Any] = []
        """Where each of them but the first stands in the one around it."""
        self._key: Any = NOTHING
        """The name of the field whose value comes next."""
        self._whole: Any = NOTHING
        self._over = False

    def feed(self, text: str) -> bool:
        """Take more text; return whether more is known."""
        self._rest += text
        grown = False
        while (more := self._step()) is not None:
            grown = grown or more
        return grown

    @property
    def value(self) -> Any:
        """What is known; `NOTHING` where not even a bracket is open. It stays as it is: what grows
        further is copied, and what has ended is shared."""
        if not self._open:
            return self._whole
        found: Any = self._open[-1].copy()
        for around, place in zip(self._open[-2::-1], self._places[::-1], strict=True):
            inner, found = found, around.copy()
            found[place] = inner
        return found

    def _step(self) -> bool | None:
        """Read a sign or a scalar; return whether more is known by it, None where it must wait."""
        self._rest = rest = self._rest.lstrip(_SPACE)
        if self._over or not rest:
            return None
        if self._open and self._key is NOTHING:
            is_record = isinstance(self._open[-1], dict)
            if rest[0] == ("}" if is_record else "]"):
                self._close()
            elif rest[0] == ",":
                self._rest = rest[1:]
            elif is_record:
                return self._name()
            else:
                return self._value()
            return False
        return self._value()

    def _close(self) -> None:
        self._open.pop()
        if self._open:
            self._places.pop()
        self._rest, self._over = self._rest[1:], not self._open

    def _name(self) -> bool | None:
        key, end = _scalar(self._rest)
        after = self._rest[end:].lstrip(_SPACE) if isinstance(key, str) else ""
        if not after.startswith(":"):
            return None
        self._key, self._rest = key, after[1:]
        return False

    def _value(self) -> bool | None:
        if self._rest[0] in "{[":
            inner: dict[str, Any] | list[Any] = {} if self._rest[0] == "{" else []
            place = self._put(inner)
            if self._open:
                self._places.append(place)
            self._open.append(inner)
            self._rest = self._rest[1:]
            return True
        value, end = _scalar(self._rest)
        if value is NOTHING:
            return None
        self._put(value)
        self._rest, self._over = self._rest[end:], not self._open
        return True

    def _put(self, value: Any) -> Any:
        """Add what comes next; return its place."""
        place, self._key = self._key, NOTHING
        around = self._open[-1] if self._open else None
        if around is None:
            self._whole = value
        elif isinstance(around, list):
            around.append(value)
            place = -1
        else:
            around[place] = value
        return place


def _scalar(text: str) -> tuple[Any, int]:
    """Return the scalar that a text begins with, and its end; `NOTHING` while it may go on."""
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return NOTHING, 0
    may_go_on = is_number(value) and text[end : end + 1] not in _AFTER_NUMBER
    return (NOTHING, 0) if may_go_on else (value, end)
