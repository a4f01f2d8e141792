"""JSON whose objects name each key once: Python's reader takes the last one without a word."""

from __future__ import annotations

import json
from typing import Any


class Twice(ValueError):
    """A key that stands twice in one object."""


class Malformed(ValueError):
    """A text that is no JSON, with its place."""

    def __init__(self, error: json.JSONDecodeError) -> None:
        super().__init__(in_words(error))
        self.line, self.column, self.said = error.lineno, error.colno, error.msg


class TooManyDigits(ValueError):
    """A whole number of more digits than Python reads."""


def whole_number(text: str) -> int:
    """Return the number that digits stand for; raises TooManyDigits."""
    try:
        return int(text)
    except ValueError:
        raise TooManyDigits("a whole number of more than 4300 digits") from None


def loads(text: str, finite: bool = False) -> Any:
    """Return the value of a JSON text; raises ValueError (Malformed for what is no JSON, Twice for
    a key that stands twice, TooManyDigits), and RecursionError. With `finite`, NaN and Infinity,
    which JSON lacks, are refused, too."""
    refused: dict[str, Any] = {"parse_constant": _refuse} if finite else {}
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=whole_number, **refused)
    except json.JSONDecodeError as error:
        raise Malformed(error) from None


_WORDS = {
    "Expecting value": "a value belongs there",
    "Expecting property name enclosed in double quotes": "a name in double quotes belongs there",
    "Expecting ',' delimiter": "a comma or an end belongs there",
    "Expecting ':' delimiter": "a colon belongs there",
    "Illegal trailing comma before end of object": "nothing follows the comma",
    "Illegal trailing comma before end of array": "nothing follows the comma",
    "Extra data": "more stands behind the value",
    "Unterminated string starting at": "the string that begins there does not end",
    "Invalid control character at": "a control character must be written as an escape",
    "Invalid \\escape": "there is no such escape",
    "Invalid \\uXXXX escape": "four digits belong behind \\u",
}


def in_words(error: json.JSONDecodeError) -> str:
    """Return what is wrong with a text, and at which column."""
    line = f"line {error.lineno}, " if "\n" in error.doc else ""
    said = error.msg.removesuffix(": ")
    return f"this is no JSON at {line}column {error.colno}: {_WORDS.get(said, said)}"


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Twice(f"the key {twice!r} stands twice in one object")
    return found
