"""The types of operators, builtins and methods, and which type fits where."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.core import Term
from ...ir.types import (
    ANY,
    BOOL,
    FLOAT,
    GENERATED,
    INT,
    SELECTION,
    STR,
    base,
    element,
    list_of,
    outcome,
    result_of,
)

TEXTS = list_of(STR)

Signature = tuple[tuple[Term, ...], int, Term]
"""The types of all arguments, how many of them must be given, and the type of the result."""

METHODS: dict[tuple[str, str], Signature] = {
    ("str", "upper"): ((), 0, STR),
    ("str", "lower"): ((), 0, STR),
    ("str", "title"): ((), 0, STR),
    ("str", "capitalize"): ((), 0, STR),
    ("str", "strip"): ((STR,), 0, STR),
    ("str", "lstrip"): ((STR,), 0, STR),
    ("str", "rstrip"): ((STR,), 0, STR),
    ("str", "removeprefix"): ((STR,), 1, STR),
    ("str", "removesuffix"): ((STR,), 1, STR),
    ("str", "replace"): ((STR, STR), 2, STR),
    ("str", "split"): ((STR, INT), 0, TEXTS),
    ("str", "splitlines"): ((), 0, TEXTS),
    ("str", "join"): ((TEXTS,), 1, STR),
    ("str", "startswith"): ((STR,), 1, BOOL),
    ("str", "endswith"): ((STR,), 1, BOOL),
    ("str", "isdigit"): ((), 0, BOOL),
    ("str", "find"): ((STR,), 1, INT),
    ("str", "count"): ((STR,), 1, INT),
    ("list", "count"): ((ANY,), 1, INT),
    ("list", "index"): ((ANY,), 1, INT),
}

ERROR_FIELDS = ("tool", "kind", "message")
"""What an error says of itself: the tool, the exception's name, its text."""

KNOWN_FIELDS: dict[Term, dict[str, Term]] = {
    SELECTION: {"probs": Term("map", (FLOAT,))},
    GENERATED: {"logprobs": list_of(FLOAT)},
}
"""Fields of values that are no records: what a select and a gen know of the model."""

BUILTINS = ("len", "str", "int", "float", "min", "max", "sum", "range", "sorted")


def common(left: Term, right: Term) -> Term | None:
    """Return the type that holds values of both types, if there is one."""
    left, right = base(left), base(right)
    if left == right or right == ANY:
        return left
    if left == ANY:
        return right
    if "result" in (left.name, right.name):
        inner = common(outcome(left), outcome(right))
        return result_of(inner) if inner is not None else None
    if {left, right} == {INT, FLOAT}:
        return FLOAT
    if left.name == right.name == "list":
        inner = common(element(left), element(right))
        return list_of(inner) if inner is not None else None
    return None


def fits(have: Term, want: Term) -> bool:
    """Say whether a value of type `have` may stand where `want` is wanted."""
    if have == want or ANY in (have, want) or (base(have) == INT and want == FLOAT):
        return True
    if want.name == "result":
        return fits(outcome(have), outcome(want))
    if have.name == want.name == "list":
        return fits(element(have), element(want))
    if have.name == want.name == "choice":
        return set(have.parameters) <= set(want.parameters)
    if have.name == want.name == "int" and have.parameters and want.parameters:
        return want.parameters[0] <= have.parameters[0] and have.parameters[1] <= want.parameters[1]  # type: ignore[operator]
    return not want.parameters and base(have) == want


def unary_type(op: str, operand: Term) -> Term | None:
    """Return the type of `not x` or `-x`."""
    if op == "not":
        return BOOL if operand in {BOOL, ANY} else None
    return base(operand) if is_number(operand) else None


def binary_type(op: str, left: Term, right: Term) -> Term | None:
    """Return the type of `left op right`, or None where the operator does not take them."""
    left, right = base(left), base(right)
    if op in {"==", "!="}:
        return BOOL if common(left, right) is not None else None
    if op == "in":
        return BOOL if _may_contain(left, right) else None
    if op in {"<", "<=", ">", ">="}:
        ordered = is_number(left) and is_number(right) or common(left, right) in {STR, ANY}
        return BOOL if ordered else None
    if op == "+" and left.name == right.name and left.name in {"str", "list"}:
        return common(left, right)
    if op == "*" and {left, right} == {STR, INT}:
        return STR
    if op not in {"+", "-", "*", "/", "//", "%"} or not (is_number(left) and is_number(right)):
        return None
    return FLOAT if op == "/" else common(left, right)


def is_number(type: Term) -> bool:
    """Say whether values of a type can be calculated with."""
    return type.name in {"int", "float", "any"}


def method_type(receiver: Term, name: str, arguments: Sequence[Term]) -> Term | None:
    """Return the type of a method's result, or None where the arguments do not fit."""
    if receiver == ANY:
        return ANY
    parameters, least, result = METHODS[base(receiver).name, name]
    if not least <= len(arguments) <= len(parameters):
        return None
    fine = all(fits(have, want) for have, want in zip(arguments, parameters, strict=False))
    return result if fine else None


def methods_of(receiver: Term) -> list[str]:
    """Return the names of the methods that values of a type have."""
    return [name for kind, name in METHODS if kind == base(receiver).name]


def builtin_type(name: str, arguments: Sequence[Term]) -> Term | None:
    """Return the type of a builtin's result, or None where the arguments do not fit."""
    types = [base(argument) for argument in arguments]
    if name == "range":
        return list_of(INT) if 1 <= len(types) <= 3 and set(types) <= {INT, ANY} else None
    if name in {"min", "max"} and len(types) > 1:
        return _common_of(types)
    if len(types) != 1:
        return None
    only = types[0]
    if name == "len":
        return INT if only.name in {"str", "list", "any"} else None
    if name in {"str", "int", "float"}:
        scalar = name == "str" or only.name in {"str", "int", "float", "bool", "any"}
        return Term(name) if scalar else None
    return _of_list(name, only)


def _of_list(name: str, type: Term) -> Term | None:
    if type.name not in {"list", "any"}:
        return None
    inner = element(type)
    if name == "sum":
        return inner if is_number(inner) else None
    if inner.name not in {"str", "int", "float", "any"}:
        return None
    return type if name == "sorted" else inner


def _common_of(types: Sequence[Term]) -> Term | None:
    result: Term | None = types[0]
    for type in types[1:]:
        result = common(result, type) if result is not None else None
    return result if result in {INT, FLOAT, STR, ANY} else None


def _may_contain(left: Term, right: Term) -> bool:
    if right.name == "list":
        return common(left, element(right)) is not None
    return right == ANY or (left in {STR, ANY} and right == STR)
