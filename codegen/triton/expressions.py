"""The expressions of kernels as Triton text, with the type that each part has there."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.expression import Handler
from .text import DOT4

TRITON = {
    "f64": "tl.float64", "f32": "tl.float32", "bf16": "tl.bfloat16", "f16": "tl.float16",
    "i64": "tl.int64", "i32": "tl.int32", "index": "tl.int32", "u32": "tl.uint32",
    "i16": "tl.int16", "u16": "tl.uint16", "i8": "tl.int8", "u8": "tl.uint8", "bool": "tl.int1",
    "f8e4m3": "tl.float8e4nv",
}  # fmt: skip
"""Types of values. An `index` is 32 bits; addresses are formed in 64."""

UNSIGNED = frozenset({"bool", "u8", "u16", "u32"})
_WIDTH = ["bool", "literal", "i8", "u8", "i16", "u16", "index", "i32", "u32", "i64", "f32", "f64"]
_WHOLE = frozenset(_WIDTH[:-2])
WIDE = ("i32", "index", "i64")
_BITS = (("u32", "i32"), ("u32", "index"))
"""Casts that keep all 32 bits, of which the first is a sign then: 2^31 becomes negative."""

_CALLS = {"min": "tl.minimum", "max": "tl.maximum", "abs": "tl.abs", "ceildiv": "tl.cdiv",
          "umulhi": "tl.umulhi"}  # fmt: skip
_REAL_CALLS = {"exp2": "tl.exp2", "log2": "tl.log2", "sqrt": "tl.sqrt", "rsqrt": "tl.rsqrt",
               "floor": "tl.floor"}  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """A piece of text and the dtype of its value; `literal` is a Python integer.

    `natural`: an integer that is known not to be negative (see `signs`).
    """

    text: str
    dtype: str
    natural: bool = False


class TritonWriter(Handler[Typed]):
    """Writes an expression; half precision is widened, so that arithmetic is in f32."""

    def __init__(self, variables: dict[str, Typed]) -> None:
        self._variables = variables

    def name(self, name: str) -> Typed:
        """Return a variable, widened if it is half precision."""
        value = self._variables[name]
        return cast(value, "f32") if value.dtype in ("bf16", "f16", "f8e4m3") else value

    def number(self, value: int | float) -> Typed:
        """Return a literal."""
        whole = isinstance(value, int)
        return Typed(repr(value), "literal" if whole else "f32", whole and value >= 0)

    def unary(self, op: str, operand: Typed) -> Typed:
        """Return `-x`, or `~x`."""
        return Typed(f"({op}{operand.text})", operand.dtype, operand.dtype == "bool")

    def binary(self, op: str, left: Typed, right: Typed) -> Typed:
        """Return an operation in the wider of both types."""
        dtype = "f32" if op == "/" and not _is_real(left, right) else wider(left, right)
        if op == "/" and "literal" in (left.dtype, right.dtype):
            left, right = _real_literal(left), _real_literal(right)
        if op in ("//", "%") and _is_real(left, right):
            a, b = (cast(_real_literal(value), dtype).text for value in (left, right))
            return _real_division(op, a, b, dtype)
        if op in ("//", "%") and not left.natural:
            return _rounded_down(op, left, right, dtype)
        either = left.natural or right.natural
        natural = left.natural and right.natural and op != "-" or op == "&" and either
        return Typed(f"({left.text} {op} {right.text})", dtype, natural)

    def compare(self, op: str, left: Typed, right: Typed) -> Typed:
        """Return a comparison."""
        return Typed(f"({left.text} {op} {right.text})", "bool", True)

    def call(self, function: str, arguments: list[Typed]) -> Typed:
        """Return a call."""
        if function == "where":
            test, yes, no = arguments
            text = f"tl.where({test.text}, {yes.text}, {no.text})"
            dtype = wider(yes, no)
            dtype = "i32" if dtype == "literal" else dtype
            return Typed(text, dtype, yes.natural and no.natural)
        if function in _REAL_CALLS:
            return Typed(f"{_REAL_CALLS[function]}({cast(arguments[0], 'f32').text})", "f32")
        if function in ("f32", "i32"):
            return cast(arguments[0], function)
        if function == "bits_f32":
            bits = cast(arguments[0], "i32") if arguments[0].dtype != "u32" else arguments[0]
            return Typed(f"tl.cast({bits.text}, tl.float32, bitcast=True)", "f32")
        if function == "bits_i32":
            value = cast(arguments[0], "f32")
            return Typed(f"tl.cast({value.text}, tl.int32, bitcast=True)", "i32")
        if function == "dot4":
            words = ", ".join(cast(argument, "i32").text for argument in arguments)
            return Typed(f"{DOT4}({words})", "i32")
        if function == "tanh":
            return Typed(f"(2.0 * tl.sigmoid(2.0 * {cast(arguments[0], 'f32').text}) - 1.0)", "f32")
        natural = [argument.natural for argument in arguments]
        if function == "ceildiv" and not natural[0]:
            more = self.binary("-", arguments[1], self.number(1))
            return self.binary("//", self.binary("+", arguments[0], more), arguments[1])
        texts = ", ".join(argument.text for argument in arguments)
        found = function == "abs" or (any if function == "max" else all)(natural)
        return Typed(f"{_CALLS[function]}({texts})", wider(*arguments), found)


class HostWriter(Handler[str]):
    """Writes an expression over scalar arguments as plain Python, for the launch wrapper."""

    def name(self, name: str) -> str:
        """Return a scalar argument."""
        return name

    def number(self, value: int | float) -> str:
        """Return a literal."""
        return repr(value)

    def unary(self, op: str, operand: str) -> str:
        """Return `-x`, or `~x`."""
        return f"({op}{operand})"

    def binary(self, op: str, left: str, right: str) -> str:
        """Return an operation."""
        return f"({left} {op} {right})"

    def compare(self, op: str, left: str, right: str) -> str:
        """Return a comparison."""
        return f"({left} {op} {right})"

    def call(self, function: str, arguments: list[str]) -> str:
        """Return a call."""
        if function == "ceildiv":
            return f"-(-({arguments[0]}) // ({arguments[1]}))"
        if function == "where":
            return f"({arguments[1]} if {arguments[0]} else {arguments[2]})"
        return f"{function}({', '.join(arguments)})"


def cast(value: Typed, dtype: str) -> Typed:
    """Return a value of another dtype, or as it is."""
    if TRITON.get(value.dtype) == TRITON[dtype]:
        return Typed(value.text, dtype, value.natural)
    if dtype == "bool":
        return Typed(f"({value.text} != 0)", dtype, True)
    holds = value.dtype in _WHOLE and dtype in WIDE and (value.dtype, dtype) not in _BITS
    return Typed(f"tl.cast({value.text}, {TRITON[dtype]})", dtype, value.natural and holds)


def wider(*values: Typed) -> str:
    """Return the dtype that holds all of some values."""
    return max((value.dtype for value in values), key=_WIDTH.index)


def _rounded_down(op: str, left: Typed, right: Typed, dtype: str) -> Typed:
    """Return `//` or `%` of what may be negative, by a positive number."""
    a, b = left.text, right.text
    if right.dtype == "literal" and b.isdecimal() and int(b).bit_count() == 1:
        text = f"({a} & {int(b) - 1})" if op == "%" else f"({a} >> {int(b).bit_length() - 1})"
    elif op == "%":
        text = f"((({a} % {b}) + {b}) % {b})"
    else:
        text = f"(tl.where({a} < 0, {a} - ({b} - 1), {a}) // {b})"
    return Typed(text, dtype, op == "%")


def _real_division(op: str, a: str, b: str, dtype: str) -> Typed:
    """Return `//` or `%` of reals, rounded down: Triton has no `//` of them, and its `%` has the
    sign of what is divided."""
    whole = f"tl.floor({a} / {b})"
    return Typed(whole if op == "//" else f"({a} - {whole} * {b})", dtype)


def _is_real(*values: Typed) -> bool:
    return wider(*values) in ("f32", "f64")


def _real_literal(value: Typed) -> Typed:
    if value.dtype != "literal":
        return value
    text = f"{value.text}.0" if value.text.isdecimal() else f"({value.text} * 1.0)"
    return Typed(text, "f32")
