"""Reads the body of a Python function as a weft program: the same AST as the text's."""

from __future__ import annotations

import ast as python
from collections.abc import Callable
from typing import Any

from ...ir.diagnostics import WeftError
from ...ir.source import Source, Span
from .. import ast
from ..faults import Faults
from ..semantics.with_blocks import WHO
from .expressions import ExpressionReader
from .match import captured_name, read_case
from .mends import refused
from .source import NotInPython, function_syntax, namespace_of, refuse_too_deep
from .tools import Tool
from .types import last_name

ROLES = ("system", "user", "assistant")


class UnnamedGen(NotInPython):
    """A gen or select whose value is bound to no name."""

    template = "a {what} needs a name"
    hint = "write name = {stream}.{what}(...)"


class UnboundedPythonWhile(NotInPython):
    """A while loop without `s.up_to(N)`."""

    template = "this while loop has no bound"
    hint = "write while CONDITION and {stream}.up_to(5):   (every loop is bounded)"


def read_program(
    function: Callable[..., Any], source: Source, faults: Faults | None = None
) -> tuple[ast.File, dict[str, Tool]]:
    """Return a function's file (its records, tools and itself) and the tools that it names.

    `faults` hears of statements that cannot be read, which are left out; without it, the first one
    raises.
    """
    try:
        return _read(function, source, faults or Faults())
    except WeftError as error:
        if error.source is None:
            raise error.with_source(source) from None
        raise


def _read(
    function: Callable[..., Any], source: Source, faults: Faults
) -> tuple[ast.File, dict[str, Tool]]:
    syntax = function_syntax(function, source)
    refuse_too_deep(syntax, source)
    reader = ExpressionReader(namespace_of(function), source)
    if isinstance(syntax, python.AsyncFunctionDef):
        hint = "write `def`: a program is read, never run, and its calls run side by side anyway"
        raise NotInPython(what="an `async def` program", hint=hint, span=reader.span(syntax))
    given = syntax.args
    for sign, several in (("*", given.vararg), ("**", given.kwarg)):
        if several is not None:
            hint = "a parameter has a name and a type, such as essays: list[str]"
            what = f"`{sign}{several.arg}` in a program's parameters"
            raise NotInPython(what=what, hint=hint, span=reader.span(several))
    placed = [*given.posonlyargs, *given.args]
    if not placed:
        hint = "write def name(s, ...): the first parameter is the stream"
        raise NotInPython(what="a program without a stream", hint=hint, span=reader.span(syntax))
    stream, *rest = placed
    parameters = reader.types.parameters(rest, given.defaults)
    parameters += reader.types.parameters(given.kwonlyargs, given.kw_defaults)
    returns = reader.types.returns(syntax.returns)
    bound = {parameter.name for parameter in parameters}
    doc = python.get_docstring(syntax)
    body = syntax.body[1:] if doc is not None else syntax.body
    statements = _Body(reader, stream.arg, bound, faults).statements(body)
    span = _header(syntax, reader)
    program = ast.Program(function.__name__, parameters, returns, statements, doc, span=span)
    tools = [tool.declaration(reader.records) for tool in reader.tools.values()]
    declared = sorted([*reader.records.values(), *tools], key=lambda item: item.span or span)
    named = dict(reader.tools)
    for other in reader.programs.values():
        if other.function is not function:
            declared += [item for item in other.file.declarations if item not in declared]
            named |= other.tools
    return ast.File((*declared, program), source=source, span=span), named


def _header(syntax: python.FunctionDef, reader: ExpressionReader) -> Span:
    """Return the span of a function's first line, from `def` to the result's type."""
    whole = reader.span(syntax)
    given = syntax.args
    last = [syntax, *given.posonlyargs, *given.args, *given.kwonlyargs][-1]
    end = reader.span(syntax.returns or last)
    return whole.to(end)


