"""IR to text: one rule for every operation of every dialect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from .core import Module, Operation, Region, Symbol, Table, Term, Value


def print_module(module: Module, spans: bool = False) -> str:
    """Return the text form of a module; with `spans`, each operation ends in `loc(...)`."""
    return "".join(f"{text}\n" for text, _ in located_lines(module.operations, spans))


def located_lines(
    operations: Iterable[Operation], spans: bool = False
) -> list[tuple[str, Operation]]:
    """Return the lines of operations, each with the innermost operation that it belongs to."""
    lines: list[tuple[str, Operation]] = []
    for operation in operations:
        _print_operation(operation, "", lines, spans)
    return lines


def print_operation(operation: Operation) -> str:
    """Return the text of one operation, regions included."""
    return "\n".join(text for text, _ in located_lines((operation,)))


def _print_operation(
    operation: Operation, indent: str, lines: list[tuple[str, Operation]], spans: bool
) -> None:
    head = _head(operation)
    tail = _tail(operation, spans)
    if not operation.regions:
        lines.append((f"{indent}{head}{tail}", operation))
        return
    for position, region in enumerate(operation.regions):
        opening = f"{indent}{head} {{" if position == 0 else f"{indent}}} {{"
        lines.append((opening + _arguments(region), operation))
        for inner in region.operations:
            _print_operation(inner, indent + "  ", lines, spans)
    lines.append((f"{indent}}}{tail}", operation))


def _head(operation: Operation) -> str:
    results = ", ".join(f"%{value.name}" for value in operation.results)
    text = f"{results} = {operation.name}" if results else operation.name
    items = [f"%{value.name}" for value in operation.operands]
    items += [f"{key} = {print_attribute(value)}" for key, value in operation.attributes]
    return f"{text} {', '.join(items)}" if items else text


def _tail(operation: Operation, spans: bool) -> str:
    text = ""
    if operation.results:
        text = " : " + ", ".join(print_attribute(value.type) for value in operation.results)
    if spans and operation.span is not None:
        span = operation.span
        place = f"{span.line}, {span.column}, {span.end_line}, {span.end_column}"
        text += f" loc({json.dumps(span.source)}, {place})"
    return text


def _arguments(region: Region) -> str:
    if not region.arguments:
        return ""
    return " |" + ", ".join(_typed(value) for value in region.arguments) + "|"


def _typed(value: Value) -> str:
    return f"%{value.name}: {print_attribute(value.type)}"


def print_attribute(value: Any) -> str:
    """Return the text form of an attribute value.

    Raises TypeError for a Python object that is no attribute.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _print_float(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Symbol):
        return f"@{value.name}"
    if isinstance(value, Term):
        inner = ", ".join(print_attribute(item) for item in value.parameters)
        return f"{value.name}<{inner}>" if inner else value.name
    if isinstance(value, tuple):
        return "[" + ", ".join(print_attribute(item) for item in value) + "]"
    if isinstance(value, Table):
        body = ", ".join(f"{_key(key)} = {print_attribute(item)}" for key, item in value.items)
        return "{" + body + "}"
    raise TypeError(f"{type(value).__name__} is no IR attribute: {value!r}")


def _key(key: str) -> str:
    plain = key.isascii() and key.isidentifier() and key not in {"true", "false", "null"}
    return key if plain else json.dumps(key, ensure_ascii=False)


def _print_float(value: float) -> str:
    if math.isnan(value):
        return "float<nan>"
    if math.isinf(value):
        return "float<inf>" if value > 0 else "float<minus_inf>"
    text = repr(value)
    return text if any(mark in text for mark in ".e") else text + ".0"
