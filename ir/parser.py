"""Text to IR: the inverse of the printer, for every dialect."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, v_args

from .core import Module, Operation, Region, Symbol, Table, Term, Value
from .diagnostics import WeftNameError, WeftSyntaxError
from .saved_grammar import parser_of
from .source import Source, Span
from .strict_json import whole_number

MOST_NESTED = 200
"""Regions, lists and types that may stand in one another: all readers of IR are recursive."""

_BRACKETS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|([\[{<])|([\]}>])')


class IRSyntaxError(WeftSyntaxError):
    """IR text that does not parse."""

    template = "this is no IR text: {problem}"
    hint = "one operation reads: %result = dialect.name %operand, key = value {{ ... }} : type"


class UndefinedValue(WeftNameError):
    """A use of a value that nothing defines before it."""

    template = "%{name} is used before it is defined"


def parse_module(text: str, name: str = "<ir>") -> Module:
    """Parse a module's text form; raises IRSyntaxError and UndefinedValue with spans."""
    source = Source(name, text)
    if _nesting(text) > MOST_NESTED:
        raise _wrong(source, "it is nested too deeply to be read")
    try:
        shapes = _lark().parse(text)
    except UnexpectedInput as error:
        line, column = max(error.line, 1), max(error.column, 1)
        span = Span(name, line, column, line, column + 1)
        token = getattr(error, "token", None)
        problem = f"unexpected {str(token)!r}" if token else "unexpected text"
        raise IRSyntaxError(problem=problem, span=span, source=source) from None
    except ValueError as error:  # of a literal
        raise _wrong(source, str(error)) from None
    return _Builder(source).module(shapes)


def _wrong(source: Source, problem: str) -> IRSyntaxError:
    return IRSyntaxError(problem=problem, span=Span(source.name, 1, 1, 1, 2), source=source)


def _nesting(text: str) -> int:
    """Return how many brackets of a text are open at once at most."""
    depth = most = 0
    for found in _BRACKETS.finditer(text):
        depth += {1: 1, 2: -1}.get(found.lastindex or 0, 0)
        most = max(most, depth)
    return most


@cache
def _lark() -> Lark:
    """Return the parser, which shapes what it reads at once: a tree of it took as long again."""
    return parser_of(Path(__file__).parent / "text.lark", start="module", transformer=_Shape(),
                     propagate_positions=False, maybe_placeholders=True)  # fmt: skip


@v_args(inline=True)
class _Shape(Transformer):
    """Turns what lark reads into plain tuples; names are resolved afterwards, in text order."""

    def string(self, token: Token) -> str:
        return json.loads(token)

    def integer(self, token: Token) -> int:
        return whole_number(token)

    def floating(self, token: Token) -> float:
        return float(token)

    def keyword(self, token: Token) -> bool | None:
        return {"true": True, "false": False, "null": None}[str(token)]

    def symbol(self, token: Token) -> Symbol:
        return Symbol(str(token)[1:])

    def sequence(self, *items: Any) -> tuple[Any, ...]:
        return items

    def table(self, *entries: Any) -> Table:
        return Table(entries)

    def key(self, token: Token) -> str:
        return json.loads(token) if token.type == "STRING" else str(token)

    def entry(self, key: str, value: Any) -> tuple[str, Any]:
        return key, value

    def term(self, name: Token, *parameters: Any) -> Any:
        if str(name) == "float" and len(parameters) == 1 and isinstance(parameters[0], Term):
            special = {"nan": "nan", "inf": "inf", "minus_inf": "-inf"}.get(parameters[0].name)
            if special is not None:
                return float(special)
        return Term(str(name), parameters)

    def results(self, *tokens: Token) -> tuple[Token, ...]:
        return tokens

    def operand(self, token: Token) -> tuple[str, Any]:
        return "operand", token

    def attribute_item(self, key: str, value: Any) -> tuple[str, Any]:
        return "attribute", (key, value)

    def items(self, *items: Any) -> tuple[Any, ...]:
        return items

    def argument(self, token: Token, type: Term) -> tuple[Token, Term]:
        return token, type

    def arguments(self, *arguments: Any) -> tuple[Any, ...]:
        return arguments

    def region(self, arguments: Any, *operations: Any) -> tuple[Any, Any]:
        return arguments or (), operations

    def region_list(self, *regions: Any) -> tuple[Any, ...]:
        return regions

    def loc(self, name: Token, *numbers: Token) -> Span:
        line, column, end_line, end_column = (int(number) for number in numbers)
        return Span(json.loads(name), line, column, end_line, end_column)

    def operation(self, results: Any, name: Token, items: Any, regions: Any, *rest: Any) -> Any:
        *types, loc = rest
        return results or (), name, items or (), regions, [t for t in types if t is not None], loc

    def module(self, *operations: Any) -> tuple[Any, ...]:
        return operations


class _Builder:
    """Resolves names to values, scope by scope."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def module(self, shapes: Any) -> Module:
        return Module(self._operations(shapes, {}))

    def _operations(self, shapes: Any, scope: dict[str, Value]) -> tuple[Operation, ...]:
        return tuple(self._operation(shape, scope) for shape in shapes)

    def _operation(self, shape: Any, scope: dict[str, Value]) -> Operation:
        result_tokens, name, items, regions, types, loc = shape
        span = loc or self._span(name)
        if len(result_tokens) != len(types):
            problem = f"{len(result_tokens)} results but {len(types)} types"
            raise IRSyntaxError(problem=problem, span=self._span(name), source=self.source)
        operands = tuple(self._use(item, scope) for tag, item in items if tag == "operand")
        attributes = tuple(item for tag, item in items if tag == "attribute")
        inner = tuple(self._region(region, scope) for region in regions)
        results = tuple(
            Value(str(token)[1:], type) for token, type in zip(result_tokens, types, strict=True)
        )
        scope.update({value.name: value for value in results})
        return Operation(str(name), operands, attributes, inner, results, span)

    def _region(self, shape: Any, scope: dict[str, Value]) -> Region:
        arguments, operations = shape
        values = tuple(Value(str(token)[1:], type) for token, type in arguments)
        inner = scope | {value.name: value for value in values}
        return Region(values, self._operations(operations, inner))

    def _use(self, token: Token, scope: dict[str, Value]) -> Value:
        value = scope.get(str(token)[1:])
        if value is None:
            span = self._span(token)
            raise UndefinedValue(name=str(token)[1:], span=span, source=self.source)
        return value

    def _span(self, token: Token) -> Span:
        at: Any = token  # a token of parsed text has all four
        return Span(self.source.name, at.line, at.column, at.end_line, at.end_column)
