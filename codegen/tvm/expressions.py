"""Expressions of kernels as TVMScript text with a dtype: the TVM emitter's `Handler`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.expression import Handler, read
from ...ir.types import DTYPE_NAMES

TVM_DTYPES = {**DTYPE_NAMES, "index": "int32"}
"""TVM's names of the element types."""

_FLOATS = ("f32", "f64")
_LITERALS = ("int", "float")
_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "&": operator.and_, "|": operator.or_,
    "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_LARGEST = 3.4028234663852886e38  # fast-math arithmetic has no infinity


@dataclass(frozen=True)
class Typed:
    """Text of a TVMScript expression and the dtype it has; literals are `int` or `float`."""

    text: str
    dtype: str


def computed(dtype: str) -> str:
    """Return the dtype that values of `dtype` are held in: half floats are computed in f32."""
    return {"bf16": "f32", "f16": "f32", "f8e4m3": "f32", "index": "i32"}.get(dtype, dtype)


def coerce(value: Typed, dtype: str) -> str:
    """Return the text of a value as `dtype`."""
    dtype = computed(dtype)
    if value.dtype == dtype:
        return value.text
    name = TVM_DTYPES[dtype]
    if value.dtype in _LITERALS:
        return (
            f"T.bool({float(value.text) != 0})" if dtype == "bool" else _literal(value.text, dtype)
        )
    if dtype == "bool":
        return f"({value.text} != {coerce(Typed('0', 'int'), value.dtype)})"
    return f'T.Cast("{name}", {value.text})'


def literal(value: float, dtype: str) -> str:
    """Return a constant of `dtype`."""
    return coerce(Typed(repr(value), "float" if isinstance(value, float) else "int"), dtype)


def _literal(text: str, dtype: str) -> str:
    if dtype in _FLOATS:
        value = max(-_LARGEST, min(_LARGEST, float(text)))
        return f"T.{TVM_DTYPES[dtype]}({value!r})"
    whole = text.removeprefix("-").isdigit()  # as f64 it might be another number
    return f"T.{TVM_DTYPES[dtype]}({int(text) if whole else int(float(text))})"


def promoted(left: str, right: str) -> str:
    """Return the dtype that an arithmetic operation of two dtypes has."""
    pair = {left, right}
    if pair <= set(_LITERALS):
        return "float" if "float" in pair else "int"
    found = next((dtype for dtype in ("f64", "f32", "float", "i64", "u32") if dtype in pair), "i32")
    return "f32" if found == "float" else found


