"""Checks a match: patterns that its value can have, and what its cases leave bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...ir.core import Term
from ...ir.types import ANY, BOOL, ERROR
from .. import ast
from .constants import constant_of
from .errors import ImpossibleCase, UnreachableCase
from .expressions import Binding, Flow, check_expression
from .signatures import base, binary_type, outcome

if TYPE_CHECKING:
    from .checker import Checker


def check_match(checker: Checker, match: ast.Match, flow: Flow) -> None:
    """Check the cases of a match, each on a path of its own."""
    faults, type = flow.world.faults, ANY
    with faults.attempt():
        type = subject_type(match, flow)
    with faults.attempt():
        _check_patterns(match.cases, type, flow)
    paths = []
    for case in match.cases:
        path = flow.child()
        if case.name is not None:
            bound = ERROR if case.kind == "error" else outcome(type)
            path.bound[case.name] = Binding(bound, case.span)
            with faults.attempt():
                checker.bind(case.name, bound, case.span, path)
        checker.body(case.body, path)
        paths.append(path)
    if not exhausted(match.cases, type):
        paths.append(flow.child())
    checker.meet(paths, flow, "match", match)


def subject_type(match: ast.Match, flow: Flow) -> Term:
    """Return the type of what is matched; a name may hold an error, and a tool call may fail."""
    type = check_expression(match.subject, flow)
    if isinstance(match.subject, ast.Name) and match.subject.name in flow.bound:
        type = flow.bound[match.subject.name].type
    errors = [case for case in match.cases if case.kind == "error"]
    fallible = type.name == "result" or is_tool_call(match.subject, flow.world.tools)
    if errors and not fallible:
        raise ImpossibleCase(
            pattern="error", type=type, span=errors[0].span,
            hint="only what a tool returned can be an error: let r = TOOL(...), then match r",
        )  # fmt: skip
    return type


def is_tool_call(expression: ast.Expression | None, tools: Iterable[str]) -> bool:
    """Say whether an expression is one call of a tool, whose failure can be a value."""
    return isinstance(expression, ast.Call) and expression.function in tools


def exhausted(cases: Iterable[ast.Case], type: Term) -> bool:
    """Say whether one of the cases fits whatever the value is; an error needs no case."""
    values = {constant_of(value) for case in cases for value in case.values}
    whole = any(case.kind in {"value", "any"} for case in cases)
    inner = outcome(type)
    options = set(inner.parameters) if inner.name == "choice" else {True, False}
    closed = inner.name == "choice" or inner == BOOL
    return whole or (closed and options <= values)


def _check_patterns(cases: Iterable[ast.Case], type: Term, flow: Flow) -> None:
    inner, seen = outcome(type), set[object]()
    whole = False
    for case in cases:
        kind = case.kind
        if (whole and kind != "error") or (kind != "literal" and kind in seen):
            raise UnreachableCase(span=case.span)
        whole = whole or kind in {"value", "any"}
        seen.add(kind)
        for value in case.values:
            _check_literal(value, inner, flow)
            key = (repr(constant_of(value)),)
            if key in seen:
                raise UnreachableCase(span=value.span)
            seen.add(key)


def _check_literal(value: ast.Expression, inner: Term, flow: Flow) -> None:
    have = check_expression(value, flow)
    possible = binary_type("==", have, base(inner)) is not None
    if inner.name == "choice":
        possible = constant_of(value) in inner.parameters
    if not possible:
        raise ImpossibleCase(pattern="this literal", type=inner, hint="", span=value.span)
