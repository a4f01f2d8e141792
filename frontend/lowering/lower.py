"""Lowers a checked file to the program dialect: streams become values, assignments become SSA."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...ir.core import Module, Names, Operation, Region, Symbol, Term, Value, make
from ...ir.source import Span
from ...ir.types import NONE, SELECTION, STR, STREAM, list_of
from ...ir.verifier import verify
from .. import ast
from ..semantics.constants import constant_of
from ..semantics.effects import appends, assigned, caught
from ..semantics.signatures import base, common, element
from ..semantics.type_names import (
    Fields,
    bound_type,
    bounded,
    default_budget,
    options_of,
    record_fields,
    term_of,
)
from ..semantics.with_blocks import with_value
from .expressions import STREAM_NAME, Scope, lower_expression
from .join import joined, lower_fork, lower_join
from .match import lower_fallible, lower_match
from .programs import leave, lower_inline


def lower(file: ast.File) -> Module:
    """Return the module of a file that `checker.check` has accepted."""
    fields = record_fields(file)
    tools = {tool.name: tool for tool in file.tools}
    by_name = {program.name: program for program in file.programs}
    names = Names()
    declarations = [_record(item, fields) for item in file.records]
    declarations += [_tool(item, fields) for item in file.tools]
    doc = file.doc if len(file.programs) == 1 else None
    programs = [
        Lowering(names, fields, tools, by_name).program(item, doc) for item in file.programs
    ]
    module = Module((*declarations, *programs))
    verify(module, ("program",))
    return module


def _record(record: ast.Record, fields: Fields) -> Operation:
    entries = []
    for name, (type, options) in fields[record.name].items():
        entry: dict[str, Any] = {"name": name, "type": type}
        entries.append(entry | {"options": options} if options else entry)
    return make("program.record", name=Symbol(record.name), fields=entries, span=record.span)


def _tool(tool: ast.Tool, fields: Fields) -> Operation:
    return make(
        "program.tool",
        name=Symbol(tool.name),
        parameters=_parameters(tool.parameters, fields),
        returns=term_of(tool.returns, fields) if tool.returns else NONE,
        timeout=tool.timeout,
        pure=tool.pure or None,
        span=tool.span,
    )


def _parameters(parameters: Iterable[ast.Parameter], fields: Fields) -> list[dict[str, Any]]:
    entries = []
    for parameter in parameters:
        entry: dict[str, Any] = {"name": parameter.name, "type": term_of(parameter.type, fields)}
        if parameter.default is not None:
            entry["default"] = constant_of(parameter.default)
        entries.append(entry)
    return entries


@dataclass
class Lowering:
    """Lowers the statements of one program."""

    names: Names
    fields: Fields
    tools: dict[str, ast.Tool]
    programs: dict[str, ast.Program]
    inlined: bool = False
    role: str | None = None
    caught: frozenset[str] = frozenset()

    def program(self, program: ast.Program, file_doc: str | None) -> Operation:
        """Lower a whole program."""
        self.caught = caught(program.body)
        scope = Scope(self.names, self.fields, self.tools, {}, self.programs)
        stream = self.names.value("s", STREAM)
        scope.values[STREAM_NAME] = stream
        for parameter in program.parameters:
            type = base(term_of(parameter.type, self.fields))
            scope.values[parameter.name] = self.names.value(parameter.name, type)
        arguments = tuple(scope.values.values())
        self.body(program.body, scope)
        if not scope.ended:
            scope.emit("program.return", span=program.span)
        return make(
            "program.func",
            name=Symbol(program.name),
            parameters=_parameters(program.parameters, self.fields),
            returns=term_of(program.returns, self.fields) if program.returns else NONE,
            doc=program.doc or file_doc,
            regions=(scope.region(*arguments),),
            span=program.span,
        )

    def body(self, body: Iterable[ast.Statement], scope: Scope) -> None:
        """Lower the statements of a block, up to one that ends it."""
        statements = tuple(body)
        kept = joined(statements)
        for position, statement in enumerate(statements):
            if scope.ended:
                return
            if isinstance(statement, ast.Fork):
                lower_fork(self, statement, scope, position in kept)
            else:
                self._statement(statement, scope)

    def _statement(self, statement: ast.Statement, scope: Scope) -> None:
        match statement:
            case ast.Append(text=text):
                self._append(text, scope)
            case ast.Message():
                self._message(statement, scope)
            case ast.Gen():
                self._gen(statement, scope)
            case ast.Select():
                self._select(statement, scope)
            case ast.Join():
                lower_join(self, statement, scope)
            case ast.With():
                self._with(statement, scope)
            case ast.For():
                self._for(statement, scope)
            case ast.While():
                self._while(statement, scope)
            case ast.If():
                self._if(statement, scope)
            case ast.Match():
                lower_match(self, statement, scope)
            case ast.Assign():
                self._assign(statement, scope)
            case ast.Evaluate(value=value):
                self.whole(value, scope, "")
            case ast.Return(value=value) if self.inlined:
                leave(self, value, scope, statement.span)
            case ast.Return(value=value):
                values = () if value is None else (self.whole(value, scope, ""),)
                scope.emit("program.return", *values, span=statement.span)
                scope.ended = True

    def advance(self, scope: Scope, name: str, /, *operands: Value, **more: Any) -> None:
        """Append an operation that takes the stream and gives the next one."""
        following = self.names.value("s", STREAM)
        scope.emit(name, scope.values[STREAM_NAME], *operands, results=(following,), **more)
        scope.values[STREAM_NAME] = following

    def _append(self, text: ast.Expression, scope: Scope) -> None:
        parts = text.parts if isinstance(text, ast.Text) else (text,)
        for part in parts:
            if isinstance(part, str):
                self.advance(scope, "program.literal", text=part, span=text.span)
            else:
                value = lower_expression(part, scope)
                self.advance(scope, "program.append", value, span=part.span)

    def _message(self, message: ast.Message, scope: Scope) -> None:
        self.advance(scope, "program.begin", role=message.role, span=message.span)
        self.role = message.role
        self.body(message.body, scope)
        self.role = None
        if not scope.ended:
            self.advance(scope, "program.end", role=message.role, span=message.span)

    def _gen(self, gen: ast.Gen, scope: Scope) -> None:
        type = bounded(gen.type, self.fields)
        options = options_of((*gen.type.options, *gen.options))
        options.pop("max_items", None)
        budget = options.pop("max_tokens", None) or default_budget(type, self.fields)
        following, value = (
            self.names.value("s", STREAM),
            self.names.value(gen.name, bound_type(type, options)),
        )
        scope.emit(
            "program.gen", scope.values[STREAM_NAME], results=(following, value), span=gen.span,
            name=gen.name, type=type, max_tokens=budget, **options, **scope.who,
        )  # fmt: skip
        scope.values |= {STREAM_NAME: following, gen.name: value}

    def _select(self, select: ast.Select, scope: Scope) -> None:
        choices = lower_expression(select.choices, scope, wanted=list_of(STR))
        following, value = self.names.value("s", STREAM), self.names.value(select.name, SELECTION)
        by = {option.name: constant_of(option.value) for option in select.options}
        scope.emit(
            "program.select", scope.values[STREAM_NAME], choices, results=(following, value),
            span=select.span, name=select.name, **by, **scope.who,
        )  # fmt: skip
        scope.values |= {STREAM_NAME: following, select.name: value}

    def whole(
        self, value: ast.Expression, scope: Scope, hint: str, wanted: Term | None = None
    ) -> Value:
        """Lower what stands alone: an expression, or a program that runs on this stream."""
        if isinstance(value, ast.Run) and value.how == "inline":
            return lower_inline(self, value, scope, hint or value.program)
        return lower_expression(value, scope, hint=hint, wanted=wanted)

    def _with(self, statement: ast.With, scope: Scope) -> None:
        """Lower a body whose model calls carry who computes them; it is part of this block."""
        before = scope.who
        scope.who = {**before, statement.kind: with_value(statement)}
        self.body(statement.body, scope)
        scope.who = before

    def _assign(self, statement: ast.Assign, scope: Scope) -> None:
        wanted = term_of(statement.type, self.fields) if statement.type else None
        if wanted is None and statement.name in scope.values:
            wanted = scope.values[statement.name].type
        if statement.name in self.caught:
            value = lower_fallible(self, statement.value, scope, statement.name, wanted)
        else:
            value = self.whole(statement.value, scope, statement.name, wanted)
        scope.values[statement.name] = value

    def _for(self, loop: ast.For, scope: Scope) -> None:
        over = lower_expression(loop.over, scope)
        carried = self._carried(loop.body, scope)
        inner = scope.child()
        item = self.names.value(loop.variable, element(over.type))
        arguments = self._enter(carried, scope, inner)
        inner.values[loop.variable] = item
        self.body(loop.body, inner)
        self._leave(carried, inner, loop.span)
        operands = (over, *(scope.values[name] for name in carried))
        regions = (inner.region(item, *arguments),)
        self._carry_on("program.for", carried, operands, regions, scope, loop.span)

    def _while(self, loop: ast.While, scope: Scope) -> None:
        carried = self._carried(loop.body, scope)
        test, inner = scope.child(), scope.child()
        test_arguments = self._enter(carried, scope, test)
        condition = lower_expression(loop.condition, test)
        test.emit("program.condition", condition, span=loop.condition.span)
        arguments = self._enter(carried, scope, inner)
        self.body(loop.body, inner)
        self._leave(carried, inner, loop.span)
        operands = tuple(scope.values[name] for name in carried)
        regions = (test.region(*test_arguments), inner.region(*arguments))
        self._carry_on(
            "program.while", carried, operands, regions, scope, loop.span, limit=loop.limit
        )

    def _carried(self, body: tuple[ast.Statement, ...], scope: Scope) -> list[str]:
        stream = [STREAM_NAME] if appends(body) else []
        return stream + [name for name in assigned(body) if name in scope.values]

    def _enter(self, carried: list[str], scope: Scope, inner: Scope) -> tuple[Value, ...]:
        """Give the region an argument for each carried value."""
        for name in carried:
            inner.values[name] = self._like(name, scope.values[name].type)
        return tuple(inner.values[name] for name in carried)

    def _leave(self, carried: list[str], inner: Scope, span: Span | None) -> None:
        if not inner.ended:
            inner.emit("program.yield", *(inner.values[name] for name in carried), span=span)

    def _carry_on(
        self,
        operation: str,
        carried: list[str],
        operands: tuple[Value, ...],
        regions: tuple[Region, ...],
        scope: Scope,
        span: Span | None,
        **attributes: Any,
    ) -> None:
        """Emit a loop, and let the names stand for its results."""
        results = tuple(self._like(name, scope.values[name].type) for name in carried)
        scope.emit(operation, *operands, results=results, regions=regions, span=span, **attributes)
        scope.values |= dict(zip(carried, results, strict=True))

    def _if(self, statement: ast.If, scope: Scope) -> None:
        condition = lower_expression(statement.condition, scope)
        self.either(
            condition,
            lambda inner: self.body(statement.then, inner),
            lambda inner: self.body(statement.otherwise, inner),
            scope,
            statement.span,
        )

    def either(
        self,
        condition: Value,
        then: Callable[[Scope], None],
        otherwise: Callable[[Scope], None],
        scope: Scope,
        span: Span | None,
    ) -> None:
        """Emit an if of two regions, and let the names that they bind meet after it."""
        branches = (scope.child(), scope.child())
        then(branches[0])
        otherwise(branches[1])
        living = [branch for branch in branches if not branch.ended]
        merged = _merged_types(living, scope.values)
        for branch in living:
            branch.emit("program.yield", *(branch.values[name] for name in merged), span=span)
        results = tuple(self._like(name, type) for name, type in merged.items())
        regions = tuple(branch.region() for branch in branches)
        scope.emit("program.if", condition, results=results, span=span, regions=regions)
        scope.ended = not living
        scope.values |= dict(zip(merged, results, strict=True))

    def _like(self, name: str, type: Term) -> Value:
        return self.names.value(name or "s", type if type == STREAM else base(type))


def _merged_types(living: list[Scope], outer: dict[str, Value]) -> dict[str, Term]:
    """Return the names that an if changes and that each branch which goes on binds, with types."""
    merged: dict[str, Term] = {}
    if not living:
        return merged
    for name, value in living[0].values.items():
        values = [branch.values.get(name) for branch in living]
        if all(found == outer.get(name) for found in values):
            continue
        type: Term | None = value.type
        for found in values:
            type = common(type, found.type) if type is not None and found is not None else None
        if type is not None:
            merged[name] = type
    return merged
