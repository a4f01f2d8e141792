"""Host values and their text: how a generated text is read, and how a value reads in a prompt."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from . import strict_json
from .core import Module, Operation, Term
from .diagnostics import RunError
from .source import Span
from .types import written

TIMEOUT = "timeout"
WRONG_VALUE = "wrong value"
"""Kinds of errors that are no exception of the tool itself."""


class UnreadableValue(RunError):
    """A generated text that is no value of its type."""

    template = "{text!r} is no {type}: {problem}"
    hint = "a constrained gen ends like this only when max_tokens or a stop cuts it short"


class ErrorValue(dict[str, Any]):
    """The failure of a tool as a value: tool, kind and message; it reads as its message."""


class ToolFailed(RunError):
    """A tool that raised, hung, or gave a value of another type."""

    template = "row {row}: tool {tool} {problem}"

    @staticmethod
    def of(error: ErrorValue, row: int, span: Span | None) -> ToolFailed:
        """Return the failure that an error value stands for."""
        problem = error["message"]
        if error["kind"] not in {TIMEOUT, WRONG_VALUE}:
            problem = f"raised {error['kind']}: {problem}"
        return ToolFailed(row=row, tool=error["tool"], problem=problem, value=error, span=span)

    @property
    def value(self) -> ErrorValue:
        """The failure as a value of the program."""
        return self.fields["value"]


def records_of(module: Module) -> dict[str, Operation]:
    """Return the `program.record` operations of a module, by the record's name."""
    found = (item for item in module.operations if item.name == "program.record")
    return {item["name"].name: item for item in found}


def format_value(value: Any) -> str:
    """Return how a value reads where it is interpolated into text."""
    if isinstance(value, str):
        return value
    if isinstance(value, ErrorValue):
        return value["message"]
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def kind_of(value: Any) -> str:
    """Return what kind of value this is, for a message: `a list of int and str`."""
    kind = _kind(value)
    if kind == "list":
        inner = sorted(set(map(_kind, value)))
        return f"a list of {' and '.join(inner)}" if inner else "an empty list"
    return "a record" if kind == "record" else kind


def _kind(value: Any) -> str:
    if value is None:
        return "none"
    for kind, types in (("str", str), ("list", list | tuple), ("record", Mapping)):
        if isinstance(value, types):
            return kind
    return type(value).__name__


def portable_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return a value as JSON that any reader takes: NaN and infinities, which it lacks, as text.

    `default` as in `json.dumps`. Python's own readers and writers know the three as numbers.
    """
    text = json.dumps(value, ensure_ascii=False, default=default)
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(json.loads(text, parse_constant=str), ensure_ascii=False)


def parse_value(type: Term, records: Mapping[str, Operation], text: str) -> Any:
    """Return the value that a generated text stands for; raises UnreadableValue.

    Records come as dicts in declared order, lists as lists; `records` is `records_of(module)`.
    """
    if type.name == "schema":
        return _load(type, text)
    if type.name in {"record", "list"}:
        return _from_json(type, records, _load(type, text), text)
    return _scalar(type, text, text)


def _load(type: Term, text: str) -> Any:
    try:
        return json.loads(text, parse_int=strict_json.whole_number)
    except json.JSONDecodeError as error:
        problem = strict_json.in_words(error)
    except (strict_json.TooManyDigits, RecursionError) as error:
        problem = str(error)
    raise _unreadable(type, text, problem)


def check_whole(type: Term, text: str, whole: Callable[[str], bool]) -> None:
    """Raise UnreadableValue for the start of a text: of a schema or a grammar it may read as a
    value (`12` of 100 to 200), and `whole` tells. What else is cut short never reads as one."""
    if type.name in {"schema", "grammar"} and not whole(text):
        raise _unreadable(type, text, "it ends before it is whole")


def _unreadable(type: Term, text: str, problem: str) -> UnreadableValue:
    """Return the error; a whole schema or grammar as the type would bury the text."""
    whole = type.name in {"schema", "grammar"}
    named = f"text of its {type.name}" if whole else written(type)
    return UnreadableValue(text=text, type=named, problem=problem)


def _scalar(type: Term, text: str, whole: str) -> Any:
    stripped = text.strip()
    match type.name:
        case "str" | "grammar":
            return text
        case "int" if re.fullmatch(r"[+-]?\d+", stripped):
            return _in_range(type, _whole_number(type, stripped), whole)
        case "float" if re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", stripped):
            return float(stripped)
        case "bool" if stripped in {"true", "false"}:
            return stripped == "true"
        case "choice" if text in type.parameters:
            return text
        case "regex" if re.fullmatch(str(type.parameters[0]), text):
            return text
    raise _unreadable(type, whole, "the text does not fit the type")


def _whole_number(type: Term, digits: str) -> int:
    try:
        return strict_json.whole_number(digits)
    except strict_json.TooManyDigits as error:
        raise _unreadable(type, digits, str(error)) from None


def _in_range(type: Term, value: int, whole: str) -> int:
    if type.parameters and not type.parameters[0] <= value <= type.parameters[1]:  # type: ignore[operator]
        raise _unreadable(type, whole, f"{value} is outside the range")
    return value


def _real(value: int | float) -> float:
    """Return a number as a float: one beyond all floats is infinite, as its text is."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _from_json(type: Term, records: Mapping[str, Operation], value: Any, text: str) -> Any:
    match type.name, value:
        case "list", list():
            inner = type.parameters[0]
            assert isinstance(inner, Term)
            return [_from_json(inner, records, item, text) for item in value]
        case "record", dict():
            fields = records[str(type.parameters[0])]["fields"]
            if {field["name"] for field in fields} != set(value):
                raise _unreadable(type, text, "the fields are others")
            return {
                field["name"]: _from_json(field["type"], records, value[field["name"]], text)
                for field in fields
            }
        case (("str" | "choice" | "regex"), str()):
            return _scalar(type, value, text)
        case "bool", bool():
            return value
        case "int", int() if not isinstance(value, bool):
            return _in_range(type, value, text)
        case "float", int() | float() if not isinstance(value, bool):
            return _real(value)
    raise _unreadable(type, text, f"{value!r} stands for a {written(type)}")
