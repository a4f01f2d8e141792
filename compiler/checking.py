"""Everything that is wrong with programs, found without a model, and without running anything."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..frontend import ast
from ..frontend.checkpoints.checkpoint import open_checkpoint
from ..frontend.faults import in_order
from ..frontend.lowering.lower import lower
from ..frontend.open import (
    NoPrograms,
    NoSuchProgram,
    programs_in,
    read_program_file,
    tools_beside,
    tools_of,
)
from ..frontend.python.embedded import ProgramFunction
from ..frontend.semantics.checker import check_all
from ..frontend.semantics.constraints import constraint_of, records_of
from ..frontend.semantics.effects import nodes
from ..frontend.text.recovery import parse_all
from ..ir.constraints.tables import ConstraintTables, stop_strings
from ..ir.core import Module
from ..ir.diagnostics import Warning, WeftError, WeftTypeError, reason
from ..ir.source import Source

VOCABULARY = "tiny-dense"
"""The shipped model whose words constraints are tried with; what can be followed is the same for
all."""

Functions = Mapping[str, Callable[..., Any]]


class UnfitTool(WeftTypeError):
    """A tool's function that does not take what the tool is declared with."""

    template = "the function of the tool {tool} cannot be called with {have}: {problem}"
    hint = "a tool's function takes the declared parameters in their order"


@dataclass(frozen=True)
class Findings:
    """What was found in one file: errors and warnings in the order of their places."""

    errors: list[WeftError] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    programs: int = 0
    tools: int = 0


STDIN = Path("<stdin>")
"""What stands for the path of a program's text on standard input."""


def check_file(path: Path, tools: Path | None = None) -> Findings:
    """Check the program or programs of a file; `tools` is a Python file of its tools.

    A text that does not parse is checked no further than its syntax. What cannot be opened, or
    fails while it is imported, is an error among the others.
    """
    try:
        functions = dict(tools_of(tools)) if tools is not None else {}
        if path.suffix == ".py":
            return _of_functions(programs_in(path), functions)
        return _of_text(path, functions)
    except WeftError as error:
        return Findings([error])


def _of_text(path: Path, functions: Functions) -> Findings:
    file, errors = parse_all(_standard_input() if path == STDIN else read_program_file(path))
    if file is None:
        return Findings(errors)
    if not file.programs:
        return Findings([*errors, NoPrograms(file=path)])
    return _of_file(file, {**tools_beside(path), **functions}, errors)


def _standard_input() -> Source:
    try:
        return Source(str(STDIN), sys.stdin.buffer.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise NoSuchProgram(path=STDIN, problem=reason(error)) from None


def _of_functions(programs: list[ProgramFunction], functions: Functions) -> Findings:
    """Check the programs of a Python file; records and programs that several use, once."""
    errors: dict[str, WeftError] = {}
    warnings: dict[str, Warning] = {}
    for program in programs:
        unread = program.faults()
        found = Findings(unread)
        if not unread:
            found = _of_file(program.file, {**program.tools, **functions}, [])
        errors |= {error.render(): error for error in found.errors}
        warnings |= {str(warning): warning for warning in found.warnings}
    tools = {name for program in programs if not program.faults() for name in program.tools}
    return Findings(list(errors.values()), list(warnings.values()), len(programs), len(tools))


def _of_file(file: ast.File, functions: Functions, errors: list[WeftError]) -> Findings:
    wrong, warnings = check_all(file)
    errors = [*errors, *wrong, *_of_tools(file, functions)]
    if not errors:
        errors += _of_constraints(lower(file))
    whole = [error if error.source is not None else error.with_source(file.source)
             for error in errors]  # fmt: skip
    return Findings(in_order(whole), warnings, len(file.programs), len(file.tools))


def _of_tools(file: ast.File, functions: Functions) -> Iterator[WeftError]:
    """Yield what is wrong with the functions of the tools that the programs call."""
    from ..runtime.programs.tools import UnboundTool

    declared = {tool.name: tool for tool in file.tools}
    calls = (node for program in file.programs for node in nodes(program))
    used = {call.function: call for call in calls if isinstance(call, ast.Call)}
    for name in declared.keys() & used.keys():
        if name not in functions:
            yield UnboundTool(tool=name, span=used[name].span)
        elif (problem := _unfit(functions[name], len(declared[name].parameters))) is not None:
            names = ", ".join(parameter.name for parameter in declared[name].parameters)
            have = f"({names})" if names else "nothing"
            yield UnfitTool(tool=name, have=have, problem=problem, span=declared[name].span)


def _unfit(function: Callable[..., Any], arguments: int) -> str | None:
    """Say why a function does not take so many arguments; None where it does, or nobody knows."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin may tell nothing
        return None
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        return str(error)
    return None


def _of_constraints(module: Module) -> Iterator[WeftError]:
    """Yield the gens whose pattern, schema or grammar cannot be followed."""
    from ..runtime.constraints.constraint import Constraints
    from ..runtime.constraints.matcher import BadConstraint

    tokenizer, records = open_checkpoint(VOCABULARY).tokenizer, records_of(module)
    tables, constraints = ConstraintTables(tokenizer), Constraints(tokenizer, tokenizer.size)
    seen = set[tuple[object, ...]]()
    for gen in (operation for operation in module.walk() if operation.name == "program.gen"):
        found, stops = constraint_of(gen["type"], records), stop_strings(gen)
        if found is None or (found, stops) in seen:
            continue
        seen.add((found, stops))
        if isinstance(tables.find(*found, stops), str):
            try:
                constraints.add(str(gen["name"]), *found)
            except BadConstraint as error:
                yield BadConstraint(**error.fields, span=gen.span)
