"""JSON Schemas without recursion as expressions of `automaton`, one spelling for each value.

The spelling is that of Python's `json.dumps(value, ensure_ascii=False)`: `", "` and `": "`, no
other white space, properties in their declared order, of the escapes only those of quotes and
backslashes (and of line breaks and the like in texts that a schema lists), no `-0`.
"""

from __future__ import annotations

import json
from typing import Any

from .automaton import Chars, Either, Expression, NotRegular, Repeat, Seq, Text
from .regex import is_whole, regex
from .schema_form import faults
from .utf8 import EVERY, Ranges, complement, intersection

_SILENT = {"title", "description", "default", "examples", "$schema", "$id", "$comment",
           "x-guidance", "$defs", "definitions"}  # fmt: skip
_KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum"},
    "number": {"minimum", "maximum"},
    "boolean": set(),
    "null": set(),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
_RAW = complement([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)])
_DIGITS = Repeat(Chars(((0x30, 0x39),)), 1, None)
_FRACTION = Seq((Text("."), _DIGITS))


def schema(source: Any) -> Expression:
    """Return the expression of a JSON schema (an object, or its text); raises NotRegular."""
    whole = json.loads(source) if isinstance(source, str) else source
    for fault in faults(whole):
        raise NotRegular(f"it is no schema: {fault}")
    return _Reader(whole).value(whole, ())


def inside_string(ranges: Ranges) -> Expression:
    """Return how JSON writes one character of a set inside a string."""
    choices: list[Expression] = []
    raw = intersection(ranges, _RAW)
    if raw:
        choices.append(Chars(raw))
    choices += [
        Text("\\" + chr(point)) for point in (0x22, 0x5C)
        if intersection(ranges, ((point, point),))
    ]  # fmt: skip
    return choices[0] if len(choices) == 1 else Either(tuple(choices))


