"""Checks expressions: every name bound, every operator and call given what it takes."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.core import Term
from ...ir.diagnostics import Note, Warning, WeftError
from ...ir.source import Span
from ...ir.types import ANY, BOOL, ERROR, FLOAT, INT, NONE, STR, list_of, record, written
from .. import ast
from ..faults import Faults
from .constants import UNKNOWN, constant_of
from .errors import (
    MissingArgument,
    NotSelectable,
    UnknownField,
    UnknownFunction,
    UnknownMethod,
    UnknownName,
    WrongArguments,
    WrongOperands,
    WrongType,
)
from .signatures import (
    BUILTINS,
    ERROR_FIELDS,
    KNOWN_FIELDS,
    METHODS,
    base,
    binary_type,
    builtin_type,
    common,
    element,
    fits,
    method_type,
    methods_of,
    outcome,
    unary_type,
)
from .texts import warn_of_braces
from .type_names import Fields, did_you_mean, known_term


@dataclass(frozen=True)
class Binding:
    """What a name stands for: its type and where it was bound."""

    type: Term
    span: Span | None


@dataclass
class World:
    """The declarations of a file, and the names that a program has used so far."""

    fields: Fields
    tools: Mapping[str, ast.Tool]
    programs: Mapping[str, ast.Program]
    caught: frozenset[str] = frozenset()
    used: set[str] = field(default_factory=set)
    faults: Faults = field(default_factory=Faults)
    options: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Of names that selects bind: all their options, where every one is written as a list."""
    warnings: list[Warning] = field(default_factory=list)

    def term(self, type: ast.Type | None) -> Term:
        """Return the IR type of what a declaration names, none where it names nothing."""
        return NONE if type is None else known_term(type, self.fields, self.faults)


@dataclass
class Flow:
    """The state of the check at one point of a program."""

    world: World
    bound: dict[str, Binding]
    lost: dict[str, Note] = field(default_factory=dict)
    role: str | None = None
    outside: frozenset[str] = frozenset()
    in_fork: bool = False
    fork: str | None = None
    ended: bool = False

    def child(self) -> Flow:
        """Return a copy for a block inside."""
        return Flow(
            self.world, dict(self.bound), dict(self.lost), self.role, self.outside, self.in_fork
        )


def check_expression(expression: ast.Expression, flow: Flow) -> Term:
    """Return an expression's type, any where a name or a type in it is wrong and that is gathered;
    else it raises."""
    try:
        match expression:
            case ast.Literal(value=value):
                return {bool: BOOL, int: INT, float: FLOAT}.get(type(value), NONE)
            case ast.Text(parts=parts):
                warn_of_braces(expression, flow.bound, flow.world.warnings)
                for part in parts:
                    if isinstance(part, ast.Expression):
                        check_expression(part, flow)
                return STR
            case ast.Name():
                return _check_name(expression, flow)
            case ast.Unary(op=op, operand=operand):
                have = check_expression(operand, flow)
                found = unary_type(op, have)
                return _operand_result(found, "-" if op == "neg" else op, expression, have)
            case ast.Binary(op=op, left=left, right=right):
                sides = check_expression(left, flow), check_expression(right, flow)
                return _operand_result(binary_type(op, *sides), op, expression, *sides)
            case ast.Logical(op=op, left=left, right=right):
                for side in (left, right):
                    expect(side, BOOL, f"`{op}`", flow)
                return BOOL
            case ast.Run():
                from .programs import check_run

                return check_run(expression, flow)
            case ast.Call():
                return _check_call(expression, flow)
            case ast.Method():
                return _check_method(expression, flow)
            case ast.FieldOf():
                return _check_field(expression, flow)
            case ast.Index():
                return _check_index(expression, flow)
            case ast.ListOf():
                return _check_list(expression, flow)
    except WeftError as error:
        if not flow.world.faults.gather:
            raise
        flow.world.faults.report(error)
        return ANY
    raise AssertionError(f"no check for {type(expression).__name__}")


def expect(expression: ast.Expression, want: Term, place: str, flow: Flow) -> Term:
    """Check an expression whose type must fit `want`."""
    have = check_expression(expression, flow)
    if not fits(have, want) and not _literal_fits(constant_of(expression), want):
        error = _misfit(expression, have, want, place)
        flow.world.faults.report(error)
    return have


_COMPUTED = "only a literal, or what a gen of this type bound, is known to fit"


def _misfit(expression: ast.Expression, have: Term, want: Term, place: str) -> WrongType:
    """Return the error; a literal of the right kind is shown itself."""
    value, constrained = constant_of(expression), have == base(want) != want
    if constrained and value is not UNKNOWN:
        shown = json.dumps(value, ensure_ascii=False)
        return WrongType(place=place, want=want, have=shown, span=expression.span)
    hint = _COMPUTED if constrained else ""
    return WrongType(place=place, want=want, have=have, hint=hint, span=expression.span)


