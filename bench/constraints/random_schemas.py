"""Random JSON schemas without recursion: nested records and lists, ranges, enums, options."""

from __future__ import annotations

from random import Random
from typing import Any

_NAMES = ("name", "count", "kind", "is_open", "note", "größe", "tags", "x", "value 2", "item-id")
_WORDS = ("red", "light blue", "no", "A", "naïve", 'a "b"', "back\\slash", "x-1", "")
_PATTERNS = ("^[A-Z]{2}[0-9]{3}$", "^(?:yes|no|un[a-z]{0,4})$", "^\\d{4}-\\d{2}$", "^[^,]{1,9}$")


def random_schema(random: Random, depth: int = 3) -> dict[str, Any]:
    """Return a schema: at the top mostly a record, below anything; `depth` bounds the nesting."""
    if depth == 3 and random.random() < 0.8:
        return _record(random, depth)
    kinds = [_string, _pattern, _integer, _number, _boolean, _listed, _constant, _null]
    if depth:
        kinds += [_record, _record, _list, _list, _any_of]
    return random.choice(kinds)(random, depth)


def _record(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(_NAMES, random.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: random_schema(random, depth - 1) for name in names},
        "required": [name for name in names if random.random() < 0.75],
        "additionalProperties": False,
    }


def _list(random: Random, depth: int) -> dict[str, Any]:
    low = random.randint(0, 2)
    items = random_schema(random, depth - 1)
    schema = {"type": "array", "items": items, "maxItems": low + random.randint(0, 2)}
    return {**schema, "minItems": low} if low else schema


def _any_of(random: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(random, depth - 1) for _ in range(random.randint(2, 3))]}


def _string(random: Random, depth: int) -> dict[str, Any]:
    low = random.randint(0, 4)
    return {"type": "string", "minLength": low, "maxLength": low + random.randint(0, 20)}


def _pattern(random: Random, depth: int) -> dict[str, Any]:
    return {"type": "string", "pattern": random.choice(_PATTERNS)}


def _integer(random: Random, depth: int) -> dict[str, Any]:
    if random.random() < 0.2:
        return {"type": "integer"}
    low = random.randint(-2000, 2000)
    return {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 3000)}


def _number(random: Random, depth: int) -> dict[str, Any]:
    if random.random() < 0.3:
        return {"type": "number"}
    low = random.randint(-50, 50)
    return {"type": "number", "minimum": low, "maximum": low + random.randint(0, 100)}


def _boolean(random: Random, depth: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _null(random: Random, depth: int) -> dict[str, Any]:
    return {"type": random.choice(["null", ["null", "boolean"]])}


def _listed(random: Random, depth: int) -> dict[str, Any]:
    values: list[Any] = random.sample(_WORDS, random.randint(1, 4))
    return {"enum": [*values, *random.sample([3, -7, True, None], random.randint(0, 2))]}


def _constant(random: Random, depth: int) -> dict[str, Any]:
    return {"const": random.choice([*_WORDS, 12, False, None])}
