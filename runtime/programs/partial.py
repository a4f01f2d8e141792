"""A typed value while it is being generated: what of its JSON is certain so far."""

from __future__ import annotations

import json
from typing import Any

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
        self._text = ""
        self._told: Any = NOTHING

    def __call__(self, text: str) -> None:
        """Take a piece of the text."""
        self._listener(TextPiece(self._name, text, self._path))
        self._text += text
        known = known_part(self._text)
        if known is not NOTHING and known != self._told:
            self._told = known
            self._listener(PartialValue(self._name, known, self._path))


def known_part(text: str) -> Any:
    """Return what is certain of the JSON value that begins a text: whole fields and elements.

    Strings and numbers count once they have ended; `NOTHING` where not even a bracket is open.
    """
    return _Reader(text).value(0)[0]


class _Reader:
    """Reads a prefix of JSON; each method returns what is known, and the place after it.

    The place is -1 where the text ends before the value does.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, at: int) -> tuple[Any, int]:
        at = self._skip(at)
        if self._text.startswith("{", at):
            return self._record(at + 1)
        if self._text.startswith("[", at):
            return self._list(at + 1)
        return self._scalar(at)

    def _skip(self, at: int) -> int:
        while at < len(self._text) and self._text[at] in _SPACE:
            at += 1
        return at

    def _scalar(self, at: int) -> tuple[Any, int]:
        try:
            value, end = _DECODER.raw_decode(self._text, at)
        except ValueError:
            return NOTHING, -1
        number = isinstance(value, int | float) and not isinstance(value, bool)
        open_end = number and self._text[end : end + 1] not in _AFTER_NUMBER
        return (NOTHING, -1) if open_end else (value, end)

    def _record(self, at: int) -> tuple[dict[str, Any], int]:
        known: dict[str, Any] = {}
        while True:
            at = self._skip(at)
            if self._text.startswith("}", at):
                return known, at + 1
            key, at = self._scalar(self._skip(at + self._text.startswith(",", at)))
            if at < 0 or not self._text.startswith(":", self._skip(at)):
                return known, -1
            value, at = self.value(self._skip(at) + 1)
            if value is not NOTHING:
                known[key] = value
            if at < 0:
                return known, -1

    def _list(self, at: int) -> tuple[list[Any], int]:
        known: list[Any] = []
        while True:
            at = self._skip(at)
            if self._text.startswith("]", at):
                return known, at + 1
            value, at = self.value(at + self._text.startswith(",", at))
            if value is not NOTHING:
                known.append(value)
            if at < 0:
                return known, -1
