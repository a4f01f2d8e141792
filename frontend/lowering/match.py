"""Lowers a match to ifs; what a tool returned may be its error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.core import Term, Value
from ...ir.types import BOOL, ERROR, list_of, result_of
from .. import ast
from ..semantics.constants import constant_of
from ..semantics.match import exhausted, is_tool_call
from ..semantics.signatures import base, outcome
from .expressions import Scope, lower_expression, lower_tool_call, unwrapped

if TYPE_CHECKING:
    from .lower import Lowering


def lower_match(lowering: Lowering, match: ast.Match, scope: Scope) -> None:
    """Lower a match: an error is looked for first, then the other cases in their order."""
    error = next((case for case in match.cases if case.kind == "error"), None)
    others = [case for case in match.cases if case is not error]
    if error is None:
        value = lower_expression(match.subject, scope, hint="matched")
        _lower_cases(lowering, others, value, scope, exhausted(others, value.type))
        return
    if isinstance(match.subject, ast.Name):
        result = scope.values[match.subject.name]
    else:
        result = lower_fallible(lowering, match.subject, scope, "result", None)
    failed = scope.value("program.is_error", result, hint="failed", type=BOOL, span=error.span)

    def on_error(inner: Scope) -> None:
        if error.name is not None:
            inner.values[error.name] = inner.value(
                "program.error", result, hint=error.name, type=ERROR, span=error.span
            )
        lowering.body(error.body, inner)

    def on_value(inner: Scope) -> None:
        if others:
            value = unwrapped(result, inner, match.subject.span)
            _lower_cases(lowering, others, value, inner, exhausted(others, value.type))

    lowering.either(failed, on_error, on_value, scope, match.span)


def lower_fallible(
    lowering: Lowering, expression: ast.Expression, scope: Scope, hint: str, wanted: Term | None
) -> Value:
    """Lower a value that a match may find to be an error: a caught tool call, or no error."""
    if is_tool_call(expression, scope.tools):
        assert isinstance(expression, ast.Call)
        return lower_tool_call(expression, scope, hint, catch=True)
    inner = outcome(wanted) if wanted is not None else None
    value = lowering.whole(expression, scope, hint, inner)
    type = result_of(base(inner or value.type))
    return scope.value("program.result", value, hint=hint, type=type, span=expression.span)


def _lower_cases(
    lowering: Lowering, cases: list[ast.Case], value: Value, scope: Scope, sure: bool
) -> None:
    """Lower cases that no error reaches, as a chain of ifs; `sure`: one of them fits."""
    if not cases:
        return
    case, *rest = cases
    if case.kind != "literal" or (sure and not rest):
        if case.name is not None:
            scope.values[case.name] = value
        lowering.body(case.body, scope)
        return
    lowering.either(
        _is_one_of(case, value, scope),
        lambda inner: lowering.body(case.body, inner),
        lambda inner: _lower_cases(lowering, rest, value, inner, sure),
        scope,
        case.span,
    )


def _is_one_of(case: ast.Case, value: Value, scope: Scope) -> Value:
    """Return whether a value is one of a case's literals."""
    if len(case.values) == 1:
        op, other = "==", lower_expression(case.values[0], scope)
    else:
        listed = [constant_of(item) for item in case.values]
        op, other = "in", scope.constant(listed, "literals", list_of(base(value.type)), case.span)
    return scope.value(
        "program.binary", value, other, hint="fits", type=BOOL, span=case.span, op=op
    )
