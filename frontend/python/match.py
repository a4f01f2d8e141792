"""Reads Python's match patterns as the cases of a weft match."""

from __future__ import annotations

import ast as python
from collections.abc import Callable

from ...ir.source import Span
from .. import ast
from .source import NotInPython
from .types import last_name

ERRORS = {"Exception", "Error"}
"""Class patterns that stand for a tool's error."""


def read_case(
    pattern: python.pattern,
    body: tuple[ast.Statement, ...],
    span: Span,
    read: Callable[[python.expr], ast.Expression],
) -> ast.Case:
    """Return the case of a pattern: literals, `Exception() as e`, a name, or `_`."""
    match pattern:
        case python.MatchAs(pattern=None, name=name):
            return ast.Case("value" if name else "any", (), name, body, span=span)
        case python.MatchAs(pattern=python.MatchClass() as inner, name=name) if _is_error(inner):
            return ast.Case("error", (), name, body, span=span)
        case python.MatchClass() as inner if _is_error(inner):
            return ast.Case("error", (), None, body, span=span)
        case python.MatchOr(patterns=patterns):
            values = tuple(_literal(item, span, read) for item in patterns)
            return ast.Case("literal", values, None, body, span=span)
    return ast.Case("literal", (_literal(pattern, span, read),), None, body, span=span)


def captured_name(pattern: python.pattern) -> list[str]:
    """Return the name that a pattern binds, if it binds one."""
    name = pattern.name if isinstance(pattern, python.MatchAs) else None
    return [name] if name else []


def _is_error(pattern: python.MatchClass) -> bool:
    plain = not (pattern.patterns or pattern.kwd_patterns)
    return plain and last_name(pattern.cls) in ERRORS


def _literal(
    pattern: python.pattern, span: Span, read: Callable[[python.expr], ast.Expression]
) -> ast.Expression:
    if isinstance(pattern, python.MatchValue):
        return read(pattern.value)
    if isinstance(pattern, python.MatchSingleton):
        return ast.Literal(pattern.value, span=span)
    hint = 'a case is: case "a" | "b":, case 1:, case Exception() as e:, case v:, or case _:'
    raise NotInPython(what="this pattern", hint=hint, span=span)