class _Reader:
    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def value(self, given: Any, inside: tuple[str, ...]) -> Expression:
        """`inside`: the references that lead here."""
        if not isinstance(given, dict):
            raise NotRegular("any JSON value may stand somewhere, and those nest")
        keys = given.keys() - _SILENT
        if "$ref" in keys:
            return self._reference(given, keys, inside)
        if "const" in keys or "enum" in keys:
            return self._listed(given, keys)
        if "anyOf" in keys:
            self._only(keys, {"anyOf"})
            return Either(tuple(self.value(one, inside) for one in given["anyOf"]))
        kinds = given.get("type")
        if kinds is None:
            raise NotRegular("any JSON value may stand somewhere, and those nest")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        known = [kind for kind in kinds if kind in _KEYWORDS]
        if known != kinds or not kinds:
            raise NotRegular(f"its type {given['type']!r} is unknown")
        self._only(keys, {"type"}.union(*(_KEYWORDS[kind] for kind in kinds)))
        choices = tuple(getattr(self, "_" + kind)(given, inside) for kind in kinds)
        return choices[0] if len(choices) == 1 else Either(choices)

    def _only(self, keys: set[str], known: set[str]) -> None:
        if keys - known:
            raise NotRegular(f"its keyword {min(keys - known)!r} is not compiled to tables")

    def _reference(self, given: Any, keys: set[str], inside: tuple[str, ...]) -> Expression:
        self._only(keys, {"$ref"})
        name = given["$ref"]
        if name in inside:
            raise NotRegular(f"{name} holds itself")
        if not isinstance(name, str) or not name.startswith("#/"):
            raise NotRegular(f"it refers to {name!r}, outside of itself")
        target = self._whole
        for step in name[2:].split("/"):
            if not isinstance(target, dict) or step not in target:
                raise NotRegular(f"it refers to {name!r}, which it does not hold")
            target = target[step]
        return self.value(target, (*inside, name))

    def _listed(self, given: Any, keys: set[str]) -> Expression:
        self._only(keys, {"const", "enum", "type"})
        values = [given["const"]] if "const" in keys else given["enum"]
        kinds = given.get("type")
        if kinds is not None:
            kinds = kinds if isinstance(kinds, list) else [kinds]
            whole = {"integer"} if "number" in kinds else set[str]()
            values = [value for value in values if _kind(value) in whole.union(kinds)]
        return Either(tuple(Text(_spelled(value)) for value in values))

    # Types.

    def _string(self, given: Any, inside: tuple[str, ...]) -> Expression:
        low, high = _counts(given, "minLength", "maxLength")
        if "pattern" not in given:
            return _quoted(Repeat(inside_string(EVERY), low, high))
        pattern = given["pattern"]
        if low or high is not None:
            raise NotRegular("a string has a pattern and a length")
        if not is_whole(pattern):
            raise NotRegular("a pattern may match anywhere in its string")
        return _quoted(regex(pattern, inside_string, ascii=True))

    def _integer(self, given: Any, inside: tuple[str, ...]) -> Expression:
        low, high = _whole(given.get("minimum")), _whole(given.get("maximum"))
        if low is None and high is None:
            return regex("0|-?[1-9][0-9]*")
        return integers(low, high)

    def _number(self, given: Any, inside: tuple[str, ...]) -> Expression:
        low, high = _whole(given.get("minimum")), _whole(given.get("maximum"))
        if low is None and high is None:
            return regex(r"(?:(?:0|-?[1-9][0-9]*)(?:\.[0-9]+)?|-0\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
        if low is None or high is None:
            raise NotRegular("a number has only one bound")
        return _numbers(low, high)

    def _boolean(self, given: Any, inside: tuple[str, ...]) -> Expression:
        return Either((Text("true"), Text("false")))

    def _null(self, given: Any, inside: tuple[str, ...]) -> Expression:
        return Text("null")

    def _array(self, given: Any, inside: tuple[str, ...]) -> Expression:
        low, high = _counts(given, "minItems", "maxItems")
        if high == 0:
            return Text("[]")
        item = self.value(given.get("items"), inside)
        most = None if high is None else high - 1
        several = Seq((item, Repeat(Seq((Text(", "), item)), max(0, low - 1), most)))
        return Seq((Text("["), several if low else Repeat(several, 0, 1), Text("]")))

    def _object(self, given: Any, inside: tuple[str, ...]) -> Expression:
        if given.get("additionalProperties", True) is not False:
            raise NotRegular("an object may hold any other properties (additionalProperties)")
        fields, required = given.get("properties", {}), given.get("required", [])
        if set(required) - set(fields):
            raise NotRegular("an object requires a property that it does not declare")
        parts: list[tuple[Expression, bool]] = [
            (Seq((Text(_spelled(name) + ": "), self.value(inner, inside))), name in required)
            for name, inner in fields.items()
        ]
        return Seq((Text("{"), _fields(parts), Text("}")))


def _fields(parts: list[tuple[Expression, bool]]) -> Expression:
    """Separate by commas what stands there: properties that are not required may be left out."""
    rest: list[Expression] = [Seq(())]  # rest[-1]: what may follow a property
    first: Expression = Seq(())
    for part, required in reversed(parts):
        begins = Seq((part, rest[-1]))
        first = begins if required else Either((begins, first))
        more = Seq((Text(", "), part))
        rest.append(Seq((more if required else Repeat(more, 0, 1), rest[-1])))
    return first


def integers(low: int | None, high: int | None) -> Expression:
    """Return the decimal spellings of the integers low..high; a bound may be absent."""
    if low is not None and high is not None and low > high:
        raise NotRegular(f"the range {low}..{high} holds no number")
    choices: list[Expression] = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        negatives = _naturals(least, None if low is None else -low)
        choices += [Seq((Text("-"), one)) for one in negatives]
    if high is None or high >= 0:
        choices += _naturals(max(0, low or 0), high)
    return Either(tuple(choices))


def _naturals(low: int, high: int | None) -> list[Expression]:
    choices: list[Expression] = []
    if high is None:
        top = 10 ** len(str(low))
        choices.append(regex(f"[1-9][0-9]{{{len(str(low))},}}"))
        high = top - 1
    while len(str(low)) < len(str(high)):
        top = 10 ** len(str(low)) - 1
        choices.append(_same_width(str(low), str(top)))
        low = top + 1
    return [*choices, _same_width(str(low), str(high))]


def _same_width(low: str, high: str) -> Expression:
    """Return numbers of as many digits, from low to high."""
    if not low:
        return Seq(())
    rest = len(low) - 1
    if low == "0" * len(low) and high == "9" * len(low):
        return Repeat(_digit(0, 9), len(low), len(low))
    first, last = int(low[0]), int(high[0])
    if first == last:
        return Seq((_digit(first, first), _same_width(low[1:], high[1:])))
    choices: list[Expression] = []
    if low[1:] != "0" * rest:
        choices.append(Seq((_digit(first, first), _same_width(low[1:], "9" * rest))))
        first += 1
    if high[1:] != "9" * rest:
        choices.append(Seq((_digit(last, last), _same_width("0" * rest, high[1:]))))
        last -= 1
    if first <= last:
        choices.append(Seq((_digit(first, last), Repeat(_digit(0, 9), rest, rest))))
    return Either(tuple(choices))


def _numbers(low: int, high: int) -> Expression:
    """Return decimal fractions from low to high, without exponents."""
    if low > high:
        raise NotRegular(f"the range {low}..{high} holds no number")
    choices: list[Expression] = []
    if low < 0:
        negative = _magnitudes(max(0, -high), -low, zero=False)
        choices.append(Seq((Text("-"), negative)))
    if high >= 0:
        choices.append(_magnitudes(max(0, low), high, zero=True))
    return Either(tuple(choices))


def _magnitudes(low: int, high: int, zero: bool) -> Expression:
    """Return fractions from low to high (0 <= low <= high); without `zero`, 0 needs a fraction."""
    maybe = Repeat(_FRACTION, 0, 1)
    point_zero = regex(r"(?:\.0+)?") if low < high else Text("")
    choices: list[Expression] = [Seq((integers(high, high), point_zero))] if high else []
    if not high and zero:
        choices.append(Text("0"))
    if low < high:
        if low == 0 and not zero:
            choices.append(regex(r"0\.0*[1-9][0-9]*"))
            low = 1
        if low < high:
            choices.append(Seq((integers(low, high - 1), maybe)))
    return Either(tuple(choices))


def _digit(low: int, high: int) -> Expression:
    return Chars(((0x30 + low, 0x30 + high),))


def _quoted(inner: Expression) -> Expression:
    return Seq((Text('"'), inner, Text('"')))


def _counts(given: Any, least: str, most: str) -> tuple[int, int | None]:
    """Return the bounds of a length; JSON's whole numbers may read 2.0."""
    low, high = int(given.get(least, 0)), given.get(most)
    if high is not None and low > high:
        raise NotRegular(f"its {least} is above its {most}")
    return low, None if high is None else int(high)


def _whole(bound: Any) -> int | None:
    if bound is None or (isinstance(bound, int | float) and bound == int(bound)):
        return None if bound is None else int(bound)
    raise NotRegular(f"its bound {bound} is no whole number")


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


def _spelled(value: Any) -> str:
    if isinstance(value, float) or isinstance(value, list | dict):
        raise NotRegular("a listed value is a fraction, a list or an object")
    if isinstance(value, str) and "\x7f" in value:
        raise NotRegular("a listed text holds the character 7F")
    return json.dumps(value, ensure_ascii=False)
