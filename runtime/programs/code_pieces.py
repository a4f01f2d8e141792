"""The parts of streams as Python expressions, for functions that run rows (`code_writer`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


class Code(str):
    """A Python expression, of a text that is a part of a stream."""

    __slots__ = ()


Piece = int | str | Code
"""A part of a stream: a token, a text, or what gives one."""


def is_written(value: Any) -> bool:
    """Return whether the `repr` of a value is Python for it."""
    if isinstance(value, list):
        return all(map(is_written, value))
    if isinstance(value, dict):
        return all(map(is_written, value.values()))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def joined_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """Join adjacent texts, and leave empty ones out."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if not isinstance(piece, str) or not isinstance(last, str):
            if piece != "":
                joined.append(piece)
        elif isinstance(piece, Code) or isinstance(last, Code):
            left, right = (each if isinstance(each, Code) else repr(each) for each in (last, piece))
            joined[-1] = Code(f"{left} + {right}") if piece != "" else last
        else:
            joined[-1] = last + piece
    return joined


def listed(values: Sequence[str]) -> str:
    """Return the tuple of some expressions."""
    return f"({', '.join(values)}{',' if len(values) == 1 else ''})"


def tuple_of(pieces: Sequence[Piece]) -> str:
    """Return the tuple of some pieces."""
    return listed([repr(piece) for piece in pieces])
