"""Reductions, argmax and prefix sums in TVMScript: lanes are folded once, at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.core import Operation
from ...ir.types import shape_of
from ..tile_analysis import integer_identity
from .expressions import literal
from .loops import elementwise, lanes_for, write
from .values import Access, Held, scalar, stored

if TYPE_CHECKING:
    from .emit import Emitter

LARGEST = 3.4028234663852886e38


def identity(op: str, dtype: str) -> str:
    """Return the value that a reduction starts from; fast-math arithmetic has no infinity."""
    if dtype in ("f32", "f64"):
        return literal({"sum": 0, "max": -LARGEST, "min": LARGEST}[op], dtype)
    return literal(integer_identity(op, dtype), dtype)


def combined(op: str, left: str, right: str) -> str:
    """Return one step of a reduction."""
    return f"{left} + {right}" if op == "sum" else f"T.{op}({left}, {right})"


def emit_reduce(emitter: Emitter, operation: Operation) -> None:
    """Write a sum, max or min over an axis."""
    source = emitter.of(operation.operands[0])
    axis, op = operation["axis"] % len(source.shape), operation["op"]
    shape: tuple[int, ...] = shape_of(operation.result.type)  # type: ignore[assignment]
    result = emitter.out.allocate(operation.result.name, shape, source.dtype)
    if axis == len(source.shape) - 1:
        with emitter.out.loops(shape) as outer:
            target = f"{result}[{', '.join(outer) or '0'}]"
            emitter.out.line(f"{target} = {_row(emitter, source, op, outer)}")
    else:
        _rows(emitter, source, op, axis, result, shape)
    _bind(emitter, operation, result, source.dtype, shape)


def _bind(emitter: Emitter, operation: Operation, buffer: str, dtype: str, shape: tuple[int, ...]
          ) -> None:  # fmt: skip
    held = stored(buffer, dtype, shape)
    emitter.define(operation.result, held if shape else emitter.keep(operation.result, held))


def _row(emitter: Emitter, source: Held, op: str, outer: Sequence[str]) -> str:
    """Reduce along the last axis at fixed outer indices; return the text of the result."""
    out, dtype, extent = emitter.out, source.dtype, source.shape[-1]
    lanes = lanes_for(extent, out.vector)
    partial = out.allocate("partial", (lanes,), dtype)
    start = identity(op, dtype)
    with out.loop(lanes, "l", "vectorized" if lanes > 1 else "serial") as lane:
        out.line(f"{partial}[{lane}] = {start}")

    def visit(at: Sequence[str], access: Access) -> list[str]:
        place = f"{partial}[{at[1]}]"
        index = at[1] if at[0] == "0" else f"({at[0]}) * {lanes} + {at[1]}"
        return [f"{place} = {combined(op, place, source.at([*outer, index], access))}"]

    elementwise(out, (extent // lanes, lanes), visit)
    if lanes == 1:
        return f"{partial}[0]"
    return f"m_{op}({partial}[T.Ramp(0, 1, {lanes})], {lanes})"


def _rows(
    emitter: Emitter, source: Held, op: str, axis: int, result: str, shape: tuple[int, ...]
) -> None:
    """Reduce over an axis before the last: whole rows are combined."""
    start = Held(source.dtype, shape, lambda at, access: identity(op, source.dtype))
    with_result = stored(result, source.dtype, shape)

    def first(at: Sequence[str], access: Access) -> list[str]:
        return [f"{with_result.at(at, access)} = {start.at(at, access)}"]

    elementwise(emitter.out, shape, first)
    with emitter.out.loop(source.shape[axis], "r") as row:

        def visit(at: Sequence[str], access: Access) -> list[str]:
            place = with_result.at(at, access)
            value = source.at([*at[:axis], row, *at[axis:]], access)
            return [f"{place} = {combined(op, place, value)}"]

        elementwise(emitter.out, shape, visit)


def emit_argmax(emitter: Emitter, operation: Operation) -> None:
    """Write the index of the first largest element along an axis."""
    source = emitter.of(operation.operands[0])
    axis = operation["axis"] % len(source.shape)
    shape: tuple[int, ...] = shape_of(operation.result.type)  # type: ignore[assignment]
    out = emitter.out
    result = out.allocate(operation.result.name, shape, "i32")
    extent = source.shape[axis]
    lanes = lanes_for(extent, out.vector) if axis == len(source.shape) - 1 else 1
    with out.loops(shape) as outer:
        best = out.allocate("best", (lanes,), source.dtype)
        where = out.allocate("where", (lanes,), "i32")
        with out.loop(lanes, "l", "vectorized" if lanes > 1 else "serial") as lane:
            out.line(f"{best}[{lane}] = {identity('max', source.dtype)}")
            out.line(f"{where}[{lane}] = T.int32(0)")

        def visit(at: Sequence[str], access: Access) -> list[str]:
            chunk, lane = at
            index = f"(({chunk}) * {lanes} + {lane})"
            value = source.at([*outer[:axis], index, *outer[axis:]], access)
            better = f"{value} > {best}[{lane}]"
            return [
                f"{where}[{lane}] = T.Select({better}, {index}, {where}[{lane}])",
                f"{best}[{lane}] = T.max({best}[{lane}], {value})",
            ]

        elementwise(out, (extent // lanes, lanes), visit)
        _first_largest(emitter, best, where, lanes)
        out.line(f"{result}[{', '.join(outer) or '0'}] = {where}[0]")
    _bind(emitter, operation, result, "i32", shape)


def _first_largest(emitter: Emitter, best: str, where: str, lanes: int) -> None:
    """Fold the lanes' winners into lane 0; of equals the smaller index wins."""
    out = emitter.out
    if lanes == 1:
        return
    with out.loop(lanes, "s") as lane:
        equal = f"T.And({best}[{lane}] == {best}[0], {where}[{lane}] < {where}[0])"
        with out.block(f"if T.Or({best}[{lane}] > {best}[0], {equal}):"):
            out.line(f"{where}[0] = {where}[{lane}]")
            out.line(f"{best}[0] = {best}[{lane}]")


