"""How many blocks stand in one another: more than the compiler's walks can reach are refused."""

from __future__ import annotations

from collections.abc import Iterable

from .. import ast
from ..text.syntax_errors import TooDeep

MOST_NESTED = 100
"""Blocks in one another at most: passes walk them by recursion, with some eight calls for each."""

_HINT = (
    f"at most {MOST_NESTED} blocks stand in one another, and an elif or a case counts as one in "
    "those above it: look the value up in a list, or let a tool do it"
)


def check_nesting(file: ast.File) -> None:
    """Raise TooDeep at the first statement that stands in too many blocks."""
    for program in file.programs:
        waiting = [(program.body, 0)]
        while waiting:
            body, depth = waiting.pop()
            if body and depth > MOST_NESTED:
                raise TooDeep(span=body[0].span, hint=_HINT)
            inside = [(inner, depth + down) for each in body for inner, down in _blocks(each)]
            waiting += reversed(inside)


def _blocks(statement: ast.Statement) -> Iterable[tuple[tuple[ast.Statement, ...], int]]:
    """Yield a statement's blocks, each with how many it stands in from there."""
    match statement:
        case ast.If(then=then, otherwise=otherwise):
            yield from ((then, 1), (otherwise, 1))
        case ast.Match(cases=cases):
            yield from ((case.body, down) for down, case in enumerate(cases, 1))
        case ast.Message() | ast.Fork() | ast.For() | ast.While() | ast.With():
            yield statement.body, 1
