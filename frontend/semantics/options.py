"""Checks the options in a gen's, a type's or a select's parentheses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...ir.core import Term
from ...ir.dialects.gen_options import RULES, pattern_problem
from ...ir.vocabulary import EMPTY_OPTION
from .. import ast
from .constants import UNKNOWN, constant_of
from .errors import DeclaredTwice, NotConstant, UnknownOption, WrongOption
from .type_names import FIELD_OPTIONS, OPTIONS, did_you_mean

SELECT_BY = ("token_normalized", "greedy", "unconditional")


_PATTERN_HINT = 'a pattern is a type, as in gen x: regex "[a-z]+"'
_BUDGET_HINT = "without it a gen has as many tokens as its type usually needs"


def check_gen_options(
    options: Iterable[ast.Argument],
    place: str,
    inside: bool = False,
    more: tuple[str, ...] = (),
) -> None:
    """Check the options of a gen, or (`inside`) of a record field's type; `more` are allowed."""
    allowed = FIELD_OPTIONS if inside else (*OPTIONS, *more)
    seen: set[str] = set()
    for option in options:
        if option.name not in allowed:
            hint = _PATTERN_HINT if option.name == "regex" else did_you_mean(
                option.name, allowed, "it takes"
            )  # fmt: skip
            raise UnknownOption(place=place, name=option.name, hint=hint, span=option.span)
        if option.name in seen:
            raise DeclaredTwice(what="the option", name=option.name, span=option.span)
        seen.add(option.name)
        fine, problem = RULES[option.name]
        if not fine(_constant(option)):
            problem = _broken_pattern(_constant(option)) or problem
            hint = _BUDGET_HINT if option.name == "max_tokens" else ""
            raise WrongOption(name=option.name, problem=problem, hint=hint, span=option.span)


def _broken_pattern(value: Any) -> str | None:
    """Return what is wrong with the pattern that `value` is, if it is one that does not compile."""
    if not isinstance(value, Term):
        return None
    problem = pattern_problem(str(value.parameters[0]))
    return f"is no regular expression: {problem}" if problem else None


def check_select_options(select: ast.Select) -> None:
    """Check the options of a select, and that it has something to choose from."""
    if isinstance(select.choices, ast.ListOf):
        if not select.choices.elements:
            hint = 'name what to choose from: select answer from ["yes", "no"]'
            raise WrongOption(
                name="select", problem="has no options", hint=hint, span=select.choices.span
            )
        seen = set[str]()
        for element in select.choices.elements:
            value = constant_of(element)
            if isinstance(value, str) and value in seen:
                problem, hint = f"has {value!r} twice", "leave one out: each option is scored once"
                raise WrongOption(name="select", problem=problem, hint=hint, span=element.span)
            seen |= {value} if isinstance(value, str) else set()
            if value == "":
                problem = "has an empty option"
                raise WrongOption(
                    name="select", problem=problem, hint=EMPTY_OPTION, span=element.span
                )
    for option in select.options:
        if option.name != "by":
            hint = f"it takes by: {', '.join(SELECT_BY)}"
            raise UnknownOption(place="a select", name=option.name, hint=hint, span=option.span)
        if _constant(option) not in SELECT_BY:
            problem = f"is one of {', '.join(SELECT_BY)}"
            raise WrongOption(name="by", problem=problem, span=option.span)


def _constant(option: ast.Argument) -> Any:
    value = constant_of(option.value)
    if value is UNKNOWN:
        raise NotConstant(place=f"`{option.name}`", span=option.value.span)
    return value
