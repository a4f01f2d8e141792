"""Kernels of one grid as one launch: between two, programs wait for each other in place of an end.

Launches of a few microseconds are mostly their start and end. Where what the second reads was
written by programs that differ on one axis of the grid only, those alone need to meet
(`tile.meet`), while others go on. So that this ends however many programs there are, those that
meet begin one after another: their axis becomes the grid's first, which a GPU begins in order. It
must have room for as many at once as meet, at most 32; those of other rows wait for none of them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from ...ir.core import Operation, Region, Symbol, Value, make, walk
from ...ir.diagnostics import KernelError
from ...ir.types import INDEX, buffer

MEETS = "meets"
"""The buffer in which programs count who has come: zeros before the first launch, and then a
multiple of `ir.dialects.tile.MOST_MET` between launches, so that nothing sets it back."""


class CannotMeet(KernelError):
    """Kernels that are not of one grid."""

    template = "@{kernel} cannot meet @{other}: {problem}"


def meeting(name: str, *kernels: Operation) -> Operation:
    """Return kernels over one grid (key heads, rows, parts) as one, in which the programs of a row
    and key head meet after each but the last. Arguments: those of all, each once; then meets [B, K]
    i32 (see `MEETS`). The grid is the first one's: no program runs where that has none.
    """
    heads = int(kernels[0]["grid"][0])
    joined = reduce(_after, (_turned(kernel) for kernel in kernels))
    region = joined.regions[0]
    row, head = Value("met_row", INDEX), Value("met_head", INDEX)
    own = Value(MEETS, buffer("i32", "B", heads))
    ids = [make("tile.program_id", results=(value,), axis=axis)
           for value, axis in ((head, 1), (row, 2))]  # fmt: skip
    body = [replace(op, operands=(own, row, head)) if op.name == "tile.meet" else op
            for op in region.operations]  # fmt: skip
    region = Region((*region.arguments, own), (*ids, *body))
    return replace(joined, regions=(region,)).with_attributes(
        name=Symbol(name), writes=(*joined["writes"], MEETS)
    )


def _turned(kernel: Operation) -> Operation:
    """Return a kernel whose last grid axis comes first."""
    grid = kernel["grid"]

    def turned(op: Operation) -> Operation:
        regions = tuple(replace(region, operations=tuple(map(turned, region.operations)))
                        for region in op.regions)  # fmt: skip
        op = replace(op, regions=regions)
        if op.name != "tile.program_id":
            return op
        return op.with_attributes(axis=(op["axis"] + 1) % len(grid))

    return turned(kernel).with_attributes(grid=(grid[-1], *grid[:-1]))


def _after(first: Operation, second: Operation) -> Operation:
    """Return two kernels as one, with a meeting between them."""
    if len(first["grid"]) != 3 or first["grid"][1:] != second["grid"][1:]:
        raise CannotMeet(kernel=first["name"].name, other=second["name"].name,
                         problem="their grids are not of the same key heads and rows")  # fmt: skip
    mine, others = first.regions[0], second.regions[0]
    known = {value.name: value for value in mine.arguments}
    for value in others.arguments:
        if known.setdefault(value.name, value) != value:
            raise CannotMeet(kernel=first["name"].name, other=second["name"].name,
                             problem=f"%{value.name} has two types")  # fmt: skip
    before = _renamed(mine.operations[:-1], set(known))
    taken = {name for op in walk(before) for name in _names(op)}
    rest = _renamed(others.operations, taken | set(known))
    body = (*before, make("tile.meet", axis=0), *rest)
    both = {key: tuple(dict.fromkeys((*first.attribute(key, ()), *second.attribute(key, ()))))
            for key in ("requires", "writes")}  # fmt: skip
    return replace(first, regions=(Region(tuple(known.values()), body),)).with_attributes(**both)


def _names(op: Operation) -> list[str]:
    """Return the names that an operation and its regions give values."""
    inside = [value.name for region in op.regions for value in region.arguments]
    return [value.name for value in op.results] + inside


def _renamed(operations: tuple[Operation, ...], taken: set[str]) -> tuple[Operation, ...]:
    """Return operations whose values have names that are not taken."""
    names: dict[str, str] = {}
    taken = set(taken)
    for op in walk(operations):
        for name in _names(op):
            new = name
            while new in taken:
                new += "_then"
            names[name] = new
            taken.add(new)

    def value(old: Value) -> Value:
        return Value(names.get(old.name, old.name), old.type)

    def renamed(op: Operation) -> Operation:
        regions = tuple(
            Region(tuple(map(value, region.arguments)), tuple(map(renamed, region.operations)))
            for region in op.regions
        )
        return replace(op, operands=tuple(map(value, op.operands)), regions=regions,
                       results=tuple(map(value, op.results)))  # fmt: skip

    return tuple(map(renamed, operations))
