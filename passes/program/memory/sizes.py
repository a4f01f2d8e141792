"""How large host values can get: bytes of their text, elements of their lists, as expressions.

A text of n bytes has at most n tokens, whatever it is joined with, so a prompt's tokens follow.
What only a row knows is a symbol of `ir.budget`; what nothing bounds is UNBOUNDED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....ir.budget import UNBOUNDED, Expr, largest, plus, replaced, times
from ....ir.core import Operation, Term, thaw
from ....ir.values import format_value

NUMBER = 32
"""Bytes of a number's text, at most; of a whole one, where no text or row brings a longer one."""

WHOLE_FLOAT = 310
"""Bytes of the whole number that a float is, at most."""

_KEEPS = {"strip", "lstrip", "rstrip", "removeprefix", "removesuffix"}
_JSON = 8
"""A value read from JSON is written with at most so many bytes for each that it was read from."""


@dataclass(frozen=True)
class Size:
    """Bounds of a value: bytes of its text; for a list, its elements and the bytes of each."""

    bytes: Expr = UNBOUNDED
    count: Expr = UNBOUNDED
    each: Expr = UNBOUNDED

    def either(self, other: Size) -> Size:
        """Return a bound of both."""
        return Size(
            largest(self.bytes, other.bytes),
            largest(self.count, other.count),
            largest(self.each, other.each),
        )


ANYTHING = Size()


def size_of_parameter(name: str, type: Term) -> Size:
    """Return the size of a program's parameter."""
    if type.name in {"int", "float", "bool"}:
        return Size(NUMBER)
    if type.name == "list":
        return Size(f"bytes {name}", f"count {name}", f"longest {name}")
    return Size(f"bytes {name}")


def size_of_constant(value: Any) -> Size:
    """Return the size of a value known now."""
    plain = thaw(value)
    if isinstance(plain, list):
        each = max((_bytes(element) for element in plain), default=0)
        return Size(_bytes(plain), len(plain), each)
    return Size(_bytes(plain))


def size_of_generated(type: Term, text: int, fractions: bool = True) -> Size:
    """Return the size of what a gen of a type makes from a text of at most so many bytes.

    Without `fractions`, JSON is written again as it was read: constraints allow one spelling.
    """
    match type.name:
        case "bool":
            return Size(5)
        case "float":
            return Size(NUMBER)
        case "int":
            return Size(max(map(_bytes, type.parameters), default=text))
        case "choice":
            return Size(max(map(_bytes, type.parameters)))
        case "record" | "list" | "schema":
            again = _JSON * text if fractions else text
            return Size(again, text, again)
    return Size(text)


def size_of_value(operation: Operation, sizes: list[Size]) -> Size:
    """Return the size of what a host operation gives, from those of its operands."""
    name, type = operation.name.partition(".")[2], operation.result.type
    if type.name in {"int", "float", "bool"}:
        return Size(_number(operation, sizes))
    match name:
        case "constant":
            return size_of_constant(operation["value"])
        case "field":
            return Size(sizes[0].bytes, sizes[0].bytes, sizes[0].bytes)
        case "index":
            is_list = operation.operands[0].type.name == "list"
            return Size(sizes[0].each if is_list else sizes[0].bytes)
        case "list":
            return _listed(sizes)
        case "make_record":
            names = sum(len(str(field)) + 8 for field in operation["fields"])
            return Size(plus(names, *(times(6, size.bytes) for size in sizes)))
        case "format":
            parts = [
                len(part.encode()) if isinstance(part, str) else sizes[part].bytes
                for part in operation["parts"]
            ]
            return Size(plus(*parts))
        case "method":
            return _method(operation["name"], sizes)
        case "builtin" if operation["name"] == "str":
            return Size(sizes[0].bytes)
        case "builtin" if operation["name"] == "sorted":
            return sizes[0]
        case "binary" if operation["op"] == "+":
            left, right = sizes
            return Size(
                plus(left.bytes, right.bytes), plus(left.count, right.count),
                largest(left.each, right.each),
            )  # fmt: skip
    return ANYTHING


def listed(count: Expr, each: Expr, quoted: bool = True) -> Size:
    """Return the size of a list of so many elements: its text is JSON, its strings are `quoted`."""
    return Size(plus(2, times(count, plus(4, times(6 if quoted else 1, each)))), count, each)


def _listed(sizes: list[Size]) -> Size:
    each = largest(*(size.bytes for size in sizes)) if sizes else 0
    return Size(
        plus(2, *(plus(4, times(6, size.bytes)) for size in sizes)), len(sizes), each
    )  # fmt: skip


def _method(name: str, sizes: list[Size]) -> Size:
    own = sizes[0]
    if name in _KEEPS:
        return Size(own.bytes)
    if name in {"splitlines", "split"}:
        return listed(plus(own.bytes, 1), own.bytes)
    if name == "join":
        items = sizes[1]
        return Size(times(items.count, plus(own.bytes, items.each)))
    return ANYTHING


def _number(operation: Operation, sizes: list[Size]) -> Expr:
    """Return the bytes of a number's text; products of integers have no bound."""
    if operation.result.type.name != "int":
        return NUMBER
    match operation.kind, operation.attribute("op") or operation.attribute("name"):
        case "binary", "*":
            return UNBOUNDED
        case "binary", "-":
            return _whole(largest(*(size.bytes for size in sizes)), 2)
        case (("binary" | "unary"), _):
            return _whole(largest(*(size.bytes for size in sizes)))
        case "builtin", "int":
            is_float = operation.operands[0].type.name == "float"
            return WHOLE_FLOAT if is_float else _whole(sizes[0].bytes)
        case "builtin", ("min" | "max" | "sum") as name if len(sizes) == 1:
            each = _whole(sizes[0].each)
            return each if name != "sum" or each == NUMBER else plus(NUMBER, each)
        case "builtin", ("min" | "max"):
            return _whole(largest(*(size.bytes for size in sizes)))
        case "index", _:
            return _whole(sizes[0].each)
        case "field", _:
            return _whole(sizes[0].bytes)
        case "constant", _:
            return _whole(_bytes(operation["value"]))
    return NUMBER


def _whole(longest: Expr, more: int = 1) -> Expr:
    """Return the bytes of a whole number made of such: a digit `more`, or a sign too, where they
    are many. Of what nothing bounds, a counter in a loop or a tool's field, numbers are taken to be
    usual ones."""
    usual = isinstance(longest, int) and not NUMBER < longest < UNBOUNDED
    return NUMBER if usual else plus(more, longest)


def _bytes(value: Any) -> int:
    return len(format_value(value).encode())


def size_of_returned(type: Term, returned: Size, given: Mapping[str, Expr]) -> Size:
    """Return the size of what a called program returns, by what it is called with."""
    bytes, count, each = (
        replaced(size, given) for size in (returned.bytes, returned.count, returned.each)
    )
    if type.name in {"int", "float", "bool"}:
        return Size(_whole(bytes, 0) if type.name == "int" else NUMBER)
    return Size(bytes, count, each)


def sizes_given(parameters: Mapping[str, Term], sizes: list[Size]) -> dict[str, Expr]:
    """Return the symbols of a called program, by what it is called with."""
    given: dict[str, Expr] = {}
    for name, size in zip(parameters, sizes, strict=True):
        given |= {f"bytes {name}": size.bytes, f"count {name}": size.count}
        given[f"longest {name}"] = size.each
    return given
