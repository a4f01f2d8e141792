"""Reads Python expressions as weft expressions."""

from __future__ import annotations

import ast as python
import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ...ir.source import Source, Span
from .. import ast
from ..semantics.signatures import BUILTINS
from ..text.builder import negative
from ..text.syntax_errors import ChainedComparison, TooDeep
from .mends import refused
from .source import DEEP_HINT, DEEPEST, NotInPython, span_of
from .tools import Tool
from .types import TypeReader, last_name

_OPERATORS: dict[type[python.AST], str] = {
    python.Add: "+", python.Sub: "-", python.Mult: "*", python.Div: "/", python.FloorDiv: "//",
    python.Mod: "%", python.Eq: "==", python.NotEq: "!=", python.Lt: "<", python.LtE: "<=",
    python.Gt: ">", python.GtE: ">=", python.In: "in", python.NotIn: "in",
}  # fmt: skip


class OfOutside(NotInPython):
    """A value from outside the program that weft has no literal for."""

    template = "`{name}` is no value of a program: outside it is a {kind}"
    hint = "outside values are strings, numbers and lists of them; a function under @weft.tool "
    hint += "can give others"


class NoTool(NotInPython):
    """A call of Python that is not declared as a tool."""

    template = "`{name}` is neither a tool nor a dataclass"
    hint = "put @weft.tool above the function, with types for what it takes and returns"


