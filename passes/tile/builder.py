"""Writes tile IR from Python: a kernel's operations are method calls, its types are inferred."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.core import Names, Operation, Region, Symbol, Term, Value, make
from ...ir.dialects.tile import extents_of
from ...ir.types import INDEX, buffer, dtype_of, tile

_RANK = [
    "bool",
    "i8",
    "u8",
    "i16",
    "u16",
    "index",
    "i32",
    "u32",
    "i64",
    "f8e4m3",
    "bf16",
    "f16",
    "f32",
    "f64",
]


@dataclass
class Loop:
    """A `tile.for` under construction: its index, the carried values, and, later, its results."""

    index: Value
    carried: list[Value]
    results: list[Value] = field(default_factory=list)
    yielded: tuple[Value, ...] = ()

    def yields(self, *values: Value) -> None:
        """Give the carried values of the next round."""
        self.yielded = values


class KernelBuilder:
    """Builds one `tile.kernel`; call `scalar` and `buffer` for its arguments, then the body."""

    def __init__(self, name: str) -> None:
        self.kernel_name = name
        self._names = Names()
        self._arguments: list[Value] = []
        self._lists: list[list[Operation]] = [[]]
        self._writes: list[str] = []

    def scalar(self, name: str, type: Term = INDEX) -> Value:
        """Declare a scalar argument; buffer dimensions and the grid may name it."""
        return self._argument(name, type)

    def buffer(self, name: str, dtype: str, *shape: int | str) -> Value:
        """Declare a buffer argument."""
        return self._argument(name, buffer(dtype, *shape))

    def program_id(self, axis: int, hint: str = "pid") -> Value:
        """Return the position on a grid axis."""
        return self._emit("tile.program_id", hint, INDEX, axis=axis)

    def full(self, value: float, dtype: str, *shape: int) -> Value:
        """Return a tile, or without a shape a scalar, of one value."""
        return self._emit("tile.full", "c", _typed(dtype, shape), value=value)

    def iota(self, extent: int) -> Value:
        """Return 0 .. extent - 1 as an i32 tile."""
        return self._emit("tile.iota", "lane", tile("i32", extent))

    def map(self, expr: str, *operands: Value, dtype: str | None = None, hint: str = "t") -> Value:
        """Return an elementwise expression over operands named a, b, c, ... ."""
        shape = np.broadcast_shapes(*(extents_of(value.type) for value in operands))
        chosen = dtype or _result_dtype(expr, operands)
        return self._emit("tile.map", hint, _typed(chosen, shape), *operands, expr=expr)

    def load(
        self, source: Value, *indices: Value, mask: Value | None = None, other: float = 0.0,
        hint: str | None = None, dtype: str | None = None, stream: bool = False,
    ) -> Value:  # fmt: skip
        """Return elements of a buffer at indices that broadcast; masked-off ones are `other`. What
        is marked as `stream` leaves a GPU's caches first."""
        parts = [*indices, *([mask] if mask is not None else [])]
        shape = np.broadcast_shapes(*(extents_of(value.type) for value in parts))
        masked: dict[str, Any] = {"masked": True, "other": other} if mask is not None else {}
        result = self._names.value(
            hint or source.name + "_v", _typed(dtype or dtype_of(source.type), shape)
        )
        marks: dict[str, Any] = masked | ({"hint": "stream"} if stream else {})
        self._lists[-1].append(make("tile.load", source, *parts, results=(result,), **marks))
        return result

    def store(self, target: Value, *rest: Value, mask: Value | None = None) -> None:
        """Write a value: `store(target, *indices, value, mask=)`."""
        self._write("tile.store", target, *rest, mask=mask)

    def atomic_add(self, target: Value, *rest: Value, mask: Value | None = None) -> None:
        """Add a value: `atomic_add(target, *indices, value, mask=)`; old values are not kept."""
        self._write("tile.atomic_add", target, *rest, mask=mask)

    def last(self, counter: Value, *indices: Value, axis: int) -> Value:
        """Return 1 in the last to come of the programs that differ on an axis of the grid only, by
        an element of a buffer of i32 that these alone have, 0 between launches; else 0."""
        if counter.name not in self._writes:
            self._writes.append(counter.name)
        return self._emit("tile.last", "last", Term("i32"), counter, *indices, axis=axis)

    def _write(self, name: str, target: Value, *rest: Value, mask: Value | None) -> None:
        if target.name not in self._writes:
            self._writes.append(target.name)
        operands = [target, *rest, *([mask] if mask is not None else [])]
        self._lists[-1].append(make(name, *operands, masked=True if mask else None))

    def reduce(self, op: str, value: Value, axis: int, hint: str = "r") -> Value:
        """Return the sum, max or min over an axis."""
        shape = _without(extents_of(value.type), axis)
        return self._emit(
            "tile.reduce", hint, _typed(dtype_of(value.type), shape), value, op=op, axis=axis
        )

    def argmax(self, value: Value, axis: int) -> Value:
        """Return the index of the first largest element along an axis."""
        type = _typed("i32", _without(extents_of(value.type), axis))
        return self._emit("tile.argmax", "best", type, value, axis=axis)

    def scan(self, value: Value, axis: int) -> Value:
        """Return inclusive prefix sums."""
        return self._emit("tile.scan", "prefix", value.type, value, axis=axis)

    def histogram(self, values: Value, counts: Value) -> Value:
        """Return the counts with those of some values added."""
        return self._emit("tile.histogram", counts.name, counts.type, values, counts)

    def dot(self, a: Value, b: Value, acc: Value, transpose_b: bool = False) -> Value:
        """Return a @ b (+ acc); with transpose_b, b is [N, K]."""
        flag = True if transpose_b else None
        return self._emit("tile.dot", "acc", acc.type, a, b, acc, transpose_b=flag)

    def expand(self, value: Value, axis: int) -> Value:
        """Return the tile with a new axis of extent 1."""
        shape = list(extents_of(value.type))
        shape.insert(axis, 1)
        return self._emit(
            "tile.expand", value.name, _typed(dtype_of(value.type), shape), value, axis=axis
        )

    def transpose(self, value: Value) -> Value:
        """Return the tile with its two axes swapped."""
        rows, columns = extents_of(value.type)
        type = _typed(dtype_of(value.type), (columns, rows))
        return self._emit("tile.transpose", value.name, type, value)

    def unpack(self, words: Value, bits: int) -> Value:
        """Return the bytes [n, 32 w / bits] i8 of words [n, w] i32; see `tile.unpack`."""
        rows, count = extents_of(words.type)
        type = _typed("i8", (rows, count * 32 // bits))
        return self._emit("tile.unpack", "bytes", type, words, bits=bits)

    def reshape(self, value: Value, *shape: int) -> Value:
        """Return the same elements in another shape."""
        type = _typed(dtype_of(value.type), shape)
        return self._emit("tile.reshape", value.name, type, value)

    @contextmanager
    def loop(
        self, lo: Value, hi: Value, *carry: Value, step: int = 1, hint: str = "i"
    ) -> Iterator[Loop]:
        """Open `for i in range(lo, hi, step)`; inside, call `yields`; after, read `results`."""
        index = self._names.value(hint, INDEX)
        carried = [self._names.value(value.name, value.type) for value in carry]
        loop = Loop(index, carried)
        self._lists.append([])
        yield loop
        body = [*self._lists.pop(), make("tile.yield", *loop.yielded)]
        loop.results = [self._names.value(value.name, value.type) for value in carry]
        self._lists[-1].append(
            make(
                "tile.for", lo, hi, *carry, step=step, results=tuple(loop.results),
                regions=(Region((index, *carried), tuple(body)),),
            )
        )  # fmt: skip

    def finish(
        self, *grid: str | int, requires: tuple[str, ...] = (), of: str | None = None,
        given: Sequence[Value] = (), items: str = "", way: str = "",
    ) -> Operation:  # fmt: skip
        """Return the kernel; `grid` extents are expressions over scalar arguments; the buffers
        `given` were there before any kernel of the step; `items` and `way` as in `Parts`."""
        known: dict[str, Any] = {"given": [buffer.name for buffer in given]} if given else {}
        body = (*self._lists[0], make("tile.return"))
        return make(
            "tile.kernel", name=Symbol(self.kernel_name), grid=[str(extent) for extent in grid],
            requires=list(requires), writes=self._writes, of=of, items=items or None,
            way=way or None, **known, regions=(Region(tuple(self._arguments), body),),
        )  # fmt: skip

    def _argument(self, name: str, type: Term) -> Value:
        value = self._names.value(name, type)
        self._arguments.append(value)
        return value

    def _emit(self, name: str, hint: str, type: Term, *operands: Value, **attributes: Any
              ) -> Value:  # fmt: skip
        result = self._names.value(hint, type)
        self._lists[-1].append(make(name, *operands, results=(result,), **attributes))
        return result


def _typed(dtype: str, shape: tuple[int, ...] | list[int]) -> Term:
    return tile(dtype, *shape) if shape else Term(dtype)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(extent for position, extent in enumerate(shape) if position != axis)


def _result_dtype(expr: str, operands: tuple[Value, ...]) -> str:
    used = dict(zip(string.ascii_lowercase, operands, strict=False))
    dtypes = [dtype_of(value.type) for value in used.values()]
    compares = any(mark in expr for mark in ("<", ">", "==", "!="))
    if compares and "where" not in expr and "<<" not in expr and ">>" not in expr:
        return "bool"
    floats = ("exp2", "log2", "sqrt", "tanh", "f32(", ".")
    widest = max(dtypes, key=_RANK.index, default="i32")
    return (
        "f32"
        if any(mark in expr for mark in floats) or widest in {"f8e4m3", "bf16", "f16"}
        else widest
    )
