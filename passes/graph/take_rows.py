"""Where the rows are taken whose logits are wanted.

A step of many rows wants logits of few. Behind the last attention no row sees another, so the
products of the last layer need those few rows only: of L layers 1 / L of nearly all products. A
decode step wants the logits of nearly all rows: there the last layer is computed as the others are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.core import Module, Operation, Value, make
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass
from ..rewrite import substitute
from .body import Body, rewrite_functions

BY_ROWS = frozenset(
    "graph." + name for name in ("matmul", "add", "rmsnorm", "silu_mul", "concat", "all_reduce")
)
"""Operations of which a row depends on the same row of their operands only."""


@dataclass(frozen=True)
class TakeRowsEarly(GraphPass):
    """Moves `graph.take_rows` before the products that only its result needs."""

    name: ClassVar[str] = "take-rows-early"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with each such operation moved as far as it goes."""
        return rewrite_functions(module, lambda body: self._move_all(body, context))

    def _move_all(self, body: Body, context: Context) -> None:
        for take in [op for op in body.operations if op.name == "graph.take_rows"]:
            moved = _needed_by(body, take)
            products = sum(op.name == "graph.matmul" for op in moved)
            if products:
                _move(body, take, moved)
                context.did(f"{products} products of the last layer compute wanted rows only",
                            take.span)  # fmt: skip
            else:
                context.left("no product stands between the last attention and the wanted rows",
                             take.span)  # fmt: skip


@dataclass(frozen=True)
class TakeRowsLate(GraphPass):
    """Moves `graph.take_rows` from between a layer's last sum and the norm behind it, so that both
    are one launch, as within layers."""

    name: ClassVar[str] = "take-rows-late"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such rows taken of what the norm gives."""
        return rewrite_functions(module, lambda body: self._all(body, context))

    @staticmethod
    def _all(body: Body, context: Context) -> None:
        for take in [op for op in body.operations if op.name == "graph.take_rows"]:
            x, rows = take.operands
            norms = body.users(take.result, "graph.rmsnorm")
            alone = len(norms) == body.uses[take.result.name] == body.uses[x.name] == 1
            if not alone or body.made_by(x, "graph.add") is None:
                continue
            (norm,) = norms
            type = tensor(dtype_of(norm.result.type), *shape_of(x.type))
            whole = body.names.value("normed", type)
            new = [
                replace(norm, operands=(x, *norm.operands[1:]), results=(whole,)),
                replace(take, operands=(whole, rows), results=norm.results),
            ]
            body.replace(norm, [take, norm], new)
            context.did("the last sum and norm are one launch, of all rows", take.span)


def _needed_by(body: Body, take: Operation) -> list[Operation]:
    """Return the operations by rows that only the taken rows need, in order."""
    region: list[Operation] = [take]
    for op in reversed(body.operations):
        if op.name in BY_ROWS and len(op.results) == 1:
            users = [user for user in body.operations if op.result in user.operands]
            if users and all(any(user is known for known in region) for user in users):
                region.append(op)
    return region[:0:-1]


def _move(body: Body, take: Operation, moved: list[Operation]) -> None:
    """Put the operations where the rows are taken, over rows that are taken before them."""
    rows = take.operands[1]
    (extent,) = shape_of(rows.type)
    made = {op.result.name for op in moved}
    taken: dict[str, Value] = {}
    new: list[Operation] = []

    def narrow(value: Value) -> Value:
        return replace(value, type=tensor(dtype_of(value.type), extent, *shape_of(value.type)[1:]))

    for op in moved:
        for value in op.operands:
            if value.name in taken or body.made_by(value, "graph.weight"):
                continue
            if value.name in made:
                taken[value.name] = narrow(value)
                continue
            wanted = taken[value.name] = body.names.value("taken", narrow(value).type)
            new.append(make("graph.take_rows", value, rows, results=(wanted,), span=take.span))
        new.append(replace(substitute(op, taken), results=(narrow(op.result),)))
    last = narrow(take.operands[0])
    body.rename(take.result, last)
    body.replace(take, [take, *moved], new)
