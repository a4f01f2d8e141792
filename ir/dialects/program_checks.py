"""What operations of the program dialect hold, where counts cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core import Operation, Region, Term
from ..numbers import is_int
from ..types import GENERATED, STREAM, base
from . import region_checks
from .gen_options import RULES
from .region_checks import leaves, returns

ROLES = ("system", "user", "assistant")

APPENDS = frozenset({"program.literal", "program.append", "program.begin", "program.end",
                     "program.gen", "program.select", "program.inline"})  # fmt: skip
"""What takes a stream and gives the next one: the model then sees more than before."""


def func(operation: Operation) -> str | None:
    """Check that the region takes, behind the stream, a value of each parameter's kind."""
    (region,) = operation.regions
    want = [base(entry["type"]) for entry in operation["parameters"]]
    have = [value.type for value in region.arguments[1 : 1 + len(want)]]
    if have != want:
        return (
            f"behind the stream it takes ({_listed(have)}), but is declared with ({_listed(want)})"
        )
    return returns(operation) or _returns(region) or _appended_twice(region, set())


def gen(operation: Operation) -> str | None:
    """Check the type, the options, and that what is bound has the type."""
    type = operation["type"]
    if not (isinstance(type, Term) and is_spoken(type)):
        return f"{type} is no type that a model can say"
    for name, value in operation.attributes:
        fine, problem = RULES.get(name, (None, ""))
        if fine is not None and not fine(value):
            return f"{name} {problem}, not {value!r}"
    bound = operation.results[1].type
    if bound not in (type, GENERATED):
        return f"it says {type}, and binds {bound}"
    return None


def is_spoken(type: Term) -> bool:
    """Say whether a type is whole, and one that a gen can have."""
    match type.name, type.parameters:
        case (("str" | "int" | "float" | "bool"), ()) | (("regex" | "record"), (_,)):
            return True
        case "int", (int(low), int(high)):
            return low <= high
        case "list", (Term() as inner,) | (Term() as inner, int()):
            return is_spoken(inner)
        case "choice", options:
            return bool(options) and all(isinstance(option, str) for option in options)
        case (("schema" | "grammar"), (str(), *_)):
            return True
    return False


def text(operation: Operation) -> str | None:
    """Check that a literal's text is text."""
    return None if isinstance(operation["text"], str) else "its text is a string"


def role(operation: Operation) -> str | None:
    """Check who a message is of."""
    return _one_of(operation["role"], "role", ROLES)


def while_loop(operation: Operation) -> str | None:
    """Check that a loop is bounded, and what it carries."""
    bound: Any = operation["limit"]
    if not is_int(bound) or bound < 0:
        return f"its limit is a number of rounds, not {bound!r}"
    return region_checks.while_loop(operation)


def unary(operation: Operation) -> str | None:
    """Check an operator."""
    return _one_of(operation["op"], "op", ("not", "neg"))


def binary(operation: Operation) -> str | None:
    """Check an operator."""
    return _one_of(operation["op"], "op", "+ - * / // % == != < <= > >= in".split())


def _one_of(value: Any, name: str, allowed: Sequence[str]) -> str | None:
    return None if value in allowed else f"its {name} is one of {' '.join(allowed)}, not {value!r}"


def _appended_twice(region: Region, before: set[str]) -> str | None:
    """Check that a region appends to each stream once on every path, and not to those `before`,
    which gets what it appends to: a stream that is read again, by a fork, is what it was."""
    for operation in region.operations:
        if operation.name in APPENDS and operation.operands:
            stream = operation.operands[0].name
            if stream in before:
                return f"{operation.name} appends to %{stream}, which was appended to before"
            before.add(stream)
        after = set(before)
        for inner in operation.regions:
            path = set(before)
            problem = _appended_twice(inner, path)
            if problem:
                return problem
            after |= set() if leaves(inner) else path
        before |= after
    return None


def _returns(region: Region) -> str | None:
    for operation in region.operations:
        if operation.name == "program.return" and STREAM in (v.type for v in operation.operands):
            return "it returns a stream, where a value belongs"
    return None


def _listed(types: list[Term]) -> str:
    return ", ".join(map(str, types))
