"""The expressions of kernels as z3 terms: integers and booleans are exact, floats unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import z3

from ...ir.expression import Handler


class Unknown:
    """A float: nothing is known of it, and comparing it may give either answer."""


UNKNOWN = Unknown()
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "//": lambda a, b: a / b, "%": lambda a, b: a % b,
}  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}  # fmt: skip


class SymbolicWriter(Handler[Any]):
    """Reads an expression as a z3 term. `element` and `at` read buffers, in launch facts."""

    def __init__(
        self, variables: Mapping[str, Any], element: Callable[[str], Any] | None = None,
        at: Callable[[str, Any], Any] | None = None,
    ) -> None:  # fmt: skip
        self._variables, self._element, self._at = variables, element, at

    def name(self, name: str) -> Any:
        """Return a variable's term."""
        return self._variables[name]

    def number(self, value: int | float) -> Any:
        """Return an integer; a float literal is unknown."""
        return z3.IntVal(value) if isinstance(value, int) else UNKNOWN

    def unary(self, op: str, operand: Any) -> Any:
        """Return `-x`, or `~x`: not, or -x - 1."""
        if operand is UNKNOWN:
            return UNKNOWN
        if op == "~":
            return z3.Not(operand) if z3.is_bool(operand) else -operand - 1
        return -integer(operand)

    def binary(self, op: str, left: Any, right: Any) -> Any:
        """Return an operation; division by what may be 0 is unknown."""
        if op == "/" or left is UNKNOWN or right is UNKNOWN:
            return UNKNOWN
        if z3.is_bool(left) and z3.is_bool(right) and op in "&|^":
            return {"&": z3.And, "|": z3.Or, "^": z3.Xor}[op](left, right)
        left, right = integer(left), integer(right)
        if op in _ARITHMETIC:
            return _ARITHMETIC[op](left, right)
        return self._bits(op, left, right)

    def _bits(self, op: str, left: Any, right: Any) -> Any:
        number = right.as_long() if z3.is_int_value(right) else -1
        if op == "<<" and number >= 0:
            return left * 2**number
        if op == ">>" and number >= 0:
            return left / 2**number
        if op == "&" and number >= 0 and (number + 1) & number == 0:
            return left % (number + 1)
        return z3.FreshInt("bits")

    def compare(self, op: str, left: Any, right: Any) -> Any:
        """Return a comparison; of floats, either answer."""
        if left is UNKNOWN or right is UNKNOWN:
            return z3.FreshBool("test")
        return _COMPARE[op](integer(left), integer(right))

    def call(self, function: str, arguments: list[Any]) -> Any:
        """Return a function's term."""
        if function == "where":
            return self._where(*arguments)
        if any(argument is UNKNOWN for argument in arguments):
            whole = function in ("i32", "bits_i32", "dot4")
            return z3.FreshInt("cast") if whole else UNKNOWN
        terms = [integer(argument) for argument in arguments]
        match function:
            case "min":
                return z3.If(terms[0] <= terms[1], terms[0], terms[1])
            case "max":
                return z3.If(terms[0] >= terms[1], terms[0], terms[1])
            case "abs":
                return z3.If(terms[0] >= 0, terms[0], -terms[0])
            case "ceildiv":
                return -((-terms[0]) / terms[1])
            case "i32":
                return terms[0]
            case "umulhi" | "bits_i32" | "dot4":
                return z3.FreshInt(function)
        return UNKNOWN

    def _where(self, test: Any, yes: Any, no: Any) -> Any:
        test = z3.FreshBool("test") if test is UNKNOWN else boolean(test)
        if yes is UNKNOWN or no is UNKNOWN:
            return UNKNOWN
        if z3.is_bool(yes) and z3.is_bool(no):
            return z3.If(test, yes, no)
        return z3.If(test, integer(yes), integer(no))

    def element(self, name: str) -> Any:
        """Return the element that the caller chose for `name[*]`."""
        assert self._element is not None
        return self._element(name)

    def at(self, name: str, index: Any) -> Any:
        """Return the content of a buffer at an index."""
        assert self._at is not None
        return self._at(name, index)


def integer(term: Any) -> Any:
    """Return a term as an integer: a boolean counts as 0 or 1."""
    return z3.If(term, z3.IntVal(1), z3.IntVal(0)) if z3.is_bool(term) else term


def boolean(term: Any) -> Any:
    """Return a term as a boolean: an integer is true if it is not 0."""
    return term if z3.is_bool(term) else term != 0
