"""The form of JSON Schemas: each keyword has a value of its kind, before anybody relies on it.

Kinds are those of JSON Schema 2020-12's metaschema, of the keywords that say something about a
value. What a keyword means is read elsewhere: as tables in `ir.constraints.schema`, or by
llguidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..numbers import is_finite

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


DEEPEST = 120
"""Objects and lists inside one another at most: llguidance reads 127, and puts some around them."""

TOO_DEEP = f"objects and lists stand in one another more than {DEEPEST} deep"


def faults(schema: Any) -> Iterator[str]:
    """Yield what is wrong with the form of a schema, each with the place inside it."""
    if _too_deep(schema):
        yield TOO_DEEP
    else:
        yield from _schema(schema, "#")


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inside = (one.values() if isinstance(one, dict) else one
                  for one in level if isinstance(one, dict | list))  # fmt: skip
        level = [item for items in inside for item in items]
    return any(isinstance(one, dict | list) for one in level)


def _schema(given: Any, at: str) -> Iterator[str]:
    if isinstance(given, bool):
        return
    if not isinstance(given, dict):
        yield f"{at}: a schema is a JSON object, true or false"
        return
    for key, value in given.items():
        if key in _KEYWORDS:
            yield from _KEYWORDS[key](value, f"{at}/{key}")


def _schemas(given: Any, at: str) -> Iterator[str]:
    if not isinstance(given, list) or not given:
        yield f"{at}: it is a list of schemas, at least one"
        return
    for number, one in enumerate(given):
        yield from _schema(one, f"{at}/{number}")


def _named(given: Any, at: str) -> Iterator[str]:
    if not isinstance(given, dict):
        yield f"{at}: it is an object, with a schema for each name"
        return
    for name, one in given.items():
        yield from _schema(one, f"{at}/{name}")


def _items(given: Any, at: str) -> Iterator[str]:
    """Before 2020-12 a list of schemas could stand there."""
    yield from _schemas(given, at) if isinstance(given, list) else _schema(given, at)


def _type(given: Any, at: str) -> Iterator[str]:
    kinds = given if isinstance(given, list) else [given]
    if not kinds or any(kind not in TYPES for kind in kinds):
        yield f"{at}: it is one or more of {', '.join(TYPES)}"


def _plain(right: Callable[[Any], bool], what: str) -> Callable[[Any, str], Iterator[str]]:
    def check(given: Any, at: str) -> Iterator[str]:
        if not right(given):
            yield f"{at}: it is {what}"

    return check


_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties",
                     "maxProperties", "minContains", "maxContains"})  # fmt: skip

_count = _plain(lambda n: is_finite(n) and n >= 0 and n == int(n), "a whole number, 0 or more")
_number = _plain(is_finite, "a number")
_text = _plain(lambda text: isinstance(text, str), "a string")
_names = _plain(
    lambda names: isinstance(names, list) and all(isinstance(name, str) for name in names),
    "a list of names",
)

_KEYWORDS: dict[str, Callable[[Any, str], Iterator[str]]] = {
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("anyOf", "allOf", "oneOf", "prefixItems"), _schemas),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _named),
    **dict.fromkeys(("additionalProperties", "contains", "not", "if", "then", "else"), _schema),
    **dict.fromkeys(("pattern", "format", "$ref"), _text),
    "items": _items,
    "type": _type,
    "enum": _plain(lambda values: isinstance(values, list) and bool(values),
                   "a list of values, at least one"),
    "required": _names,
    "multipleOf": _plain(lambda n: is_finite(n) and n > 0, "a number above 0"),
}  # fmt: skip
