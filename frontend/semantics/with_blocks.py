"""Checks `with`: who computes what its body generates, how soon, and which keys it reads; and the
streams of joins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ir.numbers import is_int
from ...ir.sparse.policy import BadPolicy, parse_policy
from ...ir.types import FLOAT, list_of
from .. import ast
from ..unparse import unparse_expression
from .constants import UNKNOWN, constant_of
from .errors import MisplacedJoin, NotConstant, UnknownOption, WrongOption
from .expressions import Flow, expect
from .signatures import element

if TYPE_CHECKING:
    from .checker import Checker

WHO = ("adapter", "client", "priority", "attention")


def check_with(checker: Checker, statement: ast.With, flow: Flow) -> None:
    """Check a with, whose body is part of the block around it."""
    with checker.world.faults.attempt():
        _check_who(statement)
    checker.body(statement.body, flow)


def _check_who(statement: ast.With) -> None:
    kind, value = statement.kind, with_value(statement)
    if kind not in WHO:
        problem = f"is one of {', '.join(WHO)}"
        raise WrongOption(name=f"with {kind}", problem=problem, span=statement.span)
    if value is UNKNOWN:
        raise NotConstant(place=f"with {kind}", span=statement.value.span)
    fine = is_int(value) if kind == "priority" else isinstance(value, str) and bool(value)
    if not fine:
        problem = "is a whole number" if kind == "priority" else "is a name in quotes"
        raise WrongOption(name=f"with {kind}", problem=problem, span=statement.value.span)


def with_value(statement: ast.With) -> Any:
    """Return the constant of a with, or UNKNOWN; of `with attention`, the policy's text.

    Raises WrongOption where that is no policy.
    """
    value = constant_of(statement.value)
    if statement.kind != "attention":
        return value
    text = value if isinstance(value, str) else unparse_expression(statement.value)
    try:
        return str(parse_policy(text) or "dense")
    except BadPolicy as error:
        problem = f"is dense or sparse(...): {error.fields['problem']}"
        hint = error.hint_text
        span = statement.value.span
        raise WrongOption(name="with attention", problem=problem, hint=hint, span=span) from None


def check_join(checker: Checker, join: ast.Join, flow: Flow) -> None:
    """Check a join: it follows a fork, and has a number for each of its branches."""
    if join.how != "best":
        raise WrongOption(name=f"join {join.how}", problem="is join best(by=...)", span=join.span)
    fork = flow.fork
    if fork is None:
        raise MisplacedJoin(span=join.span)
    for option in join.options:
        if option.name != "by":
            hint = "join best(by=points)"
            raise UnknownOption(place="a join", name=option.name, hint=hint, span=option.span)
        expect(option.value, list_of(FLOAT), "join best(by=...)", flow)
    if len(join.options) != 1:
        raise WrongOption(name="join best", problem="takes one by=...", span=join.span)
    if join.name is not None:
        checker.bind(join.name, element(flow.bound[fork].type), join.span, flow)
