"""Gives every activation a place in one arena: values that live at different times share memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from ...ir.core import Module, Operation, Value, freeze
from ...ir.diagnostics import PassError
from ...ir.types import DTYPE_BYTES, dtype_of, shape_of
from ..manager import Context, GraphPass

ALIGNMENT = 64
"""Bytes: a cache line, and what 512-bit moves like."""

_SUM = "graph.all_reduce"


class UnknownExtent(PassError):
    """A symbolic dimension that the plan was given no bound for."""

    template = "%{value} has the dimension {extent}, which the memory plan has no bound for"


@dataclass(frozen=True)
class Lifetime:
    """A value's bytes, and the first and last operation (both included) at which it lives."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both live at some operation."""
        return self.first <= other.last and other.first <= self.last


def lifetimes(function: Operation, extents: Mapping[str, int]) -> list[Lifetime]:
    """Return the lifetimes of the activations that a graph.func's operations make.

    A value lives from the operation that makes it to the last that takes it; operands and results
    of one operation never share memory, but those of `in_place` do: such a result has no lifetime,
    and its operand lives as long. Weights and arguments have memory of their own.
    """
    operations, shared = function.regions[0].operations, in_place(function)
    last = {shared.get(value.name, value.name): at
            for at, op in enumerate(operations) for value in op.operands}  # fmt: skip
    return [
        Lifetime(value.name, size_of(value, extents), at, last.get(value.name, at))
        for at, operation in enumerate(operations)
        if operation.name != "graph.weight"
        for value in operation.results
        if value.type.name == "tensor" and value.name not in shared
    ]


def in_place(function: Operation) -> dict[str, str]:
    """Return the results that take the memory of an operand that nothing reads after it: sums over
    ranks, which the library forms in place. Each with the value that was there first."""
    operations = function.regions[0].operations
    last = {value.name: at for at, op in enumerate(operations) for value in op.operands}
    made = {value.name for op in operations if op.name != "graph.weight" for value in op.results}
    found: dict[str, str] = {}
    for at, operation in enumerate(operations):
        if _SUM in (operation.name, operation.attribute("of")):
            name = operation.operands[0].name
            if name in made and last[name] == at:
                found[operation.result.name] = found.get(name, name)
    return found


def size_of(value: Value, extents: Mapping[str, int]) -> int:
    """Return the bytes of a tensor under bounds of symbolic dimensions; raises UnknownExtent."""
    numbers = []
    for extent in shape_of(value.type):
        if not isinstance(extent, int) and extent.name not in extents:
            raise UnknownExtent(value=value.name, extent=extent.name)
        numbers.append(extent if isinstance(extent, int) else extents[extent.name])
    return prod(numbers) * DTYPE_BYTES[dtype_of(value.type)]


def place(lives: Sequence[Lifetime], alignment: int = ALIGNMENT) -> tuple[dict[str, int], int]:
    """Return byte offsets and the arena's size: largest first, each at the lowest gap that fits."""
    placed: list[tuple[int, Lifetime]] = []
    for life in sorted(lives, key=lambda life: (-life.size, life.first)):
        taken = sorted(
            ((at, other) for at, other in placed if life.meets(other)), key=lambda item: item[0]
        )
        offset = 0
        for at, other in taken:
            if offset + life.size <= at:
                break
            offset = max(offset, _aligned(at + other.size, alignment))
        placed.append((offset, life))
    total = max((at + life.size for at, life in placed), default=0)
    return {life.name: at for at, life in placed}, _aligned(total, alignment)


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


@dataclass(frozen=True)
class PlanMemory(GraphPass):
    """Sets `memory = {bytes, offsets}` on each graph.func, under bounds of its dimensions."""

    extents: tuple[tuple[str, int], ...] = ()
    alignment: int = ALIGNMENT

    name: ClassVar[str] = "plan-memory"
    reads: ClassVar[tuple[str, ...]] = ("graph", "tile")
    ensures: ClassVar[tuple[str, ...]] = ("memory-plan",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with a memory plan on every function."""
        return Module(
            tuple(
                self._planned(op, context) if op.name == "graph.func" else op
                for op in module.operations
            )
        )

    def _planned(self, function: Operation, context: Context) -> Operation:
        lives = lifetimes(function, dict(self.extents))
        offsets, total = place(lives, self.alignment)
        offsets |= {name: offsets[first] for name, first in in_place(function).items()}
        alone = sum(_aligned(life.size, self.alignment) for life in lives)
        context.did(f"{len(lives)} activations share {total} bytes instead of {alone}")
        return function.with_attributes(memory=freeze({"bytes": total, "offsets": offsets}))
