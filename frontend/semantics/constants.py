"""Expressions whose value is known from their text alone."""

from __future__ import annotations

import operator
from typing import Any

from ...ir.numbers import is_int
from ...ir.types import regex
from .. import ast

UNKNOWN = object()
"""What `constant_of` returns for an expression that must be computed."""


def constant_of(expression: ast.Expression) -> Any:
    """Return an expression's value if it is a literal, or a list of such; else UNKNOWN."""
    if isinstance(expression, ast.Literal):
        return expression.value
    if isinstance(expression, ast.Text):
        text = expression.constant
        return UNKNOWN if text is None else text
    if isinstance(expression, ast.Pattern):
        return regex(expression.source)
    if isinstance(expression, ast.ListOf):
        values = [constant_of(item) for item in expression.elements]
        return UNKNOWN if any(value is UNKNOWN for value in values) else values
    return UNKNOWN


_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def int_of(expression: ast.Expression) -> int | None:
    """Return what an int literal is, or a sum, difference or product of such; else None."""
    if isinstance(expression, ast.Unary) and expression.op == "neg":
        value = int_of(expression.operand)
        return None if value is None else -value
    if isinstance(expression, ast.Binary) and expression.op in _ARITHMETIC:
        left, right = int_of(expression.left), int_of(expression.right)
        known = left is not None and right is not None
        return _ARITHMETIC[expression.op](left, right) if known else None
    value = constant_of(expression)
    return value if is_int(value) else None
