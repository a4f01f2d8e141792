"""Checks programs that run other programs: arguments, recursion, messages inside messages."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.core import Term
from ...ir.diagnostics import Note
from .. import ast
from .arguments import check_arguments
from .effects import has_messages, runs
from .errors import NestedMessage, RecursiveProgram, UnknownFunction
from .expressions import Flow
from .type_names import did_you_mean


def check_run(run: ast.Run, flow: Flow) -> Term:
    """Return the type of what a program returns; raises where it does not fit the call."""
    programs = flow.world.programs
    if run.program not in programs:
        hint = did_you_mean(run.program, programs, "there are")
        raise UnknownFunction(what="program", name=run.program, hint=hint, span=run.span)
    program = programs[run.program]
    check_arguments(program, run, flow)
    if run.how == "inline" and flow.role is not None and has_messages(program, programs):
        note = Note("the messages are in this program", program.span)
        raise NestedMessage(role="program's", outer=flow.role, notes=(note,), span=run.span)
    return flow.world.term(program.returns)


def check_recursion(programs: Mapping[str, ast.Program]) -> None:
    """Check that no program runs itself, be it through others."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        for run in runs(programs[name]):
            if run.program in (*path, name):
                cycle = (*path, name)[(*path, name).index(run.program) :]
                raise RecursiveProgram(names=" -> ".join((*cycle, run.program)), span=run.span)
            if run.program in programs and run.program not in done:
                visit(run.program, (*path, name))
        done.add(name)

    for name in programs:
        visit(name, ())