def _literal_fits(value: Any, want: Term) -> bool:
    """Say whether a literal is a value of a constrained type, which its own type does not show."""
    if want.name == "choice":
        return value in want.parameters
    if want.name == "regex" and isinstance(value, str):
        return re.fullmatch(str(want.parameters[0]), value) is not None
    if want.name == "int" and want.parameters and type(value) is int:
        return want.parameters[0] <= value <= want.parameters[1]  # type: ignore[operator]
    if want.name == "list" and isinstance(value, list):
        return all(_literal_fits(item, element(want)) for item in value)
    return False


_OTHERWISE = {"True": "true", "False": "false", "None": "none", "null": "none", "nil": "none"}
_UNBOUND = "a name is a parameter, or bound in a line above"


def _check_name(use: ast.Name, flow: Flow) -> Term:
    binding = flow.bound.get(use.name)
    if binding is not None:
        flow.world.used.add(use.name)
        return outcome(binding.type)
    notes = (flow.lost[use.name],) if use.name in flow.lost else ()
    hint = "" if notes else did_you_mean(use.name, flow.bound) or _UNBOUND
    if use.name in _OTHERWISE:
        hint = f"weft writes `{_OTHERWISE[use.name]}`"
    if use.name in flow.world.tools:
        hint = f"`{use.name}` is a tool: call it with {use.name}(...)"
    raise UnknownName(name=use.name, hint=hint, notes=notes, span=use.span)


def _operand_result(found: Term | None, op: str, place: ast.Expression, *have: Term) -> Term:
    if found is None:
        raise WrongOperands(op=op, have=" and ".join(map(written, have)), span=place.span)
    return found


def _check_call(call: ast.Call, flow: Flow) -> Term:
    world = flow.world
    if call.function in world.fields:
        return _check_record(call, flow)
    if call.function in world.tools:
        return _check_tool_call(call, flow)
    if call.function in world.programs:
        hint = f"a program is run with call {call.function}(...) or inline {call.function}(...)"
        raise UnknownFunction(
            what="tool, builtin or record", name=call.function, hint=hint, span=call.span
        )
    if call.function == "score":
        return _check_score(call, flow)
    if call.function not in BUILTINS:
        hint = _instead_of(call.function, [*BUILTINS, *world.tools, *world.fields])
        raise UnknownFunction(
            what="tool, builtin or record", name=call.function, hint=hint, span=call.span
        )
    have = [check_expression(item, flow) for item in call.arguments]
    found = None if call.named else builtin_type(call.function, have)
    if found is None:
        names = [item.name for item in call.named]
        raise WrongArguments(
            name=call.function,
            want=_BUILTIN_WANTS[call.function],
            have=listed([*map(written, have), *names]),
            span=call.span,
        )
    return found


def _instead_of(function: str, known: Sequence[str]) -> str:
    """Return a hint for a function that is not there; what Python has is not misspelled."""
    if function in _AS_IN_PYTHON:
        return _AS_IN_PYTHON[function]
    if function in vars(builtins):
        return f"the builtins are {', '.join(BUILTINS)}; a tool can call any Python function"
    return did_you_mean(function, known, "there are")


_AS_IN_PYTHON = {
    "print": "a string statement writes for the model, and return gives a value to the caller; "
    "weft run shows every gen, select and fork by itself",
    "input": "what comes from outside is a parameter: program NAME(question: str)",
}

_BUILTIN_WANTS = {
    "len": "a str or a list", "str": "one value", "int": "a str or a number",
    "float": "a str or a number", "min": "a list, or several values of one type",
    "max": "a list, or several values of one type", "sum": "a list of numbers",
    "range": "one to three ints", "sorted": "a list of numbers or strings",
}  # fmt: skip


def listed(items: Sequence[str]) -> str:
    """Return items for a message."""
    return ", ".join(items) or "nothing"


def _check_record(call: ast.Call, flow: Flow) -> Term:
    fields = flow.world.fields[call.function]
    if call.arguments:
        raise WrongArguments(
            name=call.function,
            want=f"named fields ({', '.join(fields)})",
            have="unnamed values",
            span=call.arguments[0].span,
        )
    for item in call.named:
        if item.name not in fields:
            hint = did_you_mean(item.name, fields, "it has")
            raise UnknownField(type=call.function, name=item.name, hint=hint, span=item.span)
        want = fields[item.name][0]
        if constant_of(item.value) is UNKNOWN:
            want = base(want)  # what is computed cannot be held to a constraint here
        expect(item.value, want, f"`{call.function}.{item.name}`", flow)
    for name in fields:
        if name not in {item.name for item in call.named}:
            raise MissingArgument(name=call.function, missing=name, span=call.span)
    return record(call.function)


