"""From types as written to IR types, with the options and token budgets that come with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ...ir.core import Term
from ...ir.diagnostics import WeftError, WeftNameError, WeftTypeError
from ...ir.dialects.gen_options import pattern_problem
from ...ir.numbers import is_int
from ...ir.types import ANY, GENERATED, choice, int_range, list_of, record, regex
from .. import ast
from ..faults import Faults
from ..text.type_files import FILE_TYPES
from .constants import constant_of
from .errors import InvalidPattern

PLAIN = ("str", "int", "float", "bool")

OPTIONS = (
    "max_tokens", "stop", "logprobs", "temperature", "top_p", "top_k", "min_p", "seed",
)  # fmt: skip
"""What may stand in a gen's parentheses, in the order in which the IR has it."""

FIELD_OPTIONS = ("max_tokens", "max_items")
"""What may stand in the parentheses of a record field's type."""

MAX_ITEMS = 4
"""How many elements a list in a constraint has at most, unless `max_items` says otherwise."""

_BUDGETS = {"str": 128, "int": 8, "float": 16, "bool": 8, "choice": 32, "regex": 64,
    "schema": 256, "grammar": 128,
}  # fmt: skip
_FIELD_BUDGETS = _BUDGETS | {"str": 32}
_RECORD_OVERHEAD = 64
_LIST_OVERHEAD = 8


Fields = Mapping[str, Mapping[str, tuple[Term, Mapping[str, Any]]]]
"""Of each record: its fields in order, each with its type and options."""


class UnknownType(WeftNameError):
    """A type's name that nothing declares."""

    template = "there is no type `{name}`"


class MalformedTypeUse(WeftTypeError):
    """A type with arguments that it does not take."""

    template = "{problem}"


def did_you_mean(name: str, candidates: Collection[str], all_of_them: str = "") -> str:
    """Return a hint with the nearest candidate; without one `all_of_them: a, b`, or nothing."""
    near = get_close_matches(name, list(candidates), n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"{all_of_them}: {', '.join(candidates)}" if all_of_them and candidates else ""


def term_of(type: ast.Type, records: Collection[str]) -> Term:
    """Return the IR type; raises UnknownType, MalformedTypeUse and InvalidPattern."""
    name, arguments = type.name, type.arguments
    if name in records:
        _expect(type, not arguments, f"the record `{name}` takes no arguments")
        return record(name)
    if name == "int" and arguments:
        return _range(type)
    if name in PLAIN:
        _expect(type, not arguments, f"`{name}` takes no arguments")
        return Term(name)
    if name == "list":
        return _list(type, records)
    if name == "choice":
        return _choice(type)
    if name == "regex":
        _expect(type, _texts(type) and len(arguments) == 1, 'write regex "[a-z]+"')
        if problem := pattern_problem(str(arguments[0])):
            raise InvalidPattern(problem=problem, span=type.span)
        return regex(str(arguments[0]))
    if name in FILE_TYPES:
        _expect(type, len(arguments) == 2, f'write {name} "file"')
        return Term(name, (str(arguments[1]),))
    known = [*PLAIN, "list", "choice", "regex", *FILE_TYPES, *records]
    raise UnknownType(name=name, hint=did_you_mean(name, known, "there are"), span=type.span)


def known_term(type: ast.Type, records: Collection[str], faults: Faults) -> Term:
    """Return the IR type; any where it is wrong and that is gathered, else it raises."""
    try:
        return term_of(type, records)
    except WeftError as error:
        faults.report(error)
        return ANY


def bounded(type: ast.Type, records: Collection[str]) -> Term:
    """Return the IR type of a gen or of a list's elements: `max_items` is a part of it."""
    term = term_of(type, records)
    most = options_of(type.options).get("max_items")
    return term if most is None else Term("list", (term.parameters[0], most))


def options_of(options: Iterable[ast.Argument]) -> dict[str, Any]:
    """Return the constant values of options, in the IR's order."""
    given = {option.name: constant_of(option.value) for option in options}
    return {name: given[name] for name in (*OPTIONS, "max_items") if name in given}


def bound_type(type: Term, options: Mapping[str, Any]) -> Term:
    """Return the type of what a gen binds: a str with logprobs knows them."""
    text = type.name in {"str", "choice", "regex", "grammar"}
    return GENERATED if text and options.get("logprobs") else type


def record_fields(file: ast.File, faults: Faults | None = None) -> Fields:
    """Return each record's fields, with their types and constant options; see `known_term`."""
    faults = faults or Faults()
    known = [record.name for record in file.records]
    return {
        record.name: {
            field.name: (known_term(field.type, known, faults), options_of(field.type.options))
            for field in record.fields
        }
        for record in file.records
    }


def default_budget(type: Term, fields: Fields, inside: bool = False) -> int:
    """Return the max_tokens of a gen, or (`inside`) of a record's field, that names none."""
    if type.name == "list":
        element = type.parameters[0]
        assert isinstance(element, Term)
        most = type.parameters[1] if len(type.parameters) > 1 else MAX_ITEMS
        assert isinstance(most, int)
        return _LIST_OVERHEAD + most * default_budget(element, fields, inside=True)
    if type.name != "record":
        return (_FIELD_BUDGETS if inside else _BUDGETS)[type.name]
    total = _RECORD_OVERHEAD
    for field_type, options in fields[str(type.parameters[0])].values():
        total += options.get("max_tokens") or default_budget(field_type, fields, inside=True)
    return total


def _choice(type: ast.Type) -> Term:
    options = type.arguments
    _expect(type, _texts(type) and options != (), 'write choice["a", "b"]')
    _expect(type, options != ("",), "a choice of the empty text alone leaves nothing to say")
    for at, option in enumerate(options):
        hint = "leave one out: each option is said once"
        _expect(type, option not in options[:at], f"the choice has {option!r} twice", hint)
    return choice(*map(str, options))


def _range(type: ast.Type) -> Term:
    low, high = type.arguments if len(type.arguments) == 2 else (None, None)
    fine = all(map(is_int, (low, high)))
    _expect(type, fine, "an int range has two ends: int(1..10)")
    _expect(type, low <= high, f"the range {low}..{high} holds no number")  # type: ignore[operator]
    return int_range(low, high)  # type: ignore[arg-type]


def _list(type: ast.Type, records: Collection[str]) -> Term:
    inner = type.arguments[0] if len(type.arguments) == 1 else None
    _expect(type, isinstance(inner, ast.Type), "a list has one element type: list[str]")
    assert isinstance(inner, ast.Type)
    _expect(inner, inner.name not in FILE_TYPES, f"a {inner.name} stands alone, in no list")
    for option in inner.options:
        allowed = inner.name == "list" and option.name == "max_items"
        bounds = option.name == "max_tokens"
        hint = "let them be records: a record's field takes it" if bounds else ""
        _expect(inner, allowed, f"a list's elements take no `{option.name}` here", hint)
    return list_of(bounded(inner, records))


def _texts(type: ast.Type) -> bool:
    return all(isinstance(item, str) for item in type.arguments)


def _expect(type: ast.Type, fine: bool, problem: str, hint: str = "") -> None:
    if not fine:
        raise MalformedTypeUse(problem=problem, span=type.span, hint=hint)
