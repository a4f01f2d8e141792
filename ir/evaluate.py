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
    result = _BINARY[op](left, right)
    if isinstance(result, str | list):
        _check_size(len(result))
    return result


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
    return "".join(
        part if isinstance(part, str) else format_value(operands[part])
        for part in operation["parts"]
    )


def _method(operation: Operation, operands: Sequence[Any]) -> Any:
    receiver, *arguments = operands
    name = operation["name"]
    if name not in _METHODS[type(receiver) if isinstance(receiver, list) else str]:
        raise ValueError(f"there is no method {name}")
    if name == "join":
        arguments = [[format_value(item) for item in arguments[0]]]
        _check_size(sum(map(len, arguments[0])) + len(receiver) * len(arguments[0]))
    if name == "replace":
        old, new = arguments
        _check_size(len(receiver) + receiver.count(old) * (len(new) - len(old)))
    result = getattr(receiver, name)(*arguments)
    if isinstance(result, str | list):
        _check_size(len(result))
    return result


def _builtin(operation: Operation, operands: Sequence[Any]) -> Any:
    name = operation["name"]
    if name == "range":
        numbers = range(*operands)
        _check_size(len(numbers))
        return list(numbers)
    return _BUILTINS[name](*operands)


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


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"a value of {size} elements is more than {LARGEST}")


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

_BUILTINS: dict[str, Callable[..., Any]] = {
    "len": len, "str": format_value, "int": _to_int, "float": _to_float, "min": min, "max": max,
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