def _check_score(call: ast.Call, flow: Flow) -> Term:
    if len(call.arguments) != 1 or call.named:
        have = f"{len(call.arguments) + len(call.named)} values"
        raise WrongArguments(name="score", want="one str", have=have, span=call.span)
    expect(call.arguments[0], STR, "score", flow)
    return FLOAT


def _check_tool_call(call: ast.Call, flow: Flow) -> Term:
    from .arguments import check_arguments

    tool = flow.world.tools[call.function]
    check_arguments(tool, call, flow)
    return flow.world.term(tool.returns)


def _check_method(expression: ast.Method, flow: Flow) -> Term:
    receiver = check_expression(expression.receiver, flow)
    have = [check_expression(item, flow) for item in expression.arguments]
    if base(receiver) == ANY:
        return ANY
    name = expression.name
    if (base(receiver).name, name) not in METHODS:
        hint = did_you_mean(name, methods_of(receiver), "it has")
        if name in {"append", "extend"}:
            hint = "values do not change: write xs = xs + [x]"
        raise UnknownMethod(type=receiver, name=name, hint=hint, span=expression.span)
    found = method_type(receiver, name, have)
    if found is None:
        want, least, _ = METHODS[base(receiver).name, name]
        shown = [
            written(item) if at < least else f"[{written(item)}]" for at, item in enumerate(want)
        ]
        raise WrongArguments(
            name=name,
            want=listed(shown),
            have=listed([*map(written, have)]),
            span=expression.span,
        )
    return found


_MODEL_FIELDS = {
    "probs": "what a select binds has probs, where no other path binds the name",
    "logprobs": "a gen of a string has them: gen NAME(logprobs=true)",
}


def _check_field(expression: ast.FieldOf, flow: Flow) -> Term:
    receiver = check_expression(expression.receiver, flow)
    if receiver == ERROR:
        if expression.name not in ERROR_FIELDS:
            hint = f"an error has {', '.join(ERROR_FIELDS)}"
            raise UnknownField(type=receiver, name=expression.name, hint=hint, span=expression.span)
        return STR
    if expression.name in KNOWN_FIELDS.get(receiver, {}):
        return KNOWN_FIELDS[receiver][expression.name]
    if base(receiver) == ANY:
        return ANY
    if receiver.name != "record":
        hint = _MODEL_FIELDS.get(expression.name, "")
        raise WrongType(
            place=f"`.{expression.name}`", want="a record", have=receiver, hint=hint,
            span=expression.span,
        )  # fmt: skip
    fields = flow.world.fields[str(receiver.parameters[0])]
    if expression.name not in fields:
        hint = did_you_mean(expression.name, fields, "it has")
        raise UnknownField(type=receiver, name=expression.name, hint=hint, span=expression.span)
    return fields[expression.name][0]


def _check_index(expression: ast.Index, flow: Flow) -> Term:
    receiver = check_expression(expression.receiver, flow)
    if receiver.name == "map":
        expect(expression.index, STR, "an option's probability", flow)
        _check_option(expression, flow)
        return element(receiver)
    if base(receiver) == ANY:
        check_expression(expression.index, flow)
        return ANY
    expect(expression.index, INT, "an index", flow)
    if receiver.name == "list":
        return element(receiver)
    if base(receiver) == STR:
        return STR
    raise WrongType(
        place="an index", want="a list or a str", have=receiver, span=expression.receiver.span
    )


def _check_option(use: ast.Index, flow: Flow) -> None:
    """Check that a select has the option whose probability is looked up, where both are written."""
    option, probs = constant_of(use.index), use.receiver
    if not (isinstance(option, str) and isinstance(probs, ast.FieldOf)):
        return
    name = probs.receiver.name if isinstance(probs.receiver, ast.Name) else ""
    options = flow.world.options.get(name)
    if options is not None and option not in options:
        hint = did_you_mean(option, sorted(options), "it has")
        raise NotSelectable(name=name, option=json.dumps(option), hint=hint, span=use.index.span)


def _check_list(expression: ast.ListOf, flow: Flow) -> Term:
    inner = ANY
    for item in expression.elements:
        have = check_expression(item, flow)
        found = common(inner, have)
        if found is None:
            raise WrongType(
                place="this list, by its first elements,", want=inner, have=have, span=item.span
            )
        inner = found
    return list_of(inner)
