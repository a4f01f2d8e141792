"""The reference interpreter of tile kernels: what a kernel means, in NumPy, checked access by
access."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...ir.core import Operation, Value
from ...ir.diagnostics import KernelError, Note
from ...ir.dialects.tile import extents_of
from ...ir.expression import read
from ...ir.printer import print_operation
from ...ir.types import dtype_of
from .arrays import FLOATS, INTEGERS, bind, narrow, widen
from .evaluate import Evaluator
from .facts import check_facts

_REDUCE: dict[str, Any] = {"sum": np.sum, "max": np.max, "min": np.min}


class OutOfBounds(KernelError):
    """An access outside its buffer."""

    template = (
        "@{kernel}: index {index} on axis {axis} of %{buffer} is outside its extent {extent}, "
        "at program {program}"
    )


def run_kernel(kernel: Operation, *arguments: Any, dtype: Any = None) -> None:
    """Run a `tile.kernel` over its whole grid, writing into the arrays given.

    Arguments stand in the order of the region's arguments. Floats are computed in float32, or
    with `dtype=np.float64` in float64 without any rounding before a store. Raises KernelError if
    a launch fact does not hold or an access is out of bounds.
    """
    scalars, buffers = bind(kernel, arguments)
    check_facts(kernel, scalars, buffers)
    grid = grid_of(kernel, scalars)
    with np.errstate(all="ignore"):
        for phase in phases(kernel):
            for program in itertools.product(*map(range, grid)):
                _Program(phase, scalars, buffers, program, dtype or np.float32, grid).run()


def phases(kernel: Operation) -> Iterator[Operation]:
    """Yield a kernel's parts between meetings, as kernels: where programs run one after another,
    all have come once each has done a part."""
    region, part = kernel.regions[0], []
    for operation in region.operations:
        if operation.name == "tile.meet":
            yield replace(kernel, regions=(replace(region, operations=tuple(part)),))
            part = []
        else:
            part.append(operation)
    yield replace(kernel, regions=(replace(region, operations=tuple(part)),))


def grid_of(kernel: Operation, scalars: dict[str, Any]) -> tuple[int, ...]:
    """Return the extents of a launch's grid."""
    return tuple(int(read(extent, Evaluator(scalars))) for extent in kernel["grid"])


