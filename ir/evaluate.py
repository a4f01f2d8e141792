"""The meaning of each value operation: the same in a program, in a plan and at compile time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from .core import Operation, thaw
from .diagnostics import RunError
from .display.units import counted
from .numbers import is_int, is_number
from .source import Span
from .values import ErrorValue, ToolFailed, format_value, kind_of

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


class Refused(ValueError):
    """A value that an operation does not take, in our own words."""


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
        what = "option" if operation.operands[0].type.name == "map" else "field"
        problem = f"there is no {what} {error}"
    except Refused as error:
        problem = str(error)
    except (TypeError, ValueError, OverflowError) as error:
        problem = _in_words(operation, operands, error)
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


def best_of(points: Sequence[float], branches: int, row: int, span: Span | None) -> int:
    """Return the number of the branch that has most points, the first of equals; raises
    ValueFailed where there is none, or not a number for each."""
    if not branches:
        problem = "join best has no branch to go on with: the fork above it made none"
    elif len(points) != branches:
        many = f"{branches:,} branches" if branches > 1 else "1 branch"
        problem = f"join best has {many} and {counted(len(points), 'point')}: it takes one for each"
    elif any(point != point for point in points):
        problem = "join best has a point that is no number (NaN): nothing is best"
    else:
        return max(range(branches), key=points.__getitem__)
    raise ValueFailed(row=row, problem=problem, span=span)


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
    if op == "+" and type(left) is type(right) and type(left) in _JOINED:
        _check_size(len(left) + len(right))
        return left + right
    if op in _ARITHMETIC and not (is_number(left) and is_number(right)):
        _check_together(op, left, right)
    return _bounded(_BINARY[op](left, right))


_JOINED = frozenset({str, list})


def _check_together(op: str, left: Any, right: Any) -> None:
    """Refuse what Python gives a meaning that weft does not: `"%d" % n`, a list times a number.

    Only a schema's value can be of such a kind: of the others types are known.
    """
    for text, times in ((left, right), (right, left)):
        if op == "*" and isinstance(text, str) and is_int(times):
            return _check_size(len(text) * times)
        if op == "+" and any(isinstance(left, T) and isinstance(right, T) for T in (str, list)):
            return
    raise TypeError


def _field(operation: Operation, operands: Sequence[Any]) -> Any:
    (value,) = operands
    name = operation["name"]
    if isinstance(value, dict):
        return value[name]
    if name == "logprobs" and hasattr(value, name):
        return [0.0 if one is None else one for one in value.logprobs]  # None: forced, not drawn
    if name == "probs" and hasattr(value, name):
        return value.probs
    raise Refused(f"there is no field {name!r} in {kind_of(value)}")


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
    if not any(isinstance(receiver, T) and name in _METHODS[T] for T in _METHODS):
        raise Refused(f"{kind_of(receiver)} has no method {name}")
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
        if numbers:  # `len` counts no more than a word holds
            _check_size((numbers[-1] - numbers[0]) // numbers.step + 1)
        return list(numbers)
    return _bounded(_BUILTINS[name](*operands))


def _to_int(value: Any) -> int:
    try:
        return int(value)
    except (ValueError, OverflowError):  # a text, infinity
        raise Refused(f"{value!r} is no int") from None


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise Refused(f"{value!r} is no float") from None


def _bounded(value: Any) -> Any:
    """Return a value that is no larger than values may be; raises ValueError for others."""
    if isinstance(value, str | list):
        _check_size(len(value))
    elif isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        raise Refused("a whole number of more than 4300 digits")
    return value


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise Refused(f"a value of {size} elements is more than {LARGEST}")


def _in_words(operation: Operation, operands: Sequence[Any], error: Exception) -> str:
    """Return why Python does not take an operation's values, without Python's words."""
    name = operation.attribute("op") or operation.attribute("name") or "[...]"
    if isinstance(error, OverflowError):
        return f"`{name}` gives a number that is larger than any float"
    if isinstance(error, ValueError):
        return _REASONS.get(name, f"`{name}`: {error}")
    return f"`{name}` does not take {' and '.join(map(kind_of, operands))}"


_REASONS = {
    "index": "`index`: the list does not hold the value",
    "split": "`split`: the separator is empty",
    "min": "`min` of nothing: the list is empty",
    "max": "`max` of nothing: the list is empty",
    "range": "`range`: the step is 0",
}

_ARITHMETIC = frozenset({"+", "-", "*", "/", "//", "%"})

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