def emit_scan(emitter: Emitter, operation: Operation) -> None:
    """Write inclusive prefix sums."""
    source = emitter.of(operation.operands[0])
    axis = operation["axis"] % len(source.shape)
    out, shape = emitter.out, source.shape
    result = out.allocate(operation.result.name, shape, source.dtype)
    others = [extent for place, extent in enumerate(shape) if place != axis]
    with out.loops(others) as outer:
        total = out.allocate("total", (1,), source.dtype)
        write(out, [f"{total}[0] = {identity('sum', source.dtype)}"])
        with out.loop(shape[axis], "s") as index:
            at = [*outer[:axis], index, *outer[axis:]]
            value = source.at(at, Access(honour=True))
            out.line(f"{total}[0] = {total}[0] + {value}")
            out.line(f"{result}[{', '.join(at)}] = {total}[0]")
    emitter.define(operation.result, stored(result, source.dtype, shape))


def emit_histogram(emitter: Emitter, operation: Operation) -> None:
    """Write counts, in place where a loop carries them."""
    values, counts = (emitter.of(value) for value in operation.operands)
    out, (bins,) = emitter.out, counts.shape
    target = emitter.targets.get(operation.result.name)
    if target is None:
        target = out.allocate(operation.result.name, counts.shape, "i32")

        def start(at: Sequence[str], access: Access) -> list[str]:
            return [f"{target}[{at[0]}] = {counts.at(at, access)}"]

        elementwise(out, counts.shape, start)
    with out.loop(values.shape[0], "s") as index:
        place = out.fresh("bin")
        out.line(f"{place}: T.int32 = {values.at([index], Access(honour=True))}")
        with out.block(f"if T.And({place} >= 0, {place} < {bins}):"):
            out.line(f"{target}[{place}] = {target}[{place}] + 1")
    emitter.define(operation.result, stored(target, "i32", counts.shape))


__all__ = [
    "combined",
    "emit_argmax",
    "emit_histogram",
    "emit_reduce",
    "emit_scan",
    "identity",
    "scalar",
]
