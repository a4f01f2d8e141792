"""From a gen's type to what holds the model to it: a regular expression, or a JSON schema.

A record reads exactly like Python's `json.dumps`: keys in declared order, `", "` and `": "`
between them, no line breaks. Patterns match the whole text; they carry no `^` and `$`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...ir.core import Operation, Table, Term
from ...ir.values import format_value, parse_value, records_of
from .type_names import MAX_ITEMS

__all__ = [
    "constraint_of", "format_value", "integer_pattern", "parse_value", "pattern_of", "records_of",
    "schema_of",
]  # fmt: skip

CHARACTERS_PER_TOKEN = 3
"""How many characters a record's string may have for each token of its budget."""

FIELD_TOKENS = 32
LARGEST = 999_999_999
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_FLOAT = r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?"
_CHARACTER = r'(?:[^"\\\x00-\x1f\x7f]|\\["\\/])'

Records = Mapping[str, Operation]


def constraint_of(type: Term, records: Records) -> tuple[str, str] | None:
    """Return (`regex`, `json` or `lark`, source) of a gen's type, None for free text."""
    if type.name == "str":
        return None
    if type.name == "grammar":
        return "lark", str(type.parameters[0])
    if type.name == "schema":
        return "json", json.dumps(json.loads(str(type.parameters[0])) | {"x-guidance": _LAYOUT})
    if type.name in {"record", "list"}:
        return "json", json.dumps(schema_of(type, records) | {"x-guidance": _LAYOUT})
    return "regex", pattern_of(type, records)


def schema_of(type: Term, records: Records, options: Table | None = None) -> dict[str, Any]:
    """Return the JSON schema of a type; `options` are those of the field it stands in."""
    given = options or Table()
    match type.name:
        case "str":
            length = CHARACTERS_PER_TOKEN * given.get("max_tokens", FIELD_TOKENS)
            return {"type": "string", "pattern": rf"^[^\x00-\x1f]{{0,{length}}}$"}
        case "regex":
            return {"type": "string", "pattern": f"^(?:{type.parameters[0]})$"}
        case "choice":
            return {"type": "string", "enum": list(type.parameters)}
        case "int":
            low, high = type.parameters or (-LARGEST, LARGEST)
            return {"type": "integer", "minimum": low, "maximum": high}
        case "float":
            return {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
        case "bool":
            return {"type": "boolean"}
        case "list":
            items = schema_of(_inner(type), records, options)
            most = _most(type, given)
            return {"type": "array", "items": items, "maxItems": most}
    fields = records[str(type.parameters[0])]["fields"]
    return {
        "type": "object",
        "properties": {
            field["name"]: schema_of(field["type"], records, field.get("options"))
            for field in fields
        },
        "required": [field["name"] for field in fields],
        "additionalProperties": False,
    }


def pattern_of(type: Term, records: Records) -> str:
    """Return the pattern of a whole text of the type; a top-level str is any text."""
    if type.name == "str":
        return r"[\s\S]*"
    if type.name in {"record", "list"}:
        return _json_pattern(type, records, Table())
    return _scalar_pattern(type)


def _scalar_pattern(type: Term) -> str:
    match type.name:
        case "int" if type.parameters:
            return integer_pattern(*type.parameters)  # type: ignore[arg-type]
        case "int":
            return "(?:0|-?[1-9][0-9]{0,8})"
        case "float":
            return _FLOAT
        case "bool":
            return "(?:true|false)"
        case "choice":
            return _either([_escape(str(option)) for option in type.parameters])
    return f"(?:{type.parameters[0]})"


def _json_pattern(type: Term, records: Records, options: Table) -> str:
    match type.name:
        case "str":
            length = CHARACTERS_PER_TOKEN * options.get("max_tokens", FIELD_TOKENS)
            return f'"{_CHARACTER}{{0,{length}}}"'
        case "choice":
            quoted = [json.dumps(option, ensure_ascii=False) for option in type.parameters]
            return _either([_escape(option) for option in quoted])
        case "regex":
            return f'"{_scalar_pattern(type)}"'
        case "list":
            item = _json_pattern(_inner(type), records, options)
            more = _most(type, options) - 1
            return rf"\[(?:{item}(?:, {item}){{0,{more}}})?\]"
        case "record":
            fields = records[str(type.parameters[0])]["fields"]
            parts = [
                _escape(json.dumps(field["name"])) + ": "
                + _json_pattern(field["type"], records, field.get("options") or Table())
                for field in fields
            ]  # fmt: skip
            return r"\{" + ", ".join(parts) + r"\}"
    return _scalar_pattern(type)


def _most(type: Term, options: Table) -> int:
    """Return how many elements a list may have, by its type or by its field's options."""
    known = type.parameters[1] if len(type.parameters) > 1 else None
    return known if isinstance(known, int) else options.get("max_items", MAX_ITEMS)


def _inner(type: Term) -> Term:
    inner = type.parameters[0]
    assert isinstance(inner, Term)
    return inner


def integer_pattern(low: int, high: int) -> str:
    """Return the pattern of the decimal numbers low..high, both included, without leading zeros."""
    if low > high:
        raise ValueError(f"the range {low}..{high} holds no number")
    choices = []
    if low < 0:
        negatives = _naturals(max(1, -high), -low)
        choices.append("-" + _either(negatives))
    if high >= 0:
        choices += _naturals(max(0, low), high)
    return _either(choices)


def _naturals(low: int, high: int) -> list[str]:
    """Return patterns for low..high (0 <= low <= high), one or more for each number of digits."""
    choices = []
    while len(str(low)) < len(str(high)):
        top = 10 ** len(str(low)) - 1
        choices += _same_width(str(low), str(top))
        low = top + 1
    return choices + _same_width(str(low), str(high))


def _same_width(low: str, high: str) -> list[str]:
    if not low:
        return [""]
    if low[0] == high[0]:
        return [low[0] + _either(_same_width(low[1:], high[1:]))]
    rest = len(low) - 1
    first, last, choices = int(low[0]), int(high[0]), []
    if low[1:] != "0" * rest:
        choices.append(low[0] + _either(_same_width(low[1:], "9" * rest)))
        first += 1
    tail = []
    if high[1:] != "9" * rest:
        tail.append(high[0] + _either(_same_width("0" * rest, high[1:])))
        last -= 1
    if first <= last:
        digit = str(first) if first == last else f"[{first}-{last}]"
        choices.append(digit + ("[0-9]" if rest == 1 else f"[0-9]{{{rest}}}" if rest else ""))
    return choices + tail


def _either(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"(?:{'|'.join(choices)})"


def _escape(text: str) -> str:
    """Escape only what patterns give a meaning; `re.escape` also escapes spaces."""
    return re.sub(r"[\\.^$*+?{}\[\]|()]", r"\\\g<0>", text)