class ExpressionText(Handler[Typed]):
    """Turns an expression into TVMScript text over the given variables."""

    def __init__(self, variables: Mapping[str, Typed]) -> None:
        self._variables = variables

    def name(self, name: str) -> Typed:
        """A variable."""
        return self._variables[name]

    def number(self, value: int | float) -> Typed:
        """A literal."""
        return Typed(repr(value), "float" if isinstance(value, float) else "int")

    def unary(self, op: str, operand: Typed) -> Typed:
        """`-x` or `~x`."""
        if op == "~" and operand.dtype == "bool":
            return Typed(f"T.Not({operand.text})", "bool")
        if operand.dtype in _LITERALS:
            value = _value(operand)
            return self.number(-value if op == "-" else ~int(value))
        dtype = promoted(operand.dtype, "int")
        if op == "~":
            return Typed(f"T.bitwise_not({coerce(operand, dtype)})", dtype)
        return self.binary("-", Typed("0", "int"), operand)

    def binary(self, op: str, left: Typed, right: Typed) -> Typed:
        """An arithmetic or bitwise operation."""
        if left.dtype == right.dtype == "bool" and op in "&|":
            return Typed(f"T.{'And' if op == '&' else 'Or'}({left.text}, {right.text})", "bool")
        dtype = promoted(left.dtype, right.dtype)
        if op == "/" and dtype not in _FLOATS:
            dtype = "f32"
        if left.dtype in _LITERALS and right.dtype in _LITERALS:
            return self.number(_FOLD[op](_value(left), _value(right)))
        if dtype == "u32" and op in "+-*":
            return _wrapping(op, coerce(left, "i64"), coerce(right, "i64"))
        a, b = coerce(left, dtype), coerce(right, dtype)
        if dtype in _FLOATS and op == "//":
            return Typed(f"T.floor({a} / {b})", dtype)
        if dtype in _FLOATS and op == "%":
            return Typed(f"({a} - T.floor({a} / {b}) * {b})", dtype)
        return Typed(f"({a} {op} {b})", dtype)

    def compare(self, op: str, left: Typed, right: Typed) -> Typed:
        """One comparison."""
        dtype = promoted(left.dtype, right.dtype)
        if dtype in _LITERALS:
            return Typed(f"T.bool({_FOLD[op](_value(left), _value(right))})", "bool")
        return Typed(f"({coerce(left, dtype)} {op} {coerce(right, dtype)})", "bool")

    def call(self, function: str, arguments: list[Typed]) -> Typed:
        """A function of the language; the names are macros of `tvm_macros` or TVM's own."""
        first = arguments[0]
        match function:
            case "where":
                _, yes, no = arguments
                same = yes.dtype == no.dtype
                dtype = _solid(yes.dtype if same else promoted(yes.dtype, no.dtype))
                parts = coerce(first, "bool"), coerce(yes, dtype), coerce(no, dtype)
                return Typed(f"T.Select({', '.join(parts)})", dtype)
            case "min" | "max":
                dtype = _solid(promoted(first.dtype, arguments[1].dtype))
                both = f"{coerce(first, dtype)}, {coerce(arguments[1], dtype)}"
                return Typed(f"T.{function}({both})", dtype)
            case "ceildiv":
                one = self.binary("-", arguments[1], Typed("1", "int"))
                return self.binary("//", self.binary("+", first, one), arguments[1])
            case "f32" | "i32":
                return Typed(coerce(first, function), function)
            case "bits_f32":
                return Typed(f'T.reinterpret("float32", {first.text})', "f32")
            case "bits_i32":
                return Typed(f'T.reinterpret("int32", {coerce(first, "f32")})', "i32")
            case "umulhi":
                wide = f"{_word(first)} * {_word(arguments[1])}"
                return Typed(f'T.Cast("uint32", T.shift_right({wide}, T.uint64(32)))', "u32")
            case "dot4":
                return self._dot4(*(coerce(argument, "i32") for argument in arguments))
            case "abs" if first.dtype not in (*_FLOATS, "float"):
                dtype = promoted(_solid(first.dtype), "i32")
                text = coerce(first, dtype)
                return Typed(text if dtype == "u32" else f"T.abs({text})", dtype)
        dtype = "f64" if first.dtype == "f64" else "f32"
        macro = "T." if function in ("sqrt", "abs", "floor") else "m_"
        return Typed(f"{macro}{function}({coerce(first, dtype)})", dtype)

    def _dot4(self, left: str, right: str, total: str) -> Typed:
        """The four products of bytes, each moved to the top of its word to have its sign."""

        def byte(word: str, at: int) -> str:
            top = f"T.shift_left({word}, {24 - 8 * at})" if at < 3 else word
            return f"T.shift_right({top}, 24)"

        products = (f"{byte(left, at)} * {byte(right, at)}" for at in range(4))
        return Typed(f"({total} + {' + '.join(products)})", "i32")


def _value(value: Typed) -> int | float:
    return int(value.text) if value.dtype == "int" else float(value.text)


def _solid(dtype: str) -> str:
    return {"int": "i32", "float": "f32"}.get(dtype, dtype)


def _word(value: Typed) -> str:
    """An operand's low 32 bits, zero-extended to 64."""
    return f'T.Cast("uint64", {coerce(value, "u32")})'


def _wrapping(op: str, left: str, right: str) -> Typed:
    """Arithmetic modulo 2^32: LLVM may assume that 32-bit unsigned arithmetic never wraps."""
    wide = f"T.bitwise_and({left} {op} {right}, T.int64(4294967295))"
    return Typed(f'T.Cast("uint32", {wide})', "u32")


def expression_text(expr: str, variables: Mapping[str, Typed]) -> Typed:
    """Return an expression of the kernel language as TVMScript."""
    return read(expr, ExpressionText(variables))
