"""Tensor parallel: the part of a model that one of several ranks computes, with what they exchange.

Heads and feed-forward columns are split between ranks (Megatron-LM, arXiv:1909.08053, section 3):
q, k, v, gate and up keep some of their rows, o and down the columns that meet them, and the sum
over ranks is a `graph.all_reduce`. Experts are split whole (expert parallel): a rank computes the
pairs of its own experts. Each rank computes logits of some of the vocabulary, and
`graph.all_gather` joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import gcd
from typing import ClassVar

from ...ir.core import Module, Operation, Value, make
from ...ir.diagnostics import PassError
from ...ir.model import ModelConfig
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions


class DoesNotDivide(PassError):
    """A number of ranks that does not divide what they would share."""

    template = "tp = {count} does not divide {what}"
    hint = "this model runs on {possible} ranks"


class CannotShard(PassError):
    """An operation that has no form over a part of its operand's columns."""

    template = "{operation} cannot be computed of a part of its columns"


def local_config(config: ModelConfig, count: int) -> ModelConfig:
    """Return the configuration of one rank: its share of the heads of queries, keys and values."""
    return replace(config, heads=config.heads // count, kv_heads=config.kv_heads // count)


@dataclass(frozen=True)
class TensorParallel(GraphPass):
    """Keeps the part of a model that rank `rank` of `count` computes; raises DoesNotDivide."""

    rank: int = 0
    count: int = 2

    name: ClassVar[str] = "tensor-parallel"
    ensures: ClassVar[tuple[str, ...]] = ("tensor-parallel",)
    keeps: ClassVar[tuple[str, ...]] = ()

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with local shapes, and collective operations between them."""
        if self.count == 1:
            return module
        return rewrite_functions(module, lambda body: _Sharding(self, body, context).run())


@dataclass
class _Sharding:
    """One function: which values are columns of this rank, and what stands for each operation."""

    options: TensorParallel
    body: Body
    context: Context
    columns: set[str] = field(default_factory=set)  # matmuls that keep some of their rows
    local: dict[str, Value] = field(default_factory=dict)  # what a value has become here
    shards: dict[str, int] = field(default_factory=dict)  # axis of a weight that is split

    def run(self) -> None:
        self._require_divisible()
        for op in self.body.operations:
            for place in _SPLIT.get(op.name, ()):
                self._split_maker(op.operands[place])
        logits = self._logits()
        for op in self.body.operations:
            if op.name == "graph.weight" or op.name == "graph.return":
                continue
            new = self._gathered(op) if op is logits else self._rule(op)
            if new is not None:
                self.body.replace(op, [op], new)
        for op in self.body.operations:
            if op.name == "graph.weight" and op.result.name in self.shards:
                part = self._part(op, op.result, self.shards[op.result.name])
                self.body.replace(op, [op], [part])
                self.body.rename(op.result, part.result)
        self._remark()

    def _remark(self) -> None:
        made = [op.name for new in self.body.added() for op in new]
        sums, joins = made.count("graph.all_reduce"), made.count("graph.all_gather")
        self.context.did(
            f"rank {self.options.rank} of {self.options.count}: {len(self.shards)} weights split, "
            f"{sums} sums over ranks, {joins} joins of columns"
        )

    def _require_divisible(self) -> None:
        """Raise DoesNotDivide for heads, feed-forward columns or experts that cannot be shared."""
        shared: dict[str, int] = {}
        for op in self.body.operations:
            if op.name == "graph.partial":
                shared["the heads of queries"] = op["heads"]
                shared["the heads of keys and values"] = op["kv_heads"]
            elif op.name == "graph.moe_dispatch":
                shared["the experts"] = op["experts"]
            elif op.name == "graph.silu_mul" and str(shape_of(op.result.type)[0]) == "T":
                shared["the feed-forward columns"] = _columns(op.result)
        count, common = self.options.count, gcd(*shared.values())
        possible = " or ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        for what, size in shared.items():
            if size % count:
                raise DoesNotDivide(count=count, what=f"{what}, {size}", possible=possible)

    def _split_maker(self, value: Value) -> None:
        """Let the matmuls that a value comes from keep some of their rows."""
        maker = self.body.maker.get(value.name)
        if maker is None:
            return
        if maker.name == "graph.matmul":
            self.columns.add(value.name)
        elif maker.name in _SAME_COLUMNS:
            for operand in maker.operands:
                self._split_maker(operand)

    def _logits(self) -> Operation | None:
        """Return the matmul that gives logits, if ranks can share its columns."""
        last = self.body.operations[-1]
        logits = self.body.made_by(last.operands[0], "graph.matmul")
        if logits is None or _columns(logits.result) % self.options.count:
            self.context.left("every rank computes all logits: the vocabulary does not divide")
            return None
        return logits

    def _rule(self, op: Operation) -> list[Operation] | None:
        """Return what stands for an operation; None where it stays."""
        rule = _RULES.get(op.name)
        if rule is not None:
            return rule(self, op)
        if any(value.name in self.local for value in op.operands):
            raise CannotShard(operation=op.name, span=op.span)
        return None

    def _narrow(self, value: Value) -> Value:
        """Return the value that this rank has of one whose columns are split."""
        *rows, width = shape_of(value.type)
        type = tensor(dtype_of(value.type), *rows, width // self.options.count)  # type: ignore[operator]
        narrow = self.local[value.name] = replace(value, type=type)
        self.body.rename(value, narrow)
        return narrow

    def same_columns(self, op: Operation) -> list[Operation] | None:
        """Compute fewer heads, or fewer columns, of operands that have them only."""
        if not any(value.name in self.local for value in op.operands):
            return None
        heads = {name: op[name] // self.options.count for name in ("heads", "kv_heads")
                 if op.attribute(name)}  # fmt: skip
        for value in op.results:
            if value.type.name == "tensor":
                self._narrow(value)
            else:
                self.local[value.name] = value
        results = tuple(self.local[value.name] for value in op.results)
        return [replace(op.with_attributes(**heads), results=results)]

    def matmul(self, op: Operation) -> list[Operation] | None:
        """Rows of a weight give columns; columns of a weight give a part of a sum over ranks."""
        x, weight, *bias = op.operands
        if op.result.name in self.columns:
            for value in (weight, *bias):
                self.shards[value.name] = 0
            return [replace(op, results=(self._narrow(op.result),))]
        if x.name not in self.local:
            return None
        self.shards[weight.name] = 1
        if self.options.rank:  # a bias is added once
            for maker in (self.body.maker[value.name] for value in bias):
                self.body.replace(maker, [maker], [])
            bias = []
        return self._summed(replace(op, operands=(x, weight, *bias)))

    def _summed(self, op: Operation) -> list[Operation]:
        """Return an operation whose result is one rank's part, and the sum over ranks."""
        part = self.body.names.value("part", op.result.type)
        whole = make("graph.all_reduce", part, results=op.results, span=op.span)
        return [replace(op, results=(part,)), whole]

    def _gathered(self, op: Operation) -> list[Operation]:
        x, weight, *bias = op.operands
        shape, count = shape_of(op.result.type), self.options.count
        rows, width = shape_of(weight.type)
        assert isinstance(rows, int)
        own = self.body.names.value(
            weight.name, tensor(dtype_of(weight.type), rows // count, width)
        )
        whole = self.body.maker[weight.name]
        if self.body.uses[weight.name] == 1:
            self.body.replace(whole, [whole], [])
        part = self._part(whole, own, 0)
        logits = self.body.names.value("part", tensor("f32", shape[0], rows // count))
        matmul = replace(op, operands=(x, own, *bias), results=(logits,))
        return [part, matmul, make("graph.all_gather", logits, results=op.results, span=op.span)]

    def _part(self, weight: Operation, result: Value, axis: int) -> Operation:
        """Return the operation that reads this rank's part of a weight."""
        rank, count = self.options.rank, self.options.count
        shape = list(shape_of(weight.result.type))
        shape[axis] //= count  # type: ignore[operator]
        result = replace(result, type=tensor(dtype_of(result.type), *shape))
        tensors, weight = weight["tensors"], replace(weight, results=(result,))
        if isinstance(tensors, tuple):  # a list of experts
            size = len(tensors) // count
            return weight.with_attributes(tensors=tensors[rank * size : (rank + 1) * size])
        return weight.with_attributes(shard=(axis, rank, count))

    def route(self, op: Operation) -> list[Operation]:
        """Choose among all experts; number this rank's from 0, and weigh the others' with 0."""
        dispatch = self.body.users(op.results[1], "graph.moe_dispatch")[0]
        size = dispatch["experts"] // self.options.count
        first = self.options.rank * size
        return [op.with_attributes(local=(first, first + size))]

    def dispatch(self, op: Operation) -> list[Operation]:
        """Order the pairs of this rank's experts; pairs of others come after them."""
        order, starts = op.results
        size = op["experts"] // self.options.count
        own = replace(starts, type=tensor("i32", size + 1))
        self.body.rename(starts, own)
        return [replace(op, results=(order, own)).with_attributes(experts=size)]

    def expert(self, op: Operation) -> list[Operation]:
        """Multiply with this rank's experts; rows of other pairs are not written."""
        self.shards[op.operands[1].name] = 0
        return [op]

    def combine(self, op: Operation) -> list[Operation]:
        """Sum over this rank's pairs, then over ranks."""
        return self._summed(op.with_attributes(partial=True))


def _columns(value: Value) -> int:
    """Return the last extent of a tensor, a number in all of them."""
    extent = shape_of(value.type)[-1]
    assert isinstance(extent, int)
    return extent


_SPLIT = {"graph.partial": (0,), "graph.kv_write": (0, 1), "graph.silu_mul": (0,)}
"""Operations that need some heads or columns only, and which operands those are of."""

_SAME_COLUMNS = ("graph.rope", "graph.head_norm", "graph.concat")
"""Operations whose columns are split where their result's are."""

_RULES: dict[str, Callable[[_Sharding, Operation], list[Operation] | None]] = {
    **dict.fromkeys((*_SAME_COLUMNS, *_SPLIT, "graph.merge", "graph.finalize"),
                    _Sharding.same_columns),
    "graph.matmul": _Sharding.matmul, "graph.moe_route": _Sharding.route,
    "graph.moe_dispatch": _Sharding.dispatch, "graph.moe_expert": _Sharding.expert,
    "graph.moe_combine": _Sharding.combine,
}  # fmt: skip
