"""Fusions of graph IR: sibling matmuls into one, residual with norm, the way from q, k, v to pages.

Each looks at one pattern, and takes values out only when nothing else uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...ir.core import Module, Operation, make, thaw
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions


@dataclass(frozen=True)
class FuseSiblingMatmuls(GraphPass):
    """Joins matmuls of one input (q, k, v; gate, up) into one over joined rows of weights.

    x is read once and one larger kernel runs; the parts come out of a `graph.split`.
    """

    name: ClassVar[str] = "fuse-sibling-matmuls"
    ensures: ClassVar[tuple[str, ...]] = ("joined-matmuls",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with sibling matmuls joined."""
        return rewrite_functions(module, lambda body: self._join_all(body, context))

    def _join_all(self, body: Body, context: Context) -> None:
        groups: dict[str, list[Operation]] = {}
        for operation in body.operations:
            if operation.name == "graph.matmul":
                groups.setdefault(operation.operands[0].name, []).append(operation)
        for group in groups.values():
            reason = _why_apart(body, group)
            if len(group) > 1 and reason:
                context.left(f"{len(group)} matmuls of %{group[0].operands[0].name}: {reason}")
            elif len(group) > 1:
                _join(body, group)


def _why_apart(body: Body, group: list[Operation]) -> str:
    parts = [body.made_by(value, "graph.weight") for op in group for value in op.operands[1:]]
    if any(part is None or not isinstance(part["tensors"], str) for part in parts):
        return "a weight is no single tensor of the checkpoint"
    if any(body.uses[value.name] > 1 for op in group for value in op.operands[1:]):
        return "a weight has another use"
    if len({part.attribute("shard") for part in parts if part is not None}) > 1:
        return "they are split between ranks in different ways"
    if len({len(op.operands) for op in group}) > 1:
        return "some have a bias and some not"
    return ""


def _join(body: Body, group: list[Operation]) -> None:
    x, last = group[0].operands[0], group[-1]
    rows = [shape_of(op.result.type)[1] for op in group]
    new: list[Operation] = []
    joined = [x]
    for place in range(1, len(group[0].operands)):
        weights = [body.maker[op.operands[place].name] for op in group]
        new.append(_joined_weight(body, weights, rows))
        joined.append(new[-1].result)
    hint = "_".join(op.result.name.split("_")[0] for op in group)
    width = body.names.value(hint, tensor("f32", shape_of(x.type)[0], sum(rows)))  # type: ignore[arg-type]
    new.append(make("graph.matmul", *joined, results=(width,), span=last.span))
    parts = tuple(op.result for op in group)
    new.append(make("graph.split", width, results=parts, sizes=rows, span=last.span))
    gone = [*group, *(body.maker[v.name] for op in group for v in op.operands[1:])]
    body.replace(last, gone, new)


def _joined_weight(body: Body, weights: list[Operation], rows: Sequence[object]) -> Operation:
    shape = shape_of(weights[0].result.type)
    hint = "_".join(dict.fromkeys("".join(w.result.name.split("_")[:2]) for w in weights))
    type = tensor(dtype_of(weights[0].result.type), sum(rows), *shape[1:])  # type: ignore[arg-type]
    return make(
        "graph.weight", results=(body.names.value(hint, type),),
        tensors=[w["tensors"] for w in weights],
        rows=None if len(set(rows)) == 1 else rows, shard=weights[0].attribute("shard"),
    )  # fmt: skip


@dataclass(frozen=True)
class DropConcatOfSplit(GraphPass):
    """Takes out a concat that puts the parts of a split together again."""

    name: ClassVar[str] = "drop-concat-of-split"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module without such concats, nor splits that nothing uses any more."""
        return rewrite_functions(module, self._drop)

    @staticmethod
    def _drop(body: Body) -> None:
        for concat in body.operations:
            if concat.name != "graph.concat":
                continue
            split = body.made_by(concat.operands[0], "graph.split")
            if split is None or split.results != concat.operands:
                continue
            body.rename(concat.result, split.operands[0])
            alone = all(body.uses[value.name] == 1 for value in split.results)
            body.replace(concat, [concat, split] if alone else [concat], [])


@dataclass(frozen=True)
class FuseAddNorm(GraphPass):
    """Joins a residual sum with the norm that follows it: the sum is read while in registers."""

    name: ClassVar[str] = "fuse-add-norm"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with sums and norms joined."""
        return rewrite_functions(module, self._fuse)

    @staticmethod
    def _fuse(body: Body) -> None:
        for norm in body.operations:
            if norm.name != "graph.rmsnorm":
                continue
            add = body.made_by(norm.operands[0], "graph.add")
            if add is None or body.users(add.result, "graph.rmsnorm") != [norm]:
                continue
            weight = body.maker[norm.operands[1].name]
            fused = make(
                "graph.add_rmsnorm", *add.operands, norm.operands[1],
                results=(add.result, norm.result), eps=norm["eps"], span=norm.span,
            )  # fmt: skip
            body.replace(add, [add, weight, norm], [weight, fused])


@dataclass(frozen=True)
class FuseRopeWrite(GraphPass):
    """Joins what stands between the qkv matmul and attention into one kernel's work.

    Split, head norms, both rotations and the write to pages become `graph.qkv_rope_write`.
    """

    name: ClassVar[str] = "fuse-rope-write"
    requires: ClassVar[tuple[str, ...]] = ("joined-matmuls",)
    ensures: ClassVar[tuple[str, ...]] = ("fused-rope-write",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with the pattern fused wherever it stands."""
        return rewrite_functions(module, lambda body: self._fuse_all(body, context))

    @staticmethod
    def _fuse_all(body: Body, context: Context) -> None:
        for write in body.operations:
            if write.name == "graph.kv_write" and not _fuse_rope_write(body, write):
                context.left("a kv_write whose k and v do not come from one split", write.span)


def _fuse_rope_write(body: Body, write: Operation) -> bool:
    """Fuse the pattern that ends in this write, if it is there."""
    k_rope = body.made_by(write.operands[0], "graph.rope")
    split = body.made_by(write.operands[1], "graph.split")
    if k_rope is None or split is None or len(split.results) != 3:
        return False
    k_norm = body.made_by(k_rope.operands[0], "graph.head_norm")
    if (k_norm or k_rope).operands[0] != split.results[1] or write.operands[1] != split.results[2]:
        return False
    q = split.results[0]
    norms = body.users(q, "graph.head_norm")
    ropes = body.users(norms[0].result if norms else q, "graph.rope")
    if len(ropes) != 1 or bool(norms) != (k_norm is not None):
        return False
    q_rope, weights = ropes[0], [norms[0].operands[1], k_norm.operands[1]] if k_norm else []
    fused = make(
        "graph.qkv_rope_write", split.operands[0], k_rope.operands[1], write.operands[2], *weights,
        results=(q_rope.result,), layer=write["layer"], heads=q_rope["heads"],
        kv_heads=k_rope["heads"], head_dim=q_rope["head_dim"], rope=thaw(q_rope["rope"]),
        eps=k_norm["eps"] if k_norm else None, span=write.span,
    )  # fmt: skip
    gone = [split, q_rope, k_rope, write, *norms, *([k_norm] if k_norm else [])]
    body.replace(write, gone, [fused])
    return True
