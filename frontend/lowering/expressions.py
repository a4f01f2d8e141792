"""Lowers expressions to host operations of the program dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.core import Names, Operation, Region, Symbol, Term, Value, freeze, make
from ...ir.source import Span
from ...ir.types import ANY, BOOL, ERROR, FLOAT, INT, NONE, STR, list_of, record, result_of
from .. import ast
from ..semantics.constants import UNKNOWN, constant_of
from ..semantics.signatures import (
    KNOWN_FIELDS,
    base,
    binary_type,
    builtin_type,
    common,
    element,
    method_type,
    outcome,
    unary_type,
)
from ..semantics.type_names import Fields, term_of

_HINTS = {
    "+": "sum", "-": "difference", "*": "product", "/": "quotient", "//": "quotient",
    "%": "remainder", "==": "same", "!=": "differs", "<": "less", "<=": "at_most",
    ">": "greater", ">=": "at_least", "in": "found", "not": "negated", "neg": "negative",
}  # fmt: skip


STREAM_NAME = ""
"""Where a scope's values keep the stream; no name of a program is empty."""


@dataclass
class Scope:
    """One region under construction: its operations so far, and what the names stand for."""

    names: Names
    fields: Fields
    tools: Mapping[str, ast.Tool]
    values: dict[str, Value]
    programs: Mapping[str, ast.Program] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    ended: bool = False
    branches: tuple[Value, Value] | None = None
    who: Mapping[str, Any] = field(default_factory=dict)

    def child(self) -> Scope:
        """Return a scope for a region inside, which sees the values of this one."""
        return Scope(
            self.names, self.fields, self.tools, dict(self.values), self.programs, who=self.who
        )

    def emit(self, name: str, /, *operands: Value, **more: Any) -> tuple[Value, ...]:
        """Append an operation and return its results."""
        operation = make(name, *operands, **more)
        self.operations.append(operation)
        return operation.results

    def value(
        self,
        name: str,
        /,
        *operands: Value,
        hint: str,
        type: Term,
        span: Span | None,
        **more: Any,
    ) -> Value:
        """Append an operation of one result, whose name is like the hint."""
        results = (self.names.value(hint, type),)
        return self.emit(name, *operands, results=results, span=span, **more)[0]

    def constant(self, value: Any, hint: str, type: Term, span: Span | None) -> Value:
        """Append a constant; none is a value too."""
        result = self.names.value(hint, type)
        attributes = (("value", freeze(value)),)
        self.operations.append(Operation("program.constant", (), attributes, (), (result,), span))
        return result

    def region(self, *arguments: Value) -> Region:
        """Return the finished region."""
        return Region(tuple(arguments), tuple(self.operations))


def lower_expression(
    expression: ast.Expression, scope: Scope, hint: str = "", wanted: Term | None = None
) -> Value:
    """Lower an expression; the value's name is `hint` where given, else says what it is."""
    known = constant_of(expression)
    if known is not UNKNOWN:
        type = _constant_type(known, wanted)
        name = hint or ("options" if isinstance(known, list) else "constant")
        return scope.constant(known, name, type, expression.span)
    match expression:
        case ast.Name(name=name):
            return unwrapped(scope.values[name], scope, expression.span)
        case ast.Text():
            return _lower_text(expression, scope, hint)
        case ast.Unary():
            return _lower_unary(expression, scope, hint)
        case ast.Binary():
            return _lower_binary(expression, scope, hint)
        case ast.Logical():
            return _lower_logical(expression, scope, hint)
        case ast.Run():
            from .programs import lower_run

            return lower_run(expression, scope, hint)
        case ast.Call():
            return _lower_call(expression, scope, hint)
        case ast.Method():
            return _lower_method(expression, scope, hint)
        case ast.FieldOf():
            return _lower_field(expression, scope, hint)
        case ast.Index():
            return _lower_index(expression, scope, hint)
        case ast.ListOf(elements=elements):
            return _lower_list(elements, scope, hint, wanted, expression.span)
    raise AssertionError(f"no lowering for {expression!r}")


def unwrapped(value: Value, scope: Scope, span: Span | None) -> Value:
    """Return a value; of a result, what it holds where it is no error."""
    if value.type.name != "result":
        return value
    return scope.value(
        "program.expect", value, hint=value.name, type=outcome(value.type), span=span
    )


def _constant_type(value: Any, wanted: Term | None) -> Term:
    if isinstance(value, list):
        if wanted is not None and wanted.name == "list":
            return base(wanted)
        inner: Term | None = ANY
        for item in value:
            inner = common(inner or ANY, _constant_type(item, None))
        return list_of(inner or ANY)
    return {bool: BOOL, int: INT, float: FLOAT, str: STR}.get(type(value), NONE)


def _lower_text(text: ast.Text, scope: Scope, hint: str) -> Value:
    parts: list[str | int] = []
    values: list[Value] = []
    for part in text.parts:
        if isinstance(part, str):
            parts.append(part)
        else:
            parts.append(len(values))
            values.append(lower_expression(part, scope))
    return scope.value(
        "program.format", *values, hint=hint or "text", type=STR, span=text.span, parts=parts
    )


def _lower_unary(expression: ast.Unary, scope: Scope, hint: str) -> Value:
    value = lower_expression(expression.operand, scope)
    type = unary_type(expression.op, value.type) or ANY
    return scope.value(
        "program.unary", value, hint=hint or _HINTS[expression.op], type=type,
        span=expression.span, op=expression.op,
    )  # fmt: skip


