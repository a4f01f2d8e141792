"""The little expression language of kernels: `tile.map`, grids and launch facts are written in it.

An expression is a Python expression over names, numbers, arithmetic, comparisons and a few
functions. Each reader of tile IR (emitters, interpreter, prover) is a `Handler` over it.
"""

from __future__ import annotations

import ast
from functools import cache
from typing import Generic, TypeVar

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


def read(text: str, handler: Handler[T]) -> T:
    """Read an expression with a handler; raises ExpressionError."""
    return _read(_parse(text), text, handler)


def names(text: str) -> list[str]:
    """Return the variables of an expression, in order of first appearance."""
    found = dict.fromkeys(
        node.id
        for node in ast.walk(_parse(text))
        if isinstance(node, ast.Name) and node.id not in FUNCTIONS
    )
    return list(found)


def offsets(text: str) -> list[tuple[str, int]]:
    """Return the `name[i + offset]` of a launch fact, as (name, offset), in order."""
    found = []
    for node in ast.walk(_parse(text)):
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Name(id="i")):
                found.append((name, 0))
            case ast.Subscript(
                value=ast.Name(id=name),
                slice=ast.BinOp(left=ast.Name(id="i"), op=op, right=ast.Constant(value=int(by))),
            ):
                found.append((name, -by if isinstance(op, ast.Sub) else by))
    return found


@cache
def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.replace("[*]", "[...]"), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(text=text, problem=str(error.msg)) from None


def _read(node: ast.expr, text: str, handler: Handler[T]) -> T:
    def go(inner: ast.expr) -> T:
        return _read(inner, text, handler)

    match node:
        case ast.Name(id=name):
            return handler.name(name)
        case ast.Constant(value=bool() as value):
            return handler.number(int(value))
        case ast.Constant(value=int() | float() as value):
            return handler.number(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return handler.unary("-", go(operand))
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return handler.unary("~", go(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return handler.binary(BINARY[type(op)], go(left), go(right))
        case ast.Compare(left=left, ops=ops, comparators=rights):
            lefts = [left, *rights[:-1]]
            parts = [
                handler.compare(COMPARISONS[type(op)], go(a), go(b))
                for a, op, b in zip(lefts, ops, rights, strict=True)
            ]
            result = parts[0]
            for part in parts[1:]:
                result = handler.binary("&", result, part)
            return result
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
            if FUNCTIONS.get(function) != len(arguments):
                raise ExpressionError(
                    text=text, problem=f"no function {function} of {len(arguments)} arguments"
                )
            return handler.call(function, [go(argument) for argument in arguments])
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=value)) if (
            value is Ellipsis
        ):
            return handler.element(name)
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            return handler.at(name, go(index))
    raise ExpressionError(text=text, problem=f"{ast.unparse(node)!r} is not in the language")
