"""The meaning of each value operation: the same in a program, in a plan and at compile time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from .core import Operation, thaw
from .diagnostics import RunError
from .source import Span
from .values import ErrorValue, ToolFailed, format_value

LARGEST = 10_000_000
"""Most elements or characters that one operation may make: a program cannot fill the memory."""

LARGEST_BITS = 14_284
"""Most bits of a whole number: 4,300 digits, which is what Python writes out. Without a bound,
sixty squarings fill the memory."""

MOST_BRANCHES = 200_000
"""Most branches of one fork: each takes some 10 KB here, whatever it sends."""


class ValueFailed(RunError):
    """A host operation that its values do not allow."""

    template = "row {row}: {problem}"


def evaluate(operation: Operation, operands: Sequence[Any], row: int = 0) -> Any:
    """Return the result of a value operation (all but tool calls); raises ValueFailed."""
    if operation.name == "program.expect" and isinstance(operands[0], ErrorValue):
        raise ToolFailed.of(operands[0], row, operation.span)
    try:
        return _OPERATIONS[operation.name](operation, operands)
    except RunError:
        raise
    except ZeroDivisionError:
        problem = "division by zero"
    except IndexError:
        items, index = operands
        problem = f"there is no element {index} in {len(items)} elements"
    except KeyError as error:
        what = "option" if operation.name == "program.index" else "field"
        problem = f"there is no {what} {error}"
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        problem = str(error)
    raise ValueFailed(row=row, problem=problem, span=operation.span)


def branches_of(over: int | Sequence[Any], row: int, span: Span | None) -> list[Any]:
    """Return what each branch of a fork is over: none of 0; raises ValueFailed where they are too
    many, or fewer than none."""
    count = over if isinstance(over, int) else len(over)
    if count < 0:
        hint = "0 makes none: `max(0, ...)` where a width may fall below"
        raise ValueFailed(row=row, problem=f"a fork of {count} branches", hint=hint, span=span)
    if count > MOST_BRANCHES:
        problem = f"a fork of {count:,} branches, and {MOST_BRANCHES:,} is the most"
        hint = "rows of a batch (--rows) have no bound: they are started as others end"
        raise ValueFailed(row=row, problem=problem, hint=hint, span=span)
    return list(range(count) if isinstance(over, int) else over)


def _constant(operation: Operation, operands: Sequence[Any]) -> Any:
    return thaw(operation.attribute("value"))


def _unary(operation: Operation, operands: Sequence[Any]) -> Any:
    (value,) = operands
    return not value if operation["op"] == "not" else -value


def _binary(operation: Operation, operands: Sequence[Any]) -> Any:
    left, right = operands
    op = operation["op"]
    if op == "in":
        return left in right
    if op == "*" and (isinstance(left, str | list) or isinstance(right, str | list)):
        _check_size(_repeated(left, right))
    return _bounded(_BINARY[op](left, right))


def _repeated(left: Any, right: Any) -> int:
    """Return the size of a text or list times a number."""
    return len(left) * right if isinstance(left, str | list) else left * len(right)


def _field(operation: Operation, operands: Sequence[Any]) -> Any:
    (value,) = operands
    name = operation["name"]
    if name == "logprobs":  # a token that nothing else could follow was not drawn: 0.0
        return [0.0 if logprob is None else logprob for logprob in value.logprobs]
    return value[name] if isinstance(value, dict) else getattr(value, name)


def _index(operation: Operation, operands: Sequence[Any]) -> Any:
    items, index = operands
    return items[index]


def _same(operation: Operation, operands: Sequence[Any]) -> Any:
    return operands[0]


def _is_error(operation: Operation, operands: Sequence[Any]) -> Any:
    return isinstance(operands[0], ErrorValue)


def _list(operation: Operation, operands: Sequence[Any]) -> Any:
    return list(operands)


def _make_record(operation: Operation, operands: Sequence[Any]) -> Any:
    return dict(zip(operation["fields"], operands, strict=True))


def _format(operation: Operation, operands: Sequence[Any]) -> Any:
    shown = [
        part if isinstance(part, str) else _shown(operands[part]) for part in operation["parts"]
    ]
    _check_size(sum(map(len, shown)))
    return "".join(shown)


def _shown(value: Any) -> str:
    """Return how a value reads; what is too long is refused before it is written."""
    if isinstance(value, list | dict):
        _check_size(_least_size(value))
    return format_value(value)


def _least_size(value: Any) -> int:
    """Return how many characters a value takes at least."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_least_size, value)) if isinstance(value, list | tuple) else 1


def _method(operation: Operation, operands: Sequence[Any]) -> Any:
    receiver, *arguments = operands
    name = operation["name"]
    if name not in _METHODS[type(receiver) if isinstance(receiver, list) else str]:
        raise ValueError(f"there is no method {name}")
    if name == "join":
        arguments = [[_shown(item) for item in arguments[0]]]
        _check_size(sum(map(len, arguments[0])) + len(receiver) * len(arguments[0]))
    if name == "replace":
        old, new = arguments
        _check_size(len(receiver) + receiver.count(old) * (len(new) - len(old)))
    return _bounded(getattr(receiver, name)(*arguments))


def _builtin(operation: Operation, operands: Sequence[Any]) -> Any:
    name = operation["name"]
    if name == "range":
        numbers = range(*operands)
        _check_size(len(numbers))
        return list(numbers)
    return _bounded(_BUILTINS[name](*operands))


def _to_int(value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{value!r} is no int") from None


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no float") from None


def _bounded(value: Any) -> Any:
    """Return a value that is no larger than values may be; raises ValueError for others."""
    if isinstance(value, str | list):
        _check_size(len(value))
    elif isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        raise ValueError("a whole number of more than 4300 digits")
    return value


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"a value of {size} elements is more than {LARGEST}")


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

_BUILTINS: dict[str, Callable[..., Any]] = {
    "len": len, "str": _shown, "int": _to_int, "float": _to_float, "min": min, "max": max,
    "sum": sum, "sorted": sorted,
}  # fmt: skip

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "upper lower title capitalize strip lstrip rstrip removeprefix removesuffix replace split "
        "splitlines join startswith endswith isdigit find count".split()
    ),
    list: frozenset({"count", "index"}),
}

_OPERATIONS: dict[str, Callable[[Operation, Sequence[Any]], Any]] = {
    "program.constant": _constant,
    "program.unary": _unary,
    "program.binary": _binary,
    "program.field": _field,
    "program.index": _index,
    "program.result": _same,
    "program.is_error": _is_error,
    "program.error": _same,
    "program.expect": _same,
    "program.list": _list,
    "program.make_record": _make_record,
    "program.format": _format,
    "program.method": _method,
    "program.builtin": _builtin,
}
