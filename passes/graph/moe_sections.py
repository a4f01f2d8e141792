"""Divides a mixture-of-experts step into the pieces that run as one: what each operation is of."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.core import Operation
from ...ir.diagnostics import PassError

DEVICE, HOST = "device", "host"


class NoExperts(PassError):
    """A model that cannot be partitioned by its experts."""

    template = "the model cannot be partitioned: {problem}"
    hint = "models whose every layer has experts can be offloaded; this one needs a GPU it fits"


@dataclass(frozen=True)
class Piece:
    """Operations of one kind and layer (-1: of none), and where they run."""

    kind: str
    place: str
    layer: int
    operations: list[Operation] = field(default_factory=list)


_STARTS = {
    "graph.embedding": "embed", "graph.qkv_rope_write": "append", "graph.kvset": "attend",
    "graph.moe_expert": "experts", "graph.moe_combine": "combine", "graph.take_rows": "head",
    "graph.return": "return",
}  # fmt: skip
"""Operations that begin a piece, or go on with it."""

_AFTER = {"embed": "pre", "append": "attend", "attend": "route", "combine": "pre"}
"""What an operation that begins nothing belongs to, after a piece of this kind."""


def pieces(function: Operation, attention: str) -> list[Piece]:
    """Return a step's pieces in order; `attention` is its place. Raises NoExperts."""
    found: list[Piece] = []
    weights: dict[str, Operation] = {}
    for operation in function.regions[0].operations:
        if operation.name == "graph.weight":
            weights[operation.result.name] = operation
            continue
        kind = _kind_of(operation, found[-1] if found else None)
        if not found or found[-1].kind != kind:
            found.append(_begin(kind, attention, found[-1] if found else None))
        read = [weights[v.name] for v in operation.operands if v.name in weights]
        known = {op.result.name for op in found[-1].operations if op.name == "graph.weight"}
        found[-1].operations.extend(op for op in read if op.result.name not in known)
        found[-1].operations.append(operation)
    layers = sum(piece.kind == "experts" for piece in found)
    if layers == 0 or layers != sum(piece.kind == "append" for piece in found):
        problem = f"{layers} of its layers have experts"
        raise NoExperts(problem=problem, span=function.span)
    return found


def _kind_of(operation: Operation, last: Piece | None) -> str:
    if operation.name in _STARTS:
        return _STARTS[operation.name]
    if last is None:
        raise NoExperts(problem=f"it begins with {operation.name}", span=operation.span)
    residual = last.kind == "combine" and operation.name == "graph.add"
    if residual and sum(op.name == "graph.add" for op in last.operations) == 0:
        return "combine"
    if last.kind == "attend" and operation.name in {"graph.partial", "graph.finalize"}:
        return "attend"
    return _AFTER.get(last.kind, last.kind)


def _begin(kind: str, attention: str, last: Piece | None) -> Piece:
    place = attention if kind in {"append", "attend"} else DEVICE
    if kind in {"embed", "head", "return"}:
        return Piece(kind, place, -1)
    layer = -1 if last is None else last.layer
    return Piece(kind, place, layer + 1 if kind == "pre" else layer)
