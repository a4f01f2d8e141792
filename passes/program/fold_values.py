"""What host operations fold to: constants by their one meaning, and values that are known parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...ir.core import Operation, Symbol, Value, freeze, make, thaw
from ...ir.diagnostics import RunError
from ...ir.dialects.program import EFFECTS, VALUE_NAMES
from ...ir.evaluate import evaluate
from ...ir.numbers import is_int
from ...ir.source import Span
from ...ir.types import STR
from ...ir.values import ErrorValue, ToolFailed, format_value
from ..manager import Context

UNKNOWN = object()
"""Stands for a value that is known only when the program runs."""

_WIDEST_INT = 256
"""Bits of an int that is worth a constant."""


@dataclass
class Knowledge:
    """The constants and the definitions of values met so far; names are unique in a function."""

    largest: int
    constants: dict[str, Any] = field(default_factory=dict)
    definitions: dict[str, Operation] = field(default_factory=dict)
    _pure_calls: dict[tuple[str, str], Any] = field(default_factory=dict)

    def note(self, operation: Operation) -> None:
        """Remember what an operation defines."""
        if operation.name == "program.constant":
            self.constants[operation.result.name] = thaw(operation["value"])
        for value in operation.results:
            self.definitions[value.name] = operation

    def of(self, value: Value) -> Any:
        """Return the constant that a value is, or UNKNOWN."""
        return self.constants.get(value.name, UNKNOWN)

    def maker(self, value: Value, *names: str) -> Operation | None:
        """Return the operation that makes a value, if it is one of these."""
        made = self.definitions.get(value.name)
        return made if made is not None and made.name in names else None

    def elements(self, value: Value) -> list[Any] | tuple[Value, ...] | None:
        """Return a list's elements: constants, or the values that it is made of; else None."""
        known = self.of(value)
        if isinstance(known, list):
            return known
        made = self.maker(value, "program.list")
        return made.operands if made else None

    def folded(self, operation: Operation, context: Context) -> Operation | Value:
        """Return a constant, a value that is the same, or the operation (perhaps a simpler one)."""
        if operation.name == "program.constant":
            return operation
        known = [self.of(value) for value in operation.operands]
        if not any(item is UNKNOWN for item in known):
            constant = self._constant(operation, known, context)
            if constant is not None:
                return constant
        rule = _PARTS.get(operation.name)
        return rule(self, operation) if rule else operation

    def _constant(
        self, operation: Operation, known: list[Any], context: Context
    ) -> Operation | None:
        """Return the constant that an operation of constants is; None, with a remark, if none."""
        if operation.name == "program.call_tool":
            value = self._called(operation, known, context)
        elif operation.name in EFFECTS or operation.name not in VALUE_NAMES:
            return None
        else:
            value = self._evaluated(operation, known, context)
        if value is UNKNOWN:
            return None
        if not is_plain(value, self.largest):
            context.left(
                f"{_shown(operation)} is known but too large, or no plain value", operation.span
            )
            return None
        return constant(operation.result, value, operation.span)

    def _evaluated(self, operation: Operation, known: list[Any], context: Context) -> Any:
        if _size_before(operation, known) > self.largest:
            return UNKNOWN
        try:
            return evaluate(operation, known)
        except RunError as error:
            problem = str(error.fields.get("problem", error.message))
            context.left(f"{_shown(operation)} will fail when it runs: {problem}", operation.span)
            return UNKNOWN

    def _called(self, operation: Operation, known: list[Any], context: Context) -> Any:
        """Run a pure tool now; where it fails, the call stays and fails when the program runs."""
        symbol: Symbol = operation["name"]
        if context.pure_tools is None or symbol.name not in context.pure_tools:
            return UNKNOWN
        key = (symbol.name, repr(known))
        if key not in self._pure_calls:
            try:
                self._pure_calls[key] = context.pure_tools[symbol.name](*known)
            except Exception as failure:
                problem = failure.value["message"] if isinstance(failure, ToolFailed) else failure
                context.left(f"{symbol.name} will be called at run time: {problem}", operation.span)
                self._pure_calls[key] = UNKNOWN
        return self._pure_calls[key]


def constant(result: Value, value: Any, span: Span | None) -> Operation:
    """Return the operation that gives a constant; none is a constant too."""
    attributes = (("value", freeze(value)),)
    return Operation("program.constant", (), attributes, (), (result,), span)


def is_plain(value: Any, largest: int) -> bool:
    """Whether a value can be written as a constant, of at most `largest` elements or characters."""
    return _size(value) <= largest


