"""Checks the arguments that a tool or a program is given."""

from __future__ import annotations

from ...ir.diagnostics import Note
from .. import ast
from .errors import MissingArgument, WrongArguments
from .expressions import Flow, expect, listed


def check_arguments(target: ast.Tool | ast.Program, call: ast.Call | ast.Run, flow: Flow) -> None:
    """Check that each parameter without a default has one argument of its type."""
    given = _given(target, call)
    what = "tool" if isinstance(target, ast.Tool) else "program"
    for parameter in target.parameters:
        want = flow.world.term(parameter.type)
        if parameter.name in given:
            expect(given[parameter.name], want, f"`{target.name}({parameter.name})`", flow)
        elif parameter.default is None:
            note = Note(f"the {what} is declared here", target.span)
            error = MissingArgument(
                name=target.name, missing=parameter.name, notes=(note,), span=call.span
            )
            flow.world.faults.report(error)


def _given(target: ast.Tool | ast.Program, call: ast.Call | ast.Run) -> dict[str, ast.Expression]:
    names = [parameter.name for parameter in target.parameters]
    unknown = [item.name for item in call.named if item.name not in names]
    if len(call.arguments) > len(names) or unknown:
        have = unknown or [f"{len(call.arguments)} values"]
        raise WrongArguments(
            name=target.name, want=f"({', '.join(names)})", have=listed(have), span=call.span
        )
    given = dict(zip(names, call.arguments, strict=False))
    for item in call.named:
        if item.name in given:
            raise WrongArguments(
                name=target.name, want=f"`{item.name}` once", have="it twice", span=item.span
            )
        given[item.name] = item.value
    return given
