"""JSON whose objects name each key once: Python's reader takes the last one without a word."""

from __future__ import annotations

import json
from typing import Any


class Twice(ValueError):
    """A key that stands twice in one object."""


def loads(text: str, finite: bool = False) -> Any:
    """Return the value of a JSON text; raises ValueError (Twice for a key that stands twice), and
    RecursionError. With `finite`, NaN and Infinity, which JSON lacks, are refused, too."""
    refused: dict[str, Any] = {"parse_constant": _refuse} if finite else {}
    return json.loads(text, object_pairs_hook=_object, **refused)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Twice(f"the key {twice!r} stands twice in one object")
    return found
