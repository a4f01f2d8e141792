"""Lowers forks and joins: branches from a stream, and the stream that goes on with one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.core import walk
from ...ir.source import Span
from ...ir.types import INT, STREAM, list_of
from .. import ast
from ..semantics.effects import appends
from ..semantics.signatures import base, element
from .expressions import STREAM_NAME, Scope, lower_expression

if TYPE_CHECKING:
    from .lower import Lowering

SPACE = " "


def joined(body: tuple[ast.Statement, ...]) -> set[int]:
    """Return the positions of the forks in a block that a join of the block refers to."""
    found: set[int] = set()
    fork: int | None = None
    for position, statement in enumerate(body):
        if isinstance(statement, ast.Join) and fork is not None:
            found.add(fork)
        if isinstance(statement, ast.Fork):
            fork = position
        elif appends((statement,)):
            fork = None
    return found


def lower_fork(lowering: Lowering, fork: ast.Fork, scope: Scope, keeps: bool) -> None:
    """Lower a fork; one that `keeps` also yields its branches' streams, for a join.

    A fork ends a token. The space at the end of a text right above it belongs to the word behind
    it, so each branch begins with it, and so does what follows the fork; one that an `if` or a
    value ends with stays there.
    """
    over = lower_expression(fork.over, scope)
    space = _take_space(scope)
    inner = scope.child()
    stream = lowering.names.value("s", STREAM)
    type = element(over.type) if fork.variable else INT
    item = lowering.names.value(fork.variable or "branch", type)
    inner.values[STREAM_NAME] = stream
    if fork.variable:
        inner.values[fork.variable] = item
    *body, last = fork.body
    if space is not None:
        lowering.advance(inner, "program.literal", text=SPACE, span=space)
    lowering.body(body, inner)
    assert isinstance(last, ast.Yield)
    yielded = [lower_expression(last.value, inner)]
    results = [lowering.names.value(fork.name, list_of(base(yielded[0].type)))]
    if keeps:
        yielded.append(inner.values[STREAM_NAME])
        results.append(lowering.names.value("branches", list_of(STREAM)))
        scope.branches = results[1], results[0]
    inner.emit("program.yield", *yielded, span=last.span)
    scope.emit(
        "program.fork", scope.values[STREAM_NAME], over, results=tuple(results),
        regions=(inner.region(stream, item),), span=fork.span, name=fork.name,
    )  # fmt: skip
    scope.values[fork.name] = results[0]
    if space is not None:
        lowering.advance(scope, "program.literal", text=SPACE, span=space)


def _take_space(scope: Scope) -> Span | None:
    """Take the space off the literal that a scope's stream ends with, and return the literal's
    place; None where it ends otherwise, or where something has read it."""
    stream = scope.values[STREAM_NAME]
    for at in reversed(range(len(scope.operations))):
        operation = scope.operations[at]
        if stream in operation.results:
            break
        if any(stream in inner.operands for inner in walk((operation,))):
            return None
    else:
        return None
    if operation.name != "program.literal" or not operation["text"].endswith(SPACE):
        return None
    if kept := operation["text"][: -len(SPACE)]:
        scope.operations[at] = operation.with_attributes(text=kept)
    else:
        scope.operations.pop(at)
        scope.values[STREAM_NAME] = operation.operands[0]
    return operation.span


def _drop_space(scope: Scope) -> None:
    """Drop the space behind a fork where nothing has read it: the stream of a branch goes on."""
    stream = scope.values[STREAM_NAME]
    used = {value for operation in walk(tuple(scope.operations)) for value in operation.operands}
    for at, operation in enumerate(scope.operations):
        if stream in operation.results and operation.attribute("text") == SPACE:
            if stream not in used:
                scope.operations.pop(at)
            return


def lower_join(lowering: Lowering, join: ast.Join, scope: Scope) -> None:
    """Lower a join with the fork above it in the block."""
    assert scope.branches is not None, "the checker lets no join be without its fork"
    streams, values = scope.branches
    points = lower_expression(join.options[0].value, scope)
    _drop_space(scope)
    following = lowering.names.value("s", STREAM)
    number = lowering.names.value("chosen", INT)
    scope.emit(
        "program.join", streams, points, results=(following, number), span=join.span, how=join.how
    )
    scope.values[STREAM_NAME] = following
    if join.name is not None:
        scope.values[join.name] = scope.value(
            "program.index", values, number, hint=join.name, type=element(values.type),
            span=join.span,
        )  # fmt: skip
