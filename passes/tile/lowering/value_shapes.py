"""What lowering asks of a value: its extents, rows, width, format, and whether it has scales."""

from __future__ import annotations

from ....ir.core import Operation, Value
from ....ir.types import SCALED, dtype_of, shape_of


def sizes_of(weight: Value) -> tuple[int, ...]:
    """Return the extents of a weight: numbers all of them."""
    return tuple(extent for extent in shape_of(weight.type) if isinstance(extent, int))


def width_of(value: Value) -> int:
    """Return the last extent, a number in every tensor."""
    extent = shape_of(value.type)[-1]
    assert isinstance(extent, int)
    return extent


def rows_of(value: Value) -> str:
    """Return the name of the first extent: T, R or M."""
    return str(shape_of(value.type)[0])


def format_of(op: Operation) -> str:
    """Return the dtype of an operation's (first) result, and so of its activations."""
    return dtype_of(op.results[0].type)


def scale_of(weight: Value, operand: int) -> str:
    """Return the argument of a weight's row scales, where it has them."""
    return f" scale{operand}" if dtype_of(weight.type) in SCALED else ""