class _Body:
    """Reads statements, knowing the stream's name and what is bound on the way here."""

    def __init__(
        self, reader: ExpressionReader, stream: str, bound: set[str], faults: Faults
    ) -> None:
        self._faults = faults
        self._reader = reader
        self._stream = stream
        self._bound = bound

    def statements(self, body: list[python.stmt]) -> tuple[ast.Statement, ...]:
        found = []
        for node in body:
            self._reader.bound = self._bound
            self._reader.stream = self._stream
            if not isinstance(node, python.Pass):
                try:
                    found.append(self._statement(node))
                except WeftError as error:
                    self._faults.report(error)
                    self._bound = self._bound | _names_bound(node)
        return tuple(found)

    def _inner(
        self, body: list[python.stmt], *names: str
    ) -> tuple[tuple[ast.Statement, ...], set[str]]:
        """Read a block, with some more names bound in it; also return what it leaves bound."""
        inner = _Body(self._reader, self._stream, self._bound | set(names), self._faults)
        statements = inner.statements(body)
        self._reader.bound = self._bound
        return statements, inner._bound

    def _statement(self, node: python.stmt) -> ast.Statement:
        span = self._reader.span(node)
        match node:
            case python.Expr(value=python.Call() as call):
                return self._call(call, span)
            case python.AugAssign():
                return self._augmented(node, span)
            case python.Assign(targets=[python.Name(id=name)], value=value):
                return self._assign(name, None, value, span)
            case python.AnnAssign(target=python.Name(id=name), value=python.expr() as value):
                return self._assign(name, self._reader.types.read(node.annotation), value, span)
            case python.With():
                return self._with(node, span)
            case python.FunctionDef():
                return self._fork(node)
            case python.For(target=python.Name(id=name), orelse=[]):
                over = self._reader.read(node.iter)
                body, _ = self._inner(node.body, name)
                return ast.For(name, over, body, span=span.to(over.span or span))
            case python.While(orelse=[]):
                return self._while(node, span)
            case python.If():
                return self._if(node, span)
            case python.Match():
                return self._match(node, span)
            case python.Return(value=value):
                result = None if value is None else self._whole(value)
                return ast.Return(result, span=span)
        raise refused(node, span)

    def _call(self, call: python.Call, span: Span) -> ast.Statement:
        name = self._stream_method(call.func)
        if name in ROLES and len(call.args) == 1 and not call.keywords:
            text = self._reader.text(call.args[0])
            return ast.Message(name, (ast.Append(text, span=text.span),), span=span)
        if name == "join_best":
            return self._join(None, call, span)
        if name in {"call", "inline"}:
            return ast.Evaluate(self._reader.run(name, call), span=span)
        if name is not None and name.split(".")[-1] in {"gen", "select"}:
            raise UnnamedGen(what=name.split(".")[-1], stream=self._stream, span=span)
        if name is not None:
            hint = f"{self._stream} has {', '.join(ROLES)} of one text, gen, select, score, fork, "
            hint += "join_best, call and inline"
            raise NotInPython(
                what=f"`{self._stream}.{name}(...)` in this form", hint=hint, span=span
            )
        return ast.Evaluate(self._reader.read(call), span=span)

    def _augmented(self, node: python.AugAssign, span: Span) -> ast.Statement:
        name = last_name(node.target)
        if isinstance(node.op, python.Add) and name == self._stream:
            text = self._reader.text(node.value)
            return ast.Append(text, span=text.span)
        if not isinstance(node.target, python.Name):
            raise refused(node, span)
        place = python.copy_location(python.Name(name, python.Load()), node.target)
        sum = python.copy_location(python.BinOp(place, node.op, node.value), node)
        return ast.Assign(name, self._reader.read(sum), declares=False, span=span)

    def _assign(
        self, name: str, type: ast.Type | None, value: python.expr, span: Span
    ) -> ast.Statement:
        method = self._stream_method(value.func) if isinstance(value, python.Call) else None
        if method == "join_best" and isinstance(value, python.Call):
            statement: ast.Statement = self._join(name, value, span)
        elif method in {"gen", "select"} or (method is not None and "." in method):
            assert isinstance(value, python.Call)
            statement = self._generate(name, method, value, span)
        else:
            declares = name not in self._bound
            statement = ast.Assign(name, self._whole(value), type, declares=declares, span=span)
        self._bound = self._bound | {name}
        return statement

    def _whole(self, value: python.expr) -> ast.Expression:
        """Read what stands alone: an expression, or `s.inline(other, ...)`."""
        if isinstance(value, python.Call) and self._stream_method(value.func) == "inline":
            return self._reader.run("inline", value)
        return self._reader.read(value)

    def _generate(self, name: str, method: str, call: python.Call, span: Span) -> ast.Statement:
        """Read `name = s.gen(...)`, `name = s.assistant.gen(...)`, and the same with select."""
        role, _, kind = method.rpartition(".")
        options = self._reader.options(call.keywords)
        inner: ast.Statement
        if kind == "gen" and len(call.args) <= 1:
            type = (
                self._reader.types.read(call.args[0]) if call.args else ast.Type("str", span=span)
            )
            inner = ast.Gen(name, type, options, span=span)
        elif kind == "select" and len(call.args) == 1:
            inner = ast.Select(name, self._reader.read(call.args[0]), options, span=span)
        else:
            raise NotInPython(what=f"`{self._stream}.{method}(...)` in this form", span=span)
        return ast.Message(role, (inner,), span=span) if role else inner

    def _with(self, node: python.With, span: Span) -> ast.Statement:
        item = node.items[0]
        context = item.context_expr
        context = context.func if isinstance(context, python.Call) else context
        role = self._stream_method(context)
        if role in WHO and len(node.items) == 1 and item.optional_vars is None:
            return self._who(role, node, span)
        if role not in ROLES or len(node.items) != 1 or item.optional_vars is not None:
            hint = f"a block of a message reads: with {self._stream}.assistant:"
            raise NotInPython(what="this `with`", hint=hint, span=span)
        inner, self._bound = self._inner(node.body)
        return ast.Message(role, inner, span=span.to(self._reader.span(context)))

    def _who(self, kind: str, node: python.With, span: Span) -> ast.Statement:
        """Read `with s.adapter("name"):`, and the same with client and priority."""
        call = node.items[0].context_expr
        if not isinstance(call, python.Call) or len(call.args) != 1 or call.keywords:
            hint = f"write with {self._stream}.{kind}(VALUE):"
            raise NotInPython(what=f"this `with {kind}`", hint=hint, span=span)
        value = self._reader.read(call.args[0])
        inner, self._bound = self._inner(node.body)
        return ast.With(kind, value, inner, span=span.to(self._reader.span(call)))

    def _join(self, name: str | None, call: python.Call, span: Span) -> ast.Statement:
        if call.args:
            hint = f"write {self._stream}.join_best(by=points)"
            raise NotInPython(what="this join", hint=hint, span=span)
        return ast.Join("best", self._reader.options(call.keywords), name, span=span)

    def _fork(self, node: python.FunctionDef) -> ast.Statement:
        span = self._reader.span(node)
        call = node.decorator_list[0] if len(node.decorator_list) == 1 else None
        if not isinstance(call, python.Call) or self._stream_method(call.func) != "fork":
            hint = f"a function inside a program is a fork, under @{self._stream}.fork(LIST); "
            hint += "a helper stands above the program, under @weft.tool"
            raise NotInPython(what="this function", hint=hint, span=span)
        if len(call.args) != 1 or call.keywords:
            hint = f"write @{self._stream}.fork(LIST) or @{self._stream}.fork(N)"
            raise NotInPython(what="this fork", hint=hint, span=self._reader.span(call))
        over = self._reader.read(call.args[0])
        names = [argument.arg for argument in node.args.args]
        variable, stream = self._branch_names(names, over, span)
        body = _Body(self._reader, stream, self._bound | set(names), self._faults)
        statements = tuple(_yielding(item) for item in body.statements(node.body))
        self._bound = self._bound | {node.name}
        place = self._reader.span(call)
        return ast.Fork(variable, over, node.name, statements, span=place)

    def _branch_names(
        self, names: list[str], over: ast.Expression, span: Span
    ) -> tuple[str | None, str]:
        """Return a branch's variable and stream: `(item)`, `(s, item)`; of N: `(s)` or `()`."""
        if len(names) > 2:
            hint = f"write def NAME({self._stream}, ITEM):"
            raise NotInPython(what="a branch of more than two parameters", hint=hint, span=span)
        if len(names) == 2:
            return names[1], names[0]
        if names and (names[0] == self._stream or isinstance(over, ast.Literal)):
            return None, names[0]
        return (names[0] if names else None), self._stream

    def _while(self, node: python.While, span: Span) -> ast.Statement:
        tests = [node.test]
        if isinstance(node.test, python.BoolOp) and isinstance(node.test.op, python.And):
            tests = node.test.values
        bound = tests[-1]
        if not (isinstance(bound, python.Call) and self._stream_method(bound.func) == "up_to"):
            raise UnboundedPythonWhile(stream=self._stream, span=self._reader.span(node.test))
        limit = bound.args[0] if bound.args else None
        if not (isinstance(limit, python.Constant) and type(limit.value) is int):
            raise UnboundedPythonWhile(stream=self._stream, span=self._reader.span(bound))
        condition: ast.Expression = ast.Literal(True, span=self._reader.span(bound))
        if len(tests) > 1:
            condition = self._reader.read(tests[0])
            for test in tests[1:-1]:
                condition = ast.Logical(
                    "and", condition, self._reader.read(test), span=self._reader.span(node.test)
                )
        body, _ = self._inner(node.body)
        end = self._reader.span(node.test)
        return ast.While(condition, limit.value, body, span=span.to(end))

    def _if(self, node: python.If, span: Span) -> ast.Statement:
        condition = self._reader.read(node.test)
        then, after_then = self._inner(node.body)
        otherwise, after_otherwise = self._inner(node.orelse)
        self._bound = after_then & after_otherwise
        if _ends(node.body):
            self._bound = after_otherwise
        elif _ends(node.orelse):
            self._bound = after_then
        return ast.If(condition, then, otherwise, span=span.to(condition.span or span))

    def _match(self, node: python.Match, span: Span) -> ast.Statement:
        subject = self._reader.read(node.subject)
        cases, after = [], []
        for item in node.cases:
            place = self._reader.span(item.pattern)
            if item.guard is not None:
                hint = "put an if into the case's body"
                raise NotInPython(what="a condition on a case", hint=hint, span=place)
            body, bound = self._inner(item.body, *captured_name(item.pattern))
            cases.append(read_case(item.pattern, body, place, self._reader.read))
            after += [] if _ends(item.body) else [bound]
        if after:
            self._bound = set.intersection(*after)
        return ast.Match(subject, tuple(cases), span=span.to(subject.span or span))

    def _stream_method(self, node: python.expr) -> str | None:
        """Return `gen` of `s.gen`, `assistant.gen` of `s.assistant.gen`; None off the stream."""
        parts: list[str] = []
        while isinstance(node, python.Attribute):
            parts.append(node.attr)
            node = node.value
        on_stream = isinstance(node, python.Name) and node.id == self._stream and parts
        return ".".join(reversed(parts)) if on_stream else None


def _yielding(statement: ast.Statement) -> ast.Statement:
    """Turn a branch's `return` into the `yield` that it means."""
    if isinstance(statement, ast.Return) and statement.value is not None:
        return ast.Yield(statement.value, span=statement.span)
    return statement


def _ends(body: list[python.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], python.Return)


def _names_bound(node: python.stmt) -> set[str]:
    """Return the names that a statement binds, in Python's eyes."""
    inside = python.walk(node)
    names = {one.id for one in inside if isinstance(one, python.Name) if _is_stored(one)}
    return names | ({node.name} if isinstance(node, python.FunctionDef) else set())


def _is_stored(name: python.Name) -> bool:
    return isinstance(name.ctx, python.Store)
