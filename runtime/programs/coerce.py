"""Checks values that come from outside, arguments, rows and tools, against declared types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from typing import Any

from ...ir.core import Operation, Term
from ...ir.evaluate import LARGEST_BITS
from ...ir.numbers import is_number
from ...ir.types import written
from ...ir.values import kind_of


class Mismatch(ValueError):
    """A value that is not of its declared type; the text says where inside it, and why."""


def coerce(type: Term, records: Mapping[str, Operation], value: Any) -> Any:
    """Return `value` as a value of `type`: an int may be a float, a dataclass a record.

    Raises Mismatch.
    """
    if type.name == "list":
        if not isinstance(value, list | tuple):
            raise _mismatch(type, value)
        return [
            _inside(f"element {position}", type.parameters[0], records, item)
            for position, item in enumerate(value)
        ]
    if type.name == "record":
        return _record(type, records, value)
    return _scalar(type, value)


def _record(type: Term, records: Mapping[str, Operation], value: Any) -> dict[str, Any]:
    if is_dataclass(value.__class__):  # of one, and not a class itself
        value = {field.name: getattr(value, field.name) for field in fields_of(value)}
    if not isinstance(value, Mapping):
        raise _mismatch(type, value)
    fields = {field["name"]: field["type"] for field in records[str(type.parameters[0])]["fields"]}
    for name in fields:
        if name not in value:
            raise Mismatch(f"the field {name!r} is missing")
    for name in value:
        if name not in fields:
            raise Mismatch(f"there is no field {name!r} in {type.parameters[0]}")
    return {
        name: _inside(f"field {name!r}", inner, records, value[name])
        for name, inner in fields.items()
    }


def _inside(place: str, type: Any, records: Mapping[str, Operation], value: Any) -> Any:
    try:
        return coerce(type, records, value)
    except Mismatch as error:
        raise Mismatch(f"{place}: {error}") from None


def _scalar(type: Term, value: Any) -> Any:
    number = is_number(value)
    match type.name:
        case "any" | "schema":
            _encodable(*_texts(value))
            return value
        case "none" if value is None:
            return None
        case "bool" if isinstance(value, bool):
            return value
        case "float" if number:
            return _float(value)
        case "int" if number and isinstance(value, int):
            if value.bit_length() > LARGEST_BITS:
                raise Mismatch("it has more than 4300 digits")
            if type.parameters and not type.parameters[0] <= value <= type.parameters[1]:  # type: ignore[operator]
                raise Mismatch(f"{value} is not in {type.parameters[0]}..{type.parameters[1]}")
            return value
        case "str" | "choice" | "regex" | "grammar" if isinstance(value, str):
            return _text(type, value)
    raise _mismatch(type, value)


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Mismatch("it is larger than any float") from None


def _text(type: Term, value: str) -> str:
    _encodable(value)
    if type.name == "choice" and value not in type.parameters:
        raise Mismatch(f"{value!r} is none of {', '.join(map(repr, type.parameters))}")
    if type.name == "regex" and not re.fullmatch(str(type.parameters[0]), value):
        raise Mismatch(f"{value!r} does not match {type.parameters[0]}")
    return value


def _encodable(*texts: str) -> None:
    """Refuse halves of a surrogate pair (JSON can escape one): no tokenizer has them."""
    for text in (text for text in texts if not text.isascii()):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])
            raise Mismatch(f"character {error.start} is {half}, half of a pair") from None


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings inside a JSON value, keys among them."""
    match value:
        case str():
            yield value
        case list() | tuple():
            for item in value:
                yield from _texts(item)
        case Mapping():
            for key, item in value.items():
                yield from _texts(key)
                yield from _texts(item)


def _mismatch(type: Term, value: Any) -> Mismatch:
    try:
        shown = repr(value)
    except Exception:  # a number of thousands of digits, or a class of the user's
        shown = "it"
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return Mismatch(f"{shown} is {kind_of(value)}, not {written(type)}")
