"""From lark's parse tree to the AST: one method a grammar rule."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

from lark import Token, Transformer, Tree, v_args
from lark.tree import Meta

from ...ir.source import Source, Span
from .. import ast
from ..faults import Faults
from .strings import Origin, ParseExpression, PlainStringWanted, read_parts, unquote
from .syntax_errors import UnknownPattern
from .type_files import FILE_TYPES, UNREAD, read_type_file

_CONSTANTS = {"true": True, "false": False, "none": None}


def build(
    tree: Tree[Token], source: Source, origin: Origin, parse_expression: ParseExpression,
    faults: Faults,
) -> Any:  # fmt: skip
    """Return the AST of a tree; its text stands in `source` at `origin`.

    `faults` hears of files that types name and that cannot be read.
    """
    return _Builder(source, origin, parse_expression, faults).transform(tree)


@v_args(meta=True)
class _Builder(Transformer[Token, Any]):
    """Builds the AST of one stretch of a source that begins at `origin`."""

    def __init__(
        self, source: Source, origin: Origin, parse_expression: ParseExpression, faults: Faults
    ) -> None:
        super().__init__()
        self._faults = faults
        self._source = source
        self._origin = origin
        self._parse_expression = parse_expression

    # Declarations

    def file(self, meta: Meta, children: list[Any]) -> ast.File:
        doc, *declarations = children
        return ast.File(tuple(declarations), doc, self._source, span=self._span(meta))

    def docstring(self, meta: Meta, children: list[Token]) -> str:
        return cleandoc(unquote(children[0])[0])

    def record(self, meta: Meta, children: list[Any]) -> ast.Record:
        name, doc, *fields = children
        return ast.Record(str(name), tuple(fields), doc, span=self._header(meta, name))

    def field(self, meta: Meta, children: list[Any]) -> ast.Field:
        return ast.Field(str(children[0]), children[1], span=self._token(children[0]))

    def tool(self, meta: Meta, children: list[Any]) -> ast.Tool:
        pure, name, parameters, returns, timeout = children
        seconds = None if timeout is None else float(timeout.value)
        return ast.Tool(
            str(name), parameters or (), returns, seconds, pure is not None,
            span=self._header(meta, name),
        )  # fmt: skip

    def program(self, meta: Meta, children: list[Any]) -> ast.Program:
        name, parameters, returns, body = children
        doc, body = self._split_docstring(body)
        return ast.Program(
            str(name), parameters or (), returns, body, doc, span=self._header(meta, name)
        )

    def parameters(self, meta: Meta, children: list[Any]) -> tuple[ast.Parameter, ...]:
        return tuple(children)

    def parameter(self, meta: Meta, children: list[Any]) -> ast.Parameter:
        name, type, default = children
        return ast.Parameter(str(name), type, default, span=self._token(name))

    # Types

    def named_type(self, meta: Meta, children: list[Any]) -> ast.Type:
        name, options = children
        return ast.Type(str(name), (), options or (), span=self._span(meta))

    def range_type(self, meta: Meta, children: list[Any]) -> ast.Type:
        name, low, high, options = children
        return ast.Type(str(name), (low, high), options or (), span=self._span(meta))

    def type_with_arguments(self, meta: Meta, children: list[Any]) -> ast.Type:
        name, arguments, options = children
        return ast.Type(str(name), arguments, options or (), span=self._span(meta))

    def type_arguments(self, meta: Meta, children: list[Any]) -> tuple[ast.Type | str, ...]:
        return tuple(self._plain(item, "a choice") for item in children if item is not None)

    def type_of_text(self, meta: Meta, children: list[Any]) -> ast.Type:
        name, text, options = children
        span = self._span(meta)
        arguments = (text,)
        if name in FILE_TYPES:
            content = UNREAD[name]
            with self._faults.attempt():
                content = read_type_file(name, text, self._source, span)
            arguments += (content,)
        return ast.Type(str(name), arguments, options or (), span=span)

    def text_token(self, meta: Meta, children: list[Token]) -> str:
        return unquote(children[0])[0]

    def signed(self, meta: Meta, children: list[Any]) -> int:
        minus, digits = children
        return -int(digits) if minus else int(digits)

    # Statements

    def block(self, meta: Meta, children: list[ast.Statement]) -> tuple[ast.Statement, ...]:
        return tuple(children)

    def append(self, meta: Meta, children: list[Any]) -> ast.Append:
        return ast.Append(children[0], span=self._span(meta))

    def message(self, meta: Meta, children: list[Any]) -> ast.Message:
        role, statement = children
        return ast.Message(str(role), (statement,), span=self._span(meta))

    def message_block(self, meta: Meta, children: list[Any]) -> ast.Message:
        role, body = children
        return ast.Message(str(role), body, span=self._token(role))

    def gen(self, meta: Meta, children: list[Any]) -> ast.Gen:
        name, options, type = children
        span = self._span(meta)
        return ast.Gen(str(name), type or ast.Type("str", span=span), options or (), span=span)

    def select(self, meta: Meta, children: list[Any]) -> ast.Select:
        name, options, choices, after = children
        if isinstance(choices, ast.Call) and not choices.arguments:
            named = all(item.name == "by" for item in choices.named)
            if named and choices.named:  # select x from options(by="greedy")
                after, choices = choices.named, ast.Name(choices.function, span=choices.span)
        given = (*(options or ()), *(after or ()))
        return ast.Select(str(name), choices, given, span=self._span(meta))

    def options(self, meta: Meta, children: list[Any]) -> tuple[ast.Argument, ...]:
        return tuple(item for item in children if item is not None)

    def option(self, meta: Meta, children: list[Any]) -> ast.Argument:
        return ast.Argument(str(children[0]), children[1], span=self._span(meta))

    def pattern_of(self, meta: Meta, children: list[Any]) -> ast.Pattern:
        name, text = children
        if name != "regex":
            hint = 'a text is "...", and a pattern, as stop has, is regex "..."'
            raise UnknownPattern(
                pattern=f"{name} ...", hint=hint, span=self._span(meta), source=self._source
            )
        return ast.Pattern(text, span=self._span(meta))

    def fork_each(self, meta: Meta, children: list[Any]) -> ast.Fork:
        variable, over, name, body = children
        return ast.Fork(str(variable), over, str(name), body, span=self._header(meta, name))

    def fork_count(self, meta: Meta, children: list[Any]) -> ast.Fork:
        count, name, body = children
        return ast.Fork(None, count, str(name), body, span=self._header(meta, name))

    def yield_(self, meta: Meta, children: list[Any]) -> ast.Yield:
        return ast.Yield(children[0], span=self._span(meta))

    def for_(self, meta: Meta, children: list[Any]) -> ast.For:
        variable, over, body = children
        return ast.For(str(variable), over, body, span=self._header(meta, over))

    def while_(self, meta: Meta, children: list[Any]) -> ast.While:
        condition, limit, body = children
        return ast.While(condition, int(limit), body, span=self._header(meta, limit))

    def if_(self, meta: Meta, children: list[Any]) -> ast.If:
        condition, then, *branches, otherwise = children
        rest: tuple[ast.Statement, ...] = otherwise or ()
        for test, body, span in reversed(branches):
            rest = (ast.If(test, body, rest, span=span),)
        return ast.If(condition, then, rest, span=self._header(meta, condition))

    def elif_(self, meta: Meta, children: list[Any]) -> tuple[Any, Any, Span]:
        condition, body = children
        return condition, body, self._header(meta, condition)

    def match(self, meta: Meta, children: list[Any]) -> ast.Match:
        subject, *cases = children
        return ast.Match(subject, tuple(cases), span=self._header(meta, subject))

    def case(self, meta: Meta, children: list[Any]) -> ast.Case:
        *patterns, body = children
        span = self._header(meta, patterns[-1][1])
        return make_case([pattern for pattern, _ in patterns], body, span, self._source)

    def literal_pattern(self, meta: Meta, children: list[Any]) -> tuple[Any, Span]:
        return children[0], self._span(meta)

    def named_pattern(self, meta: Meta, children: list[Any]) -> tuple[Any, Span]:
        kind, name = children
        return (str(kind), None if name is None else str(name)), self._span(meta)

    def join(self, meta: Meta, children: list[Any]) -> ast.Join:
        how, options, name = children
        bound = None if name is None else str(name)
        return ast.Join(str(how), options, bound, span=self._span(meta))

    def with_(self, meta: Meta, children: list[Any]) -> ast.With:
        kind, value, body = children
        return ast.With(str(kind), value, body, span=self._header(meta, value))

    def let(self, meta: Meta, children: list[Any]) -> ast.Assign:
        name, type, value = children
        return ast.Assign(str(name), value, type, span=self._span(meta))

    def assign(self, meta: Meta, children: list[Any]) -> ast.Assign:
        name, sign, value = children
        if sign.type == "AUGMENTED":
            old = ast.Name(str(name), span=self._token(name))
            value = ast.Binary("+", old, value, span=self._span(meta))
        return ast.Assign(str(name), value, declares=False, span=self._span(meta))

    def return_(self, meta: Meta, children: list[Any]) -> ast.Return:
        return ast.Return(children[0], span=self._span(meta))

    def evaluate(self, meta: Meta, children: list[Any]) -> ast.Evaluate:
        return ast.Evaluate(children[0], span=self._span(meta))

    # Expressions

    def disjunction(self, meta: Meta, children: list[Any]) -> ast.Logical:
        return ast.Logical("or", children[0], children[1], span=self._span(meta))

    def conjunction(self, meta: Meta, children: list[Any]) -> ast.Logical:
        return ast.Logical("and", children[0], children[1], span=self._span(meta))

    def not_(self, meta: Meta, children: list[Any]) -> ast.Unary:
        return ast.Unary("not", children[0], span=self._span(meta))

    def binary(self, meta: Meta, children: list[Any]) -> ast.Binary:
        left, op, right = children
        return ast.Binary(str(op), left, right, span=self._span(meta))

    def contained(self, meta: Meta, children: list[Any]) -> ast.Binary:
        return ast.Binary("in", children[0], children[1], span=self._span(meta))

    def not_contained(self, meta: Meta, children: list[Any]) -> ast.Unary:
        return ast.Unary("not", self.contained(meta, children), span=self._span(meta))

    def negative(self, meta: Meta, children: list[Any]) -> ast.Expression:
        return negative(children[1], self._span(meta))

    def method(self, meta: Meta, children: list[Any]) -> ast.Method:
        receiver, name, arguments = children
        return ast.Method(receiver, str(name), arguments or (), span=self._span(meta))

    def field_of(self, meta: Meta, children: list[Any]) -> ast.FieldOf:
        return ast.FieldOf(children[0], str(children[1]), span=self._span(meta))

    def index(self, meta: Meta, children: list[Any]) -> ast.Index:
        return ast.Index(children[0], children[1], span=self._span(meta))

    def call(self, meta: Meta, children: list[Any]) -> ast.Call:
        name, arguments = children
        given = arguments or ()
        named = tuple(item for item in given if isinstance(item, ast.Argument))
        plain = tuple(item for item in given if not isinstance(item, ast.Argument))
        return ast.Call(str(name), plain, named, span=self._span(meta))

    def run(self, meta: Meta, children: list[Any]) -> ast.Run:
        return self._run("call", meta, children)

    def inline(self, meta: Meta, children: list[Any]) -> ast.Run:
        return self._run("inline", meta, children)

    def _run(self, how: str, meta: Meta, children: list[Any]) -> ast.Run:
        call = self.call(meta, children)
        return ast.Run(how, call.function, call.arguments, call.named, span=call.span)

    def arguments(self, meta: Meta, children: list[Any]) -> tuple[Any, ...]:
        return tuple(item for item in children if item is not None)

    elements = arguments

    def list_of(self, meta: Meta, children: list[Any]) -> ast.ListOf:
        return ast.ListOf(children[0] or (), span=self._span(meta))

    def parenthesised(self, meta: Meta, children: list[Any]) -> ast.Expression:
        return children[0]

    def name(self, meta: Meta, children: list[Any]) -> ast.Name:
        return ast.Name(str(children[0]), span=self._span(meta))

    def number(self, meta: Meta, children: list[Token]) -> ast.Literal:
        value = int(children[0]) if children[0].type == "INT" else float(children[0])
        return ast.Literal(value, span=self._span(meta))

    def constant(self, meta: Meta, children: list[Any]) -> ast.Literal:
        return ast.Literal(_CONSTANTS[str(children[0])], span=self._span(meta))

    def string(self, meta: Meta, children: list[Token]) -> ast.Text:
        token, span = children[0], self._span(meta)
        place = (span.line, span.column)
        parts = read_parts(token, place, self._source, self._parse_expression)
        return ast.Text(parts, span=span)

    # Places

    def _span(self, meta: Meta) -> Span:
        if meta.empty:
            return Span(self._source.name, *self._origin, *self._origin)
        return self._place(meta.line, meta.column, meta.end_line, meta.end_column)

    def _token(self, token: Token) -> Span:
        return self._place(
            token.line or 1, token.column or 1, token.end_line or 1, token.end_column or 1
        )

    def _header(self, meta: Meta, last: Any) -> Span:
        """Return the span of a compound statement's first line, up to `last`."""
        if not isinstance(last, Span):
            last = self._token(last) if isinstance(last, Token) else last.span
        return self._span(meta).to(last)

    def _place(self, line: int, column: int, end_line: int, end_column: int) -> Span:
        first, shift = self._origin
        return Span(
            self._source.name,
            line + first - 1,
            column + (shift - 1 if line == 1 else 0),
            end_line + first - 1,
            end_column + (shift - 1 if end_line == 1 else 0),
        )

    def _plain(self, item: ast.Type | ast.Text, what: str) -> ast.Type | str:
        if isinstance(item, ast.Type):
            return item
        if item.constant is None:
            raise PlainStringWanted(what=what, span=item.span, source=self._source)
        return item.constant

    def _split_docstring(
        self, body: tuple[ast.Statement, ...]
    ) -> tuple[str | None, tuple[ast.Statement, ...]]:
        """Take a triple-quoted string that opens a program as its documentation."""
        first = body[0]
        if not (isinstance(first, ast.Append) and isinstance(first.text, ast.Text) and first.span):
            return None, body
        line = self._source.line(first.span.line)
        if not line.startswith('"""', first.span.column - 1) or first.text.constant is None:
            return None, body
        return cleandoc(first.text.constant), body[1:]


def make_case(
    patterns: list[Any], body: tuple[ast.Statement, ...], span: Span, source: Source
) -> ast.Case:
    """Return the case of some patterns: literals, or one (kind, name)."""
    literals = [item for item in patterns if isinstance(item, ast.Expression)]
    if len(literals) == len(patterns):
        return ast.Case("literal", tuple(literals), None, body, span=span)
    kind, name = next(item for item in patterns if not isinstance(item, ast.Expression))
    if kind == "_" and name is None:
        kind = "any"
    if len(patterns) > 1 or kind not in {"error", "value", "any"} or (kind == "value") > bool(name):
        raise UnknownPattern(pattern=f"{kind} {name or ''}".strip(), span=span, source=source)
    return ast.Case(kind, (), name, body, span=span)


def negative(operand: ast.Expression, span: Span | None) -> ast.Expression:
    """Return `-operand`; a negative number is a literal."""
    if isinstance(operand, ast.Literal) and isinstance(operand.value, int | float):
        if not isinstance(operand.value, bool):
            return ast.Literal(-operand.value, span=span)
    return ast.Unary("neg", operand, span=span)
