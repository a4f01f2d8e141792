"""Expressions whose value is known from their text alone."""

from __future__ import annotations

from typing import Any

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
