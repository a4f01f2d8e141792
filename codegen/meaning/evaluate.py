"""What the expressions of kernels mean, in NumPy: the handler that gives the others their oracle.

Floats are computed in float32 (bf16 and f16 widened) or all in float64; integers in the widest
operand's type, `index` as 64 bits. `//` and `%` round down, as Python's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ir.expression import Handler

_BINARY: dict[str, Any] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "//": np.floor_divide, "%": np.mod,
    "&": np.bitwise_and, "|": np.bitwise_or, "^": np.bitwise_xor, "<<": np.left_shift,
    ">>": np.right_shift, "<": np.less, "<=": np.less_equal, ">": np.greater,
    ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal, "min": np.minimum,
    "max": np.maximum,
}  # fmt: skip
_UNARY: dict[str, Any] = {
    "exp2": np.exp2, "log2": np.log2, "sqrt": np.sqrt, "tanh": np.tanh, "floor": np.floor,
    "abs": np.abs,
}  # fmt: skip


class Evaluator(Handler[Any]):
    """Evaluates an expression over NumPy values; `elements` gives buffers to launch facts."""

    def __init__(
        self, variables: Mapping[str, Any], real: type[np.floating[Any]] = np.float32,
        elements: Mapping[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self._variables = variables
        self._real = real
        self._elements = elements or {}

    def name(self, name: str) -> Any:
        """Return the value of a variable."""
        return self._variables[name]

    def number(self, value: int | float) -> Any:
        """Return a literal; integers adapt to the other operand."""
        return self._real(value) if isinstance(value, float) else value

    def unary(self, op: str, operand: Any) -> Any:
        """Return `-x`, or `~x` (of a bool: not)."""
        return np.negative(operand) if op == "-" else np.invert(operand)

    def binary(self, op: str, left: Any, right: Any) -> Any:
        """Return an operation; with a float operand, both become floats."""
        if op == "/" or _is_real(left) or _is_real(right):
            left, right = self._as_real(left), self._as_real(right)
        return np.divide(left, right) if op == "/" else _BINARY[op](left, right)

    def compare(self, op: str, left: Any, right: Any) -> Any:
        """Return a comparison."""
        return self.binary(op, left, right)

    def call(self, function: str, arguments: list[Any]) -> Any:
        """Return a function's value."""
        if function == "where":
            return self._where(*arguments)
        if function in ("min", "max"):
            return self.binary(function, *arguments)
        return getattr(self, f"_{function}", self._plain(function))(*arguments)

    def element(self, name: str) -> Any:
        """Return every element of a buffer."""
        return self._elements[name]

    def at(self, name: str, index: Any) -> Any:
        """Return elements of a one-dimensional buffer."""
        return self._elements[name][index]

    def _plain(self, function: str) -> Any:
        operation = _UNARY[function] if function in _UNARY else None
        exact = function in ("abs", "floor")

        def apply(value: Any) -> Any:
            return operation(value if exact else self._as_real(value))  # type: ignore[misc]

        return apply

    def _where(self, condition: Any, yes: Any, no: Any) -> Any:
        if _is_real(yes) or _is_real(no):
            yes, no = self._as_real(yes), self._as_real(no)
        return np.where(condition, yes, no)

    def _rsqrt(self, value: Any) -> Any:
        return self._real(1) / np.sqrt(self._as_real(value))

    def _ceildiv(self, left: Any, right: Any) -> Any:
        return -(np.negative(left) // right)

    def _f32(self, value: Any) -> Any:
        return self._as_real(value)

    def _i32(self, value: Any) -> Any:
        return np.asarray(value).astype(np.int32)

    def _bits_f32(self, value: Any) -> Any:
        bits = (np.asarray(value).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32, order="C")
        return self._as_real(bits.view(np.float32))

    def _bits_i32(self, value: Any) -> Any:
        return np.asarray(value).astype(np.float32, order="C").view(np.int32)

    def _umulhi(self, left: Any, right: Any) -> Any:
        wide = np.asarray(left).astype(np.uint32).astype(np.uint64)
        return ((wide * np.asarray(right).astype(np.uint32)) >> np.uint64(32)).astype(np.uint32)

    def _dot4(self, left: Any, right: Any, total: Any) -> Any:
        pairs = np.broadcast_arrays(np.asarray(left), np.asarray(right))
        one, two = (part.astype(np.int32, order="C")[..., None].view(np.int8) for part in pairs)
        return (one.astype(np.int32) * two).sum(-1, dtype=np.int32) + total

    def _as_real(self, value: Any) -> Any:
        return np.asarray(value).astype(self._real, copy=False)


def _is_real(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, float) if dtype is None else dtype.kind == "f"
