"""Lowers runs of other programs: a call is one operation, an inlined body is lowered in place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir.core import Symbol, Value
from ...ir.source import Span
from ...ir.types import NONE, STREAM
from .. import ast
from ..semantics.effects import caught, everything
from ..semantics.signatures import base
from ..semantics.type_names import term_of
from .expressions import STREAM_NAME, Scope, lower_arguments

if TYPE_CHECKING:
    from .lower import Lowering


def lower_inline(lowering: Lowering, run: ast.Run, scope: Scope, hint: str) -> Value:
    """Lower a program's body onto this stream; return what it returns.

    A program that returns only at its end becomes part of this one; another becomes a region,
    which its returns leave.
    """
    program = lowering.programs[run.program]
    given = lower_arguments(program, run.arguments, run.named, scope)
    callee = replace(lowering, caught=caught(program.body), inlined=True, role=None)
    names = dict(zip((item.name for item in program.parameters), given, strict=True))
    body, last = program.body, program.body[-1]
    early = [item for item in everything(body) if isinstance(item, ast.Return) and item is not last]
    if not early:
        tail = last if isinstance(last, ast.Return) else None
        return _splice(callee, body[:-1] if tail else body, tail, names, scope, run.span)
    return _region(callee, program, names, scope, hint, run.span)


def _splice(
    callee: Lowering,
    body: tuple[ast.Statement, ...],
    tail: ast.Return | None,
    names: dict[str, Value],
    scope: Scope,
    span: Span | None,
) -> Value:
    inner = replace(scope, branches=None, values={**names, STREAM_NAME: scope.values[STREAM_NAME]})
    callee.body(body, inner)
    scope.ended = inner.ended
    scope.values[STREAM_NAME] = inner.values[STREAM_NAME]
    if tail is None or tail.value is None:
        return scope.constant(None, "nothing", NONE, span)
    value = callee.whole(tail.value, inner, "returned")
    scope.values[STREAM_NAME] = inner.values[STREAM_NAME]
    return value


def _region(
    callee: Lowering,
    program: ast.Program,
    names: dict[str, Value],
    scope: Scope,
    hint: str,
    span: Span | None,
) -> Value:
    stream = callee.names.value("s", STREAM)
    inner = scope.child()
    inner.values = {**names, STREAM_NAME: stream}
    callee.body(program.body, inner)
    if not inner.ended:
        leave(callee, None, inner, span)
    type = base(term_of(program.returns, callee.fields)) if program.returns else NONE
    following, value = callee.names.value("s", STREAM), callee.names.value(hint, type)
    scope.emit(
        "program.inline", scope.values[STREAM_NAME], results=(following, value),
        regions=(inner.region(stream),), span=span, name=Symbol(program.name),
    )  # fmt: skip
    scope.values[STREAM_NAME] = following
    return value


def leave(callee: Lowering, value: ast.Expression | None, scope: Scope, span: Span | None) -> None:
    """End an inlined program; a message that is open is closed."""
    if value is None:
        result = scope.constant(None, "nothing", NONE, span)
    else:
        result = callee.whole(value, scope, "")
    if callee.role is not None:
        callee.advance(scope, "program.end", role=callee.role, span=span)
    scope.emit("program.leave", scope.values[STREAM_NAME], result, span=span)
    scope.ended = True


def lower_run(run: ast.Run, scope: Scope, hint: str) -> Value:
    """Lower a call of a program on a stream of its own."""
    program = scope.programs[run.program]
    values = lower_arguments(program, run.arguments, run.named, scope)
    type = base(term_of(program.returns, scope.fields)) if program.returns else NONE
    return scope.value(
        "program.call", *values, hint=hint or run.program, type=type, span=run.span,
        name=Symbol(program.name), **scope.who,
    )  # fmt: skip