def _lower_method(expression: ast.Method, scope: Scope, hint: str) -> Value:
    receiver = lower_expression(expression.receiver, scope)
    values = [lower_expression(item, scope) for item in expression.arguments]
    name = expression.name
    type = method_type(receiver.type, name, [value.type for value in values]) or ANY
    return scope.value(
        "program.method", receiver, *values, hint=hint or name, type=type,
        span=expression.span, name=name,
    )  # fmt: skip


def _lower_field(expression: ast.FieldOf, scope: Scope, hint: str) -> Value:
    value, name = lower_expression(expression.receiver, scope), expression.name
    type = _field_type(value.type, name, scope)
    return scope.value(
        "program.field", value, hint=hint or name, type=type, span=expression.span, name=name
    )


def _field_type(receiver: Term, name: str, scope: Scope) -> Term:
    if receiver == ERROR:
        return STR
    if base(receiver) == ANY:
        return ANY
    if receiver in KNOWN_FIELDS:
        return KNOWN_FIELDS[receiver][name]
    return scope.fields[str(receiver.parameters[0])][name][0]


def _lower_binary(expression: ast.Binary, scope: Scope, hint: str) -> Value:
    left = lower_expression(expression.left, scope)
    right = lower_expression(expression.right, scope)
    type = binary_type(expression.op, left.type, right.type) or ANY
    return scope.value(
        "program.binary", left, right, hint=hint or _HINTS[expression.op], type=type,
        span=expression.span, op=expression.op,
    )  # fmt: skip


def _lower_logical(expression: ast.Logical, scope: Scope, hint: str) -> Value:
    """Lower `and` and `or` to an if, so that the right side runs only where it decides."""
    left = lower_expression(expression.left, scope)
    deciding, other = scope.child(), scope.child()
    right = lower_expression(expression.right, deciding)
    deciding.emit("program.yield", right, span=expression.span)
    other.emit("program.yield", left, span=expression.span)
    regions = (deciding.region(), other.region())
    return scope.value(
        "program.if", left, hint=hint or ("both" if expression.op == "and" else "either"),
        type=BOOL, span=expression.span,
        regions=regions if expression.op == "and" else regions[::-1],
    )  # fmt: skip


def _lower_call(call: ast.Call, scope: Scope, hint: str) -> Value:
    if call.function in scope.fields:
        return _lower_record(call, scope, hint)
    if call.function in scope.tools:
        return lower_tool_call(call, scope, hint)
    if call.function == "score":
        text = lower_expression(call.arguments[0], scope)
        return scope.value(
            "program.score", scope.values[STREAM_NAME], text, hint=hint or "score", type=FLOAT,
            span=call.span, **scope.who,
        )  # fmt: skip
    values = [lower_expression(item, scope) for item in call.arguments]
    type = builtin_type(call.function, [value.type for value in values]) or ANY
    return scope.value(
        "program.builtin", *values, hint=hint or call.function, type=type,
        span=call.span, name=call.function,
    )  # fmt: skip


def _lower_record(call: ast.Call, scope: Scope, hint: str) -> Value:
    fields = scope.fields[call.function]
    given = {item.name: item.value for item in call.named}
    values = [
        lower_expression(given[name], scope, hint=name, wanted=type)
        for name, (type, _) in fields.items()
    ]
    return scope.value(
        "program.make_record", *values, hint=hint or call.function.lower(),
        type=record(call.function), span=call.span, fields=list(fields),
    )  # fmt: skip


def lower_tool_call(call: ast.Call, scope: Scope, hint: str, catch: bool = False) -> Value:
    """Lower a tool call; with `catch`, its failure is a value."""
    tool = scope.tools[call.function]
    values = lower_arguments(tool, call.arguments, call.named, scope)
    returns = term_of(tool.returns, scope.fields) if tool.returns else NONE
    type = result_of(returns) if catch else returns
    return scope.value(
        "program.call_tool", *values, hint=hint or tool.name, type=type,
        span=call.span, name=Symbol(tool.name), catch=catch or None,
    )  # fmt: skip


def lower_arguments(
    target: ast.Tool | ast.Program,
    arguments: Sequence[ast.Expression],
    named: Sequence[ast.Argument],
    scope: Scope,
) -> list[Value]:
    """Lower the arguments of a tool or a program, in the order of its parameters."""
    given: dict[str, ast.Expression] = {item.name: item.value for item in named}
    for parameter, value in zip(target.parameters, arguments, strict=False):
        given[parameter.name] = value
    return [
        lower_expression(
            given.get(parameter.name) or _default(parameter),
            scope,
            wanted=term_of(parameter.type, scope.fields),
        )
        for parameter in target.parameters
    ]


def _default(parameter: ast.Parameter) -> ast.Expression:
    assert parameter.default is not None, "the checker lets no argument be missing"
    return parameter.default


def _lower_index(expression: ast.Index, scope: Scope, hint: str) -> Value:
    receiver = lower_expression(expression.receiver, scope)
    index = lower_expression(expression.index, scope)
    type = element(receiver.type) if receiver.type.name in {"list", "map"} else base(receiver.type)
    return scope.value(
        "program.index", receiver, index, hint=hint or "item", type=type, span=expression.span
    )


def _lower_list(
    elements: Sequence[ast.Expression],
    scope: Scope,
    hint: str,
    wanted: Term | None,
    span: Span | None,
) -> Value:
    values = [lower_expression(item, scope) for item in elements]
    inner: Term | None = ANY
    for value in values:
        inner = common(inner or ANY, value.type)
    type = base(wanted) if wanted is not None and wanted.name == "list" else list_of(inner or ANY)
    return scope.value("program.list", *values, hint=hint or "list", type=type, span=span)