class ExpressionReader:
    """Reads the expressions of one function; collects the tools and records that they name."""

    def __init__(self, names: Mapping[str, Any], source: Source) -> None:
        self.names = names
        self.source = source
        self.records: dict[str, ast.Record] = {}
        self.tools: dict[str, Tool] = {}
        self.programs: dict[str, Any] = {}
        self.bound: set[str] = set()
        self.stream = ""
        self.types = TypeReader(names, source, self.records)

    def read(self, node: python.expr) -> ast.Expression:
        """Return the expression; raises NotInPython for what weft cannot say."""
        span = self.span(node)
        match node:
            case python.Constant(value=str(text)):
                return ast.Text((text,) if text else (), span=span)
            case python.Constant(value=int() | float() | None as value):
                return ast.Literal(value, span=span)
            case python.JoinedStr(values=values):
                return ast.Text(self._parts(values), span=span)
            case python.Name(id=name):
                return self._name(name, span)
            case python.UnaryOp(op=python.Not(), operand=operand):
                return ast.Unary("not", self.read(operand), span=span)
            case python.UnaryOp(op=python.USub(), operand=operand):
                return negative(self.read(operand), span)
            case python.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                sign = _OPERATORS[type(op)]
                return ast.Binary(sign, self.read(left), self.read(right), span=span)
            case python.BoolOp(op=op, values=values):
                return self._logical("and" if isinstance(op, python.And) else "or", values, span)
            case python.Compare(left=left, ops=ops, comparators=others):
                return self._compare(left, ops, others, span)
            case python.Call():
                return self._call(node, span)
            case python.Attribute(value=value, attr=name):
                return ast.FieldOf(self.read(value), name, span=span)
            case python.Subscript(value=value, slice=index) if not _is_slice(index):
                return ast.Index(self.read(value), self.read(index), span=span)
            case python.List(elts=elements):
                return ast.ListOf(tuple(self.read(item) for item in elements), span=span)
        raise refused(node, span)

    def text(self, node: python.expr) -> ast.Expression:
        """Return what a string statement appends: a string, or one value as text."""
        value = self.read(node)
        return value if isinstance(value, ast.Text) else ast.Text((value,), span=value.span)

    def options(self, keywords: list[python.keyword]) -> tuple[ast.Argument, ...]:
        """Return keyword arguments as options."""
        return tuple(
            ast.Argument(item.arg or "**", self._option(item.value), span=self.span(item))
            for item in keywords
        )

    def _option(self, node: python.expr) -> ast.Expression:
        """Read an option's value; `matching("...")` is a pattern."""
        if isinstance(node, python.Call) and last_name(node.func) == "matching" and node.args:
            pattern = self.read(node.args[0])
            if isinstance(pattern, ast.Text) and pattern.constant is not None:
                return ast.Pattern(pattern.constant, span=self.span(node))
        return self.read(node)

    def span(self, node: python.AST) -> Span:
        """Return where a piece of syntax stands."""
        return span_of(node, self.source)

    def _parts(self, values: list[python.expr]) -> tuple[str | ast.Expression, ...]:
        parts: list[str | ast.Expression] = []
        for value in values:
            if isinstance(value, python.Constant):
                parts.append(str(value.value))
                continue
            assert isinstance(value, python.FormattedValue)
            if value.format_spec is not None or value.conversion != -1:
                raise refused(value, self.span(value.value))
            parts.append(self.read(value.value))
        return tuple(parts)

    def _name(self, name: str, span: Span) -> ast.Expression:
        if name not in self.bound and name in self.names:
            value = self.names[name]
            known = _captured(value, span)
            if known is not None:
                return known
            if isinstance(value, list | tuple):
                what = f"the list `{name}`, whose elements are not all texts, numbers or lists,"
                raise NotInPython(what=what, span=span)
            if not hasattr(value, "declaration"):  # of a tool the checker knows more
                raise OfOutside(name=name, kind=type(value).__name__, span=span)
        if name == self.stream and name not in self.bound:
            hint = f"bind what the model says: answer = {name}.gen()"
            raise NotInPython(what="the stream as a value", hint=hint, span=span)
        return ast.Name(name, span=span)

    def _logical(self, op: str, values: list[python.expr], span: Span) -> ast.Expression:
        result = self.read(values[0])
        for value in values[1:]:
            result = ast.Logical(op, result, self.read(value), span=span)
        return result

    def _compare(
        self, left: python.expr, ops: list[python.cmpop], others: list[python.expr], span: Span
    ) -> ast.Expression:
        if len(ops) > 1:
            raise ChainedComparison(span=span)
        if type(ops[0]) not in _OPERATORS:
            raise NotInPython(what="`is`", hint="compare with ==", span=span)
        sign = _OPERATORS[type(ops[0])]
        result = ast.Binary(sign, self.read(left), self.read(others[0]), span=span)
        return ast.Unary("not", result, span=span) if isinstance(ops[0], python.NotIn) else result

    def run(self, how: str, node: python.Call) -> ast.Run:
        """Return `s.call(other, ...)` or `s.inline(other, ...)`; `other` is a program."""
        span = self.span(node)
        meant = self._attribute(node.args[0]) if node.args else None
        if not hasattr(type(meant), "tools"):
            hint = f"write {self.stream}.{how}(other, argument), where other is a @weft.program"
            raise NotInPython(what=f"this {how}", hint=hint, span=span)
        assert meant is not None
        self.programs[meant.name] = meant
        arguments = tuple(self.read(item) for item in node.args[1:])
        return ast.Run(how, meant.name, arguments, self.options(node.keywords), span=span)

    def _on_stream(self, node: python.Call, name: str, span: Span) -> ast.Expression:
        if name == "call":
            return self.run("call", node)
        if name == "score" and not node.keywords:
            return ast.Call("score", tuple(self.read(item) for item in node.args), span=span)
        hint = f"name = {self.stream}.{name}(...) stands on a line of its own"
        raise NotInPython(what=f"`{self.stream}.{name}` in an expression", hint=hint, span=span)

    def _call(self, node: python.Call, span: Span) -> ast.Expression:
        if isinstance(node.func, python.Attribute) and isinstance(node.func.value, python.Name):
            if node.func.value.id == self.stream:
                return self._on_stream(node, node.func.attr, span)
        if isinstance(node.func, python.Attribute):
            meant, owner = self._attribute(node.func), self._attribute(node.func.value)
            if not isinstance(meant, Tool) and not isinstance(owner, ModuleType | type):
                return self._method(node, node.func, span)
        arguments = tuple(self.read(item) for item in node.args)
        named = self.options(node.keywords)
        name = last_name(node.func)
        meant = self._attribute(node.func)
        if isinstance(meant, Tool):
            self.tools[meant.name] = meant
            return ast.Call(meant.name, arguments, named, span=span)
        if isinstance(meant, type) and dataclasses.is_dataclass(meant):
            self.types.record(meant)
            fields = [field.name for field in self.records[meant.__name__].fields]
            plain = tuple(
                ast.Argument(field, value, span=value.span)
                for field, value in zip(fields, arguments, strict=False)
            )
            return ast.Call(meant.__name__, arguments[len(fields) :], plain + named, span=span)
        told = name in BUILTINS or hasattr(type(meant), "file")  # of a program the checker tells
        if meant is not None and not told:
            raise NoTool(name=name, span=span)
        return ast.Call(name, arguments, named, span=span)

    def _method(self, node: python.Call, function: python.Attribute, span: Span) -> ast.Method:
        receiver = self.read(function.value)
        if node.keywords:
            hint = f"give it by its place: .{function.attr}(VALUE)"
            raise NotInPython(what="a named argument of a method", hint=hint, span=span)
        arguments = tuple(self.read(item) for item in node.args)
        return ast.Method(receiver, function.attr, arguments, span=span)

    def _attribute(self, node: python.expr) -> Any:
        """Return what `x` or `module.x` is in Python, where it is not bound in the program."""
        if isinstance(node, python.Name):
            return None if node.id in self.bound else self.names.get(node.id)
        if isinstance(node, python.Attribute):
            return getattr(self._attribute(node.value), node.attr, None)
        return None


def _captured(value: Any, span: Span, inside: tuple[int, ...] = ()) -> ast.Expression | None:
    """Return a Python value from outside the program as a literal, as it is when it is read.

    `inside`: the lists that lead to it, by id; one that holds itself has no literal.
    """
    if isinstance(value, str):
        return ast.Text((value,) if value else (), span=span)
    if value is None or isinstance(value, bool | int | float):
        return ast.Literal(value, span=span)
    if len(inside) > DEEPEST:
        raise TooDeep(hint=DEEP_HINT, span=span)
    if isinstance(value, list | tuple) and id(value) not in inside:
        within = (*inside, id(value))
        items = [item for one in value if (item := _captured(one, span, within)) is not None]
        return ast.ListOf(tuple(items), span=span) if len(items) == len(value) else None
    return None


def _is_slice(node: python.expr) -> bool:
    return isinstance(node, python.Slice)