class _Program:
    """One point of the grid: values by name, one method an operation."""

    def __init__(
        self, kernel: Operation, scalars: dict[str, Any], buffers: dict[str, np.ndarray],
        program: tuple[int, ...], real: Any, grid: tuple[int, ...],
    ) -> None:  # fmt: skip
        self._kernel, self._buffers, self._program, self._real = kernel, buffers, program, real
        self._grid = grid
        self._values: dict[str, Any] = {}
        for argument in kernel.regions[0].arguments:
            if argument.name in scalars:
                self._set(argument, np.asarray(scalars[argument.name]))

    def run(self) -> None:
        self._block(self._kernel.regions[0].operations)

    def _block(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            getattr(self, "_" + operation.name.partition(".")[2])(operation)

    def _get(self, value: Value) -> np.ndarray:
        return self._values[value.name]

    def _set(self, value: Value, array: Any) -> None:
        dtype, extents = dtype_of(value.type), extents_of(value.type)
        array = np.asarray(array)
        if dtype not in FLOATS:
            array = array.astype(INTEGERS[dtype], copy=False)
        elif dtype in ("bf16", "f16", "f8e4m3") and self._real is np.float32:
            array = widen(narrow(array, dtype), dtype)
        else:
            array = array.astype(np.float64 if dtype == "f64" else self._real, copy=False)
        same = array.shape == extents
        self._values[value.name] = array if same else np.broadcast_to(array, extents)

    def _program_id(self, operation: Operation) -> None:
        self._set(operation.result, self._program[operation["axis"]])

    def _full(self, operation: Operation) -> None:
        self._set(operation.result, operation["value"])

    def _iota(self, operation: Operation) -> None:
        (extent,) = extents_of(operation.result.type)
        self._set(operation.result, np.arange(extent))

    def _map(self, operation: Operation) -> None:
        names = zip(string.ascii_lowercase, operation.operands, strict=False)
        variables = {letter: self._get(value) for letter, value in names}
        self._set(operation.result, read(operation["expr"], Evaluator(variables, self._real)))

    def _load(self, operation: Operation) -> None:
        buffer, rest = operation.operands[0], [self._get(v) for v in operation.operands[1:]]
        masked = operation.attribute("masked")
        mask = rest.pop() if masked else np.True_
        where, active = self._lanes(operation, buffer, rest, mask)
        memory = self._buffers[buffer.name]
        if memory.size == 0:  # nothing is read: `_lanes` has seen that no lane is active
            stored = np.zeros(active.shape, memory.dtype)
        else:
            stored = memory[where]
        found = widen(stored, dtype_of(buffer.type))
        other = operation.attribute("other", 0)
        self._set(operation.result, np.where(active, found, other) if masked else found)

    def _store(self, operation: Operation) -> None:
        target, rest = operation.operands[0], [self._get(v) for v in operation.operands[1:]]
        mask = rest.pop() if operation.attribute("masked") else np.True_
        value = rest.pop()
        where, active = self._lanes(operation, target, rest, mask, value)
        lanes = tuple(np.broadcast_to(index, active.shape)[active] for index in where)
        chosen = np.broadcast_to(value, active.shape)[active]
        self._buffers[target.name][lanes] = narrow(chosen, dtype_of(target.type))

    def _atomic_add(self, operation: Operation) -> None:
        target, rest = operation.operands[0], [self._get(v) for v in operation.operands[1:]]
        mask = rest.pop() if operation.attribute("masked") else np.True_
        value = rest.pop()
        where, active = self._lanes(operation, target, rest, mask, value)
        dtype, memory = dtype_of(target.type), self._buffers[target.name]
        value, old = np.broadcast_to(value, active.shape), np.zeros(active.shape, memory.dtype)
        where = tuple(np.broadcast_to(index, active.shape) for index in where)
        for lane in zip(*np.nonzero(np.atleast_1d(active)), strict=True):
            here = lane if active.ndim else ()
            place = tuple(index[here] for index in where)
            old[here] = memory[place]
            memory[place] = narrow(widen(memory[place], dtype) + value[here], dtype)
        if operation.results:
            self._set(operation.result, widen(old, dtype))

    def _last(self, operation: Operation) -> None:
        """Count who comes: programs run one after another."""
        counter, *place = operation.operands
        where, _ = self._lanes(operation, counter, [self._get(v) for v in place], np.True_)
        memory = self._buffers[counter.name]
        memory[where] += 1
        last = memory[where] == self._grid[operation["axis"]]
        memory[where] *= not last
        self._set(operation.result, last)

    def _lanes(
        self, operation: Operation, buffer: Value, indices: list[np.ndarray], *others: Any
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Return the indices, masked-off lanes inside too, and which lanes take part."""
        shape = np.broadcast(*indices, *others).shape
        active, inside = np.broadcast_to(others[0], shape), list(indices)
        for axis, (index, extent) in enumerate(
            zip(indices, self._buffers[buffer.name].shape, strict=True)
        ):
            outside = (index < 0) | (index >= extent)
            if not np.count_nonzero(outside):
                continue
            inside[axis], wrong = np.where(active, index, 0), active & outside
            if wrong.any():
                first = np.broadcast_to(index, shape)[wrong].ravel()[0]
                raise OutOfBounds(
                    kernel=self._kernel["name"].name, index=int(first), axis=axis, extent=extent,
                    buffer=buffer.name, program=self._program, span=operation.span,
                    notes=(Note(f"in this operation: {print_operation(operation)}"),),
                )  # fmt: skip
        return tuple(inside), active

    def _reduce(self, operation: Operation) -> None:
        value = self._get(operation.operands[0])
        self._set(operation.result, _REDUCE[operation["op"]](value, axis=operation["axis"]))

    def _argmax(self, operation: Operation) -> None:
        value = self._get(operation.operands[0])
        self._set(operation.result, np.argmax(value, axis=operation["axis"]))

    def _scan(self, operation: Operation) -> None:
        value = self._get(operation.operands[0])
        self._set(operation.result, np.cumsum(value, axis=operation["axis"], dtype=value.dtype))

    def _histogram(self, operation: Operation) -> None:
        values, counts = (self._get(value) for value in operation.operands)
        inside = values[(values >= 0) & (values < len(counts))]
        self._set(operation.result, counts + np.bincount(inside, minlength=len(counts)))

    def _dot(self, operation: Operation) -> None:
        a, b, acc = (self._get(value) for value in operation.operands)
        b = b.T if operation.attribute("transpose_b") else b
        self._set(operation.result, acc + a.astype(acc.dtype) @ b.astype(acc.dtype))

    def _unpack(self, operation: Operation) -> None:
        words, bits = self._get(operation.operands[0]), operation["bits"]
        found = (words[:, :, None] >> np.arange(0, 32, bits)) & ((1 << bits) - 1)
        self._set(operation.result, found.astype(np.int8).reshape(len(words), -1))

    def _expand(self, operation: Operation) -> None:
        value = self._get(operation.operands[0])
        self._set(operation.result, np.expand_dims(value, operation["axis"]))

    def _transpose(self, operation: Operation) -> None:
        self._set(operation.result, self._get(operation.operands[0]).T)

    def _reshape(self, operation: Operation) -> None:
        value = self._get(operation.operands[0])
        self._set(operation.result, value.reshape(extents_of(operation.result.type)))

    def _for(self, operation: Operation) -> None:
        low, high, *carried = (self._get(value) for value in operation.operands)
        (region,) = operation.regions
        index, *arguments = region.arguments
        for i in range(int(low), int(high), operation.attribute("step", 1)):
            self._set(index, i)
            for argument, value in zip(arguments, carried, strict=True):
                self._set(argument, value)
            self._block(region.operations[:-1])
            carried = [self._get(value) for value in region.operations[-1].operands]
        for result, value in zip(operation.results, carried, strict=True):
            self._set(result, value)

    def _return(self, operation: Operation) -> None:
        """Nothing follows: the verifier has seen that it stands last."""
