"""Cuts each expert into slices of its hidden width, which are experts of their own from then on.

An expert's output is a sum over its hidden units, so S slices of F / S units, each with the weight
that the router gave the expert, sum up to it: slice s of expert e is number e * S + s. So a page is
a slice, and everything that places, moves and computes experts does so with a part of one.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.core import Operation, Value, walk
from ...ir.types import dtype_of, shape_of, tensor

ROWS, COLUMNS = 0, 1
"""What slices are of a weight [E, N, K]: rows of gate and of up alike, or columns of down."""


def sliced(function: Operation, count: int) -> Operation:
    """Return a step whose experts are cut into `count` slices each; F must divide by it."""
    if count == 1:
        return function
    region, made = function.regions[0], _Slices(count, function)
    operations = tuple(made.operation(op) for op in region.operations)
    return replace(function, regions=(replace(region, operations=operations),))


def slices_of(function: Operation) -> int:
    """Return how many slices each expert of a step has."""
    found = (op.attribute("slices", 1) for op in walk(function.regions[0].operations)
             if op.name == "graph.moe_route")  # fmt: skip
    return next(found, 1)


class _Slices:
    """Rewrites operations; values keep their names, and some have other types from then on."""

    def __init__(self, count: int, function: Operation) -> None:
        self._count = count
        self._types: dict[str, Value] = {}
        self._axes: dict[str, int] = {}
        users: dict[str, Operation] = {}
        for op in function.regions[0].operations:
            if op.name == "graph.moe_expert":
                weight, rows = op.operands[1], op.operands[0]
                below = users.get(rows.name)
                self._axes[weight.name] = COLUMNS if below is not None else ROWS
            if op.name in {"graph.moe_expert", "graph.silu_mul"}:
                users[op.result.name] = op

    def operation(self, op: Operation) -> Operation:
        """Return an operation over slices."""
        operands = tuple(self._types.get(v.name, v) for v in op.operands)
        op = replace(op, operands=operands)
        rule = {
            "graph.weight": self._weight, "graph.moe_route": self._route,
            "graph.moe_dispatch": self._dispatch, "graph.moe_expert": self._expert,
            "graph.silu_mul": self._silu,
        }.get(op.name)  # fmt: skip
        return op if rule is None else rule(op)

    def _typed(self, op: Operation, *shapes: tuple[object, ...]) -> Operation:
        results = tuple(
            Value(v.name, tensor(dtype_of(v.type), *shape))  # type: ignore[arg-type]
            for v, shape in zip(op.results, shapes, strict=True)
        )
        self._types |= {value.name: value for value in results}
        return replace(op, results=results)

    def _weight(self, op: Operation) -> Operation:
        axis = self._axes.get(op.result.name)
        if axis is None:
            return op
        experts, n, k = (int(extent) for extent in shape_of(op.result.type))  # type: ignore[arg-type]
        n, k = (n // self._count, k) if axis == ROWS else (n, k // self._count)
        cut = op.with_attributes(slices=(axis, self._count))
        return self._typed(cut, (experts * self._count, n, k))

    def _route(self, op: Operation) -> Operation:
        shapes = ((t, int(a) * self._count) for t, a in (shape_of(v.type) for v in op.results))  # type: ignore[arg-type]
        return self._typed(op.with_attributes(slices=self._count), *shapes)

    def _dispatch(self, op: Operation) -> Operation:
        experts = op["experts"] * self._count
        return self._typed(op.with_attributes(experts=experts), shape_of(op.results[0].type),
                           (experts + 1,))  # fmt: skip

    def _expert(self, op: Operation) -> Operation:
        rows = shape_of(op.result.type)[0]
        width = shape_of(op.operands[1].type)[1]
        first = self._axes[op.operands[1].name] == ROWS  # of rows by token, the other by pair
        per_row = op["per_row"] * (self._count if first else 1)
        return self._typed(op.with_attributes(per_row=per_row), (rows, width))

    def _silu(self, op: Operation) -> Operation:
        if op.operands[0].name not in self._types:
            return op
        rows, width = shape_of(op.operands[0].type)
        return self._typed(op, (rows, int(width) // 2))  # type: ignore[arg-type]