def shortened(value: Any, most: int = 40) -> str:
    """Return a value for a remark."""
    shown = repr(value)
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def pieces(knowledge: Knowledge, value: Value) -> list[str | Value]:
    """Return the texts and values that an appended value is made of, templates taken apart."""
    known = knowledge.of(value)
    if known is not UNKNOWN:
        return [format_value(known)]
    made = knowledge.maker(value, "program.format", "program.binary", "program.builtin")
    if made is None:
        return [value]
    joined = made.name == "program.binary" and made["op"] == "+" and value.type == STR
    shown = made.name == "program.builtin" and made["name"] == "str"
    apart = joined or shown or made.name == "program.format"
    return _template(knowledge, made) if apart else [value]


def _template(knowledge: Knowledge, made: Operation) -> list[str | Value]:
    """Return the pieces of a format, or of operands that are joined."""
    parts = made.attribute("parts", tuple(range(len(made.operands))))
    found: list[str | Value] = []
    for part in parts:
        found += [part] if isinstance(part, str) else pieces(knowledge, made.operands[part])
    return found


def _size_before(operation: Operation, known: list[Any]) -> int:
    """Return how large a result will be where that can be told without making it."""
    if operation.name == "program.builtin" and operation["name"] == "range":
        try:
            return len(range(*known))
        except (TypeError, ValueError, OverflowError):
            return 0
    if operation.name == "program.binary" and operation["op"] == "*":
        sized = [len(item) for item in known if isinstance(item, str | list)]
        times = [item for item in known if isinstance(item, int)]
        return sized[0] * times[0] if sized and times else 0
    return 0


def _size(value: Any) -> float:
    """Return the elements and characters of a value; infinity where it is no plain one."""
    if value is None or isinstance(value, bool | float):
        return 1
    if isinstance(value, int):
        return 1 if value.bit_length() <= _WIDEST_INT else float("inf")
    if type(value) is str:
        return len(value) if _is_text(value) else float("inf")
    if isinstance(value, list):
        return 1 + sum(map(_size, value))
    if isinstance(value, dict) and not isinstance(value, ErrorValue):
        if all(type(key) is str for key in value):
            return 1 + sum(map(_size, value.values()))
    return float("inf")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(operation: Operation) -> str:
    what = operation.attribute("op") or operation.attribute("name")
    name = what.name if isinstance(what, Symbol) else what
    return str(name or operation.name.partition(".")[2])


# Values that are known parts of others.


def _field(knowledge: Knowledge, operation: Operation) -> Operation | Value:
    made = knowledge.maker(operation.operands[0], "program.make_record")
    if made is None or operation["name"] not in made["fields"]:
        return operation
    return made.operands[made["fields"].index(operation["name"])]


def _index(knowledge: Knowledge, operation: Operation) -> Operation | Value:
    items, index = operation.operands
    made, at = knowledge.maker(items, "program.list"), knowledge.of(index)
    if made is None or not is_int(at):
        return operation
    inside = -len(made.operands) <= at < len(made.operands)
    return made.operands[at] if inside else operation


def _builtin(knowledge: Knowledge, operation: Operation) -> Operation | Value:
    if operation["name"] == "len":
        made = knowledge.maker(operation.operands[0], "program.list")
        return constant(operation.result, len(made.operands), operation.span) if made else operation
    if operation["name"] == "str" and operation.operands[0].type == STR:
        return operation.operands[0]
    return operation


def _is_error(knowledge: Knowledge, operation: Operation) -> Operation | Value:
    sure = knowledge.maker(operation.operands[0], "program.result")
    return constant(operation.result, False, operation.span) if sure else operation


def _expect(knowledge: Knowledge, operation: Operation) -> Operation | Value:
    sure = knowledge.maker(operation.operands[0], "program.result")
    return sure.operands[0] if sure else operation


def _format(knowledge: Knowledge, operation: Operation) -> Operation | Value:
    """Join the parts of a template that are known, those of templates inside it too."""
    parts: list[str | int] = []
    operands: list[Value] = []
    for piece in _template(knowledge, operation):
        if isinstance(piece, Value):
            parts.append(len(operands))
            operands.append(piece)
        elif parts and isinstance(parts[-1], str):
            parts[-1] += piece
        elif piece:
            parts.append(piece)
    simpler = make(
        "program.format", *operands, results=operation.results, span=operation.span, parts=parts
    )
    return operation if simpler == operation else simpler


_PARTS: dict[str, Callable[[Knowledge, Operation], Operation | Value]] = {
    "program.field": _field,
    "program.index": _index,
    "program.builtin": _builtin,
    "program.is_error": _is_error,
    "program.expect": _expect,
    "program.format": _format,
}
"""Operations that may be known in part, though an operand is not."""
