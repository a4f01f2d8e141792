"""The little expression language of kernels: `tile.map`, grids and launch facts are written in it.

An expression is a Python expression over names, numbers, arithmetic, comparisons and a few
functions. Each reader of tile IR (emitters, interpreter, prover) is a `Handler` over it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar

from .diagnostics import WeftSyntaxError

T = TypeVar("T")

FUNCTIONS = {
    "where": 3, "min": 2, "max": 2, "exp2": 1, "log2": 1, "sqrt": 1, "rsqrt": 1, "tanh": 1,
    "abs": 1, "floor": 1, "ceildiv": 2, "f32": 1, "i32": 1, "bits_f32": 1, "bits_i32": 1,
    "umulhi": 2, "dot4": 3,
}  # fmt: skip
"""Functions and their arity. `f32`, `i32` cast; `bits_f32` reads 32 bits as a float, `bits_i32`
a float as 32 bits. `dot4(a, b, c)` is c plus the product of the four signed bytes of a and of b."""

BINARY = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
COMPARISONS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


class ExpressionError(WeftSyntaxError):
    """An expression that the language does not have."""

    template = "in the expression {text!r}: {problem}"


class Handler(Generic[T]):
    """One reader's meaning of each kind of node; subclasses give every method."""

    def name(self, name: str) -> T:
        """A variable."""
        raise NotImplementedError(name)

    def number(self, value: int | float) -> T:
        """A literal."""
        raise NotImplementedError(value)

    def unary(self, op: str, operand: T) -> T:
        """`-x` or `~x`."""
        raise NotImplementedError(op)

    def binary(self, op: str, left: T, right: T) -> T:
        """An arithmetic or bitwise operation; `op` as written."""
        raise NotImplementedError(op)

    def compare(self, op: str, left: T, right: T) -> T:
        """One comparison; chains arrive as several joined by `&`."""
        raise NotImplementedError(op)

    def call(self, function: str, arguments: list[T]) -> T:
        """A function of `FUNCTIONS`."""
        raise NotImplementedError(function)

    def element(self, name: str) -> T:
        """`name[*]`: any element of a buffer (in launch facts only)."""
        raise NotImplementedError(name)

    def at(self, name: str, index: T) -> T:
        """`name[index]`: one element of a one-dimensional buffer (in launch facts only)."""
        raise NotImplementedError(name)


Reader = Callable[[Handler[Any]], Any]
"""An expression as a function of what reads it."""


def read(text: str, handler: Handler[T]) -> T:
    """Read an expression with a handler; raises ExpressionError."""
    return _reader(text)(handler)


def problem_of(text: str) -> str | None:
    """Return what is wrong with an expression, if something is."""
    try:
        _reader(text)
    except ExpressionError as error:
        return error.message
    return None


@cache
def names(text: str) -> tuple[str, ...]:
    """Return the variables of an expression, in order of first appearance."""
    found = dict.fromkeys(
        node.id
        for node in ast.walk(_parse(text))
        if isinstance(node, ast.Name) and node.id not in FUNCTIONS
    )
    return tuple(found)


@cache
def offsets(text: str) -> tuple[tuple[str, int], ...]:
    """Return the `name[i + offset]` of a launch fact, as (name, offset), in order; raises
    ExpressionError for another index with `i`."""
    found = []
    for node in ast.walk(_parse(text)):
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Name(id="i")):
                found.append((name, 0))
            case ast.Subscript(
                value=ast.Name(id=name),
                slice=ast.BinOp(
                    left=ast.Name(id="i"),
                    op=ast.Add() | ast.Sub() as op,
                    right=ast.Constant(value=int(by)),
                ),
            ):
                found.append((name, -by if isinstance(op, ast.Sub) else by))
            case ast.Subscript(slice=index) if "i" in names(ast.unparse(index)):
                problem = f"an index is i, or i plus or minus a number, not {ast.unparse(index)}"
                raise ExpressionError(text=text, problem=problem)
    return tuple(found)


@cache
def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.replace("[*]", "[...]"), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(text=text, problem=str(error.msg)) from None


@cache
def _reader(text: str) -> Reader:
    """Return the expression as a function of its handler: kernels are read again and again."""
    return _compiled(_parse(text), text)


def _compiled(node: ast.expr, text: str) -> Reader:
    def go(inner: ast.expr) -> Reader:
        return _compiled(inner, text)

    match node:
        case ast.Name(id=name):
            return lambda handler: handler.name(name)
        case ast.Constant(value=bool() as value):
            return lambda handler: handler.number(int(value))
        case ast.Constant(value=int() | float() as value):
            return lambda handler: handler.number(value)
        case ast.UnaryOp(op=ast.USub() | ast.Invert() as op, operand=operand):
            sign, of = "-" if isinstance(op, ast.USub) else "~", go(operand)
            return lambda handler: handler.unary(sign, of(handler))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            symbol, one, two = BINARY[type(op)], go(left), go(right)
            return lambda handler: handler.binary(symbol, one(handler), two(handler))
        case ast.Compare(left=left, ops=ops, comparators=rights) if all(
            type(op) in COMPARISONS for op in ops
        ):
            sides = [go(side) for side in (left, *rights)]
            result = _comparison(COMPARISONS[type(ops[0])], *sides[:2])
            for op, *pair in zip(ops[1:], sides[1:], sides[2:], strict=False):
                result = _both(result, _comparison(COMPARISONS[type(op)], *pair))
            return result
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
            if FUNCTIONS.get(function) != len(arguments):
                raise ExpressionError(
                    text=text, problem=f"no function {function} of {len(arguments)} arguments"
                )
            given = [go(argument) for argument in arguments]
            return lambda handler: handler.call(function, [each(handler) for each in given])
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=value)) if (
            value is Ellipsis
        ):
            return lambda handler: handler.element(name)
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            place = go(index)
            return lambda handler: handler.at(name, place(handler))
    raise ExpressionError(text=text, problem=f"{ast.unparse(node)!r} is not in the language")


def _comparison(symbol: str, left: Reader, right: Reader) -> Reader:
    return lambda handler: handler.compare(symbol, left(handler), right(handler))


def _both(one: Reader, two: Reader) -> Reader:
    return lambda handler: handler.binary("&", one(handler), two(handler))
