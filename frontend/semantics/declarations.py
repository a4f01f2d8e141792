"""Checks declarations: records that end, signatures, names that are free, types that exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ...ir.core import Term
from ...ir.diagnostics import Note
from ...ir.source import Span
from .. import ast
from ..faults import Faults
from ..text.type_files import FILE_TYPES
from .constants import UNKNOWN, constant_of
from .errors import (
    DeclaredTwice,
    NotConstant,
    RecursiveRecord,
    ReservedName,
    UnknownOption,
)
from .expressions import Flow, World, expect
from .signatures import BUILTINS
from .type_names import MalformedTypeUse, term_of

KEYWORDS = frozenset(
    "system user assistant gen select fork yield for in if elif else while let return and or not "
    "from as true false none".split()
)


def check_unique(
    what: str, items: Iterable[ast.Declaration | ast.Field | ast.Parameter], faults: Faults
) -> None:
    """Check that no two items have one name, and that declarations leave the language's words."""
    seen: dict[str, Span | None] = {}
    for item in items:
        name = item.name  # type: ignore[union-attr]
        if name in seen:
            note = Note("the first one is here", seen[name])
            faults.report(DeclaredTwice(what=what, name=name, notes=(note,), span=item.span))
            continue
        if what == "the declaration" and name in {*BUILTINS, *KEYWORDS}:
            meaning = "a builtin" if name in BUILTINS else "a word of the language"
            faults.report(ReservedName(name=name, meaning=meaning, span=item.span))
        seen[name] = item.span


def check_finite(file: ast.File, faults: Faults) -> None:
    """Check that no record contains itself, be it through others or lists."""
    inner = {
        record.name: {
            name for field in record.fields for name in _names_in(field.type)
        }
        for record in file.records
    }  # fmt: skip
    for record in file.records:
        reached, todo = set(), set(inner[record.name])
        while todo:
            name = todo.pop()
            reached.add(name)
            todo |= inner.get(name, set()) - reached
        if record.name in reached:
            faults.report(RecursiveRecord(name=record.name, span=record.span))


def _names_in(type: ast.Type) -> set[str]:
    names = {type.name}
    for argument in type.arguments:
        names |= _names_in(argument) if isinstance(argument, ast.Type) else set()
    return names


def check_type(type: ast.Type, records: Collection[str], inside: bool = False) -> Term:
    """Return the IR type; raises where a name or a pattern is wrong."""
    term = term_of(type, records)
    if inside and type.name in FILE_TYPES:
        raise MalformedTypeUse(problem=f"a {type.name} stands alone, in no record", span=type.span)
    return term


def check_signature(item: ast.Tool | ast.Program, file: ast.File, faults: Faults) -> None:
    """Check the types and defaults of a tool or a program."""
    check_unique("the parameter", item.parameters, faults)
    records = [record.name for record in file.records]
    for parameter in item.parameters:
        with faults.attempt():
            _check_parameter(parameter, records)
    if item.returns is not None:
        with faults.attempt():
            check_type(item.returns, records)
            no_options(item.returns)


def _check_parameter(parameter: ast.Parameter, records: Collection[str]) -> None:
    type = check_type(parameter.type, records)
    no_options(parameter.type)
    if parameter.default is None:
        return
    if constant_of(parameter.default) is UNKNOWN:
        raise NotConstant(place="a default", span=parameter.default.span)
    empty = Flow(World({}, {}, {}), {})
    expect(parameter.default, type, f"`{parameter.name}`", empty)


def no_options(type: ast.Type) -> None:
    """Refuse options where a type takes none."""
    for option in type.options:
        hint = "options go with a gen, or with the type of a record's field"
        raise UnknownOption(place="this type", name=option.name, hint=hint, span=option.span)
