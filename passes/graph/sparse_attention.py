"""Sparse attention in the attention algebra: decode steps read the keys that labels point out.

`OrderChannels` puts the channels of q and k in calibrated order behind rope, and has labels written
beside the keys; scores do not change by that. `SparseAttention` then rewrites a `partial` over a
kvset into the merge of two: over what `select` takes of the middle, and over the sinks and the
recent window. Only `select` is approximate; its type says so, and so do those of what comes of it.
A policy with a tail merges one part more, `tail`: what `select` left out, by estimate; sums of v,
which it takes for that, are kept by page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...cost_model.expected_reads import Expected
from ...cost_model.hardware import Level
from ...cost_model.hardware_file import load
from ...cost_model.sparse_attention import (
    by_steps,
    can_share,
    dense_seconds,
    least_context,
    sparse_seconds,
)
from ...cost_model.sparse_bytes import AttentionShape
from ...ir.core import Module, Operation, Term, Value, freeze, make
from ...ir.sparse.policy import SHARERS, SparsePolicy, parse_policy
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions

APPROXIMATE = Term("approximate")
KVSET, STATE = Term("kvset"), Term("state")


@dataclass(frozen=True)
class OrderChannels(GraphPass):
    """Writes k, and q, in calibrated order of channels, and labels of k, in layers that a policy
    may make sparse."""

    policy: str = "sparse(ratio=1/16)"

    name: ClassVar[str] = "order-channels"
    requires: ClassVar[tuple[str, ...]] = ("fused-rope-write",)
    ensures: ClassVar[tuple[str, ...]] = ("labels",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with labels."""
        policy = parse_policy(self.policy)
        if policy is None:
            return module
        done: list[int] = []
        module = rewrite_functions(module, lambda body: self._label(body, policy, done))
        width = policy.label_channels(_head_dim(module)) if done else 0
        sums = ", and keep sums of v by page" if policy.tail != "none" else ""
        context.did(f"{len(done)} layers write labels of {width} channels in {policy.labels}{sums}")
        return module

    @staticmethod
    def _label(body: Body, policy: SparsePolicy, done: list[int]) -> None:
        kvsets = {op["layer"]: op for op in body.operations if op.name == "graph.kvset"}
        for write in body.operations:
            layer = write.attribute("layer")
            if write.name != "graph.qkv_rope_write" or layer in policy.dense:
                continue
            if layer in kvsets and kvsets[layer].attribute("window"):
                continue
            done.append(layer)
            label = make(
                "graph.label_write", write.operands[2], layer=layer, kv_heads=write["kv_heads"],
                head_dim=write["head_dim"], channels=policy.label_channels(write["head_dim"]),
                format=policy.labels, words=policy.in_words(write["head_dim"]) or None,
                span=write.span,
            )  # fmt: skip
            more = [_value_sums(body, write, kvsets[layer])] if policy.tail != "none" else []
            body.replace(write, [write], [write.with_attributes(ordered=True), label, *more])


@dataclass(frozen=True)
class SparseAttention(GraphPass):
    """Lets decode steps read what a policy selects, in layers and from contexts where it pays.

    `hardware` is what the price is made with (a shipped name or a file), by its first level of a
    `kind` (cpu or gpu; "": by its first); `batch` how many sequences share a step; `share` of a
    context an adaptive policy was measured to read (0: not measured).
    With `always` sparse attention starts where the policy says, at any price. The step's function
    gets `attention = {policy, least}`: from `least` tokens of context on it pays in all layers that
    it is taken in, as a step is sparse or is not.
    """

    policy: str = "sparse(ratio=1/16)"
    hardware: str = "cpu-generic"
    kv: str = "f32"
    context_length: int = 131072
    batch: int = 1
    always: bool = False
    share: float = 0.0
    kind: str = ""

    name: ClassVar[str] = "sparse-attention"
    requires: ClassVar[tuple[str, ...]] = ("labels",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with sparse decode attention where it pays."""
        policy = parse_policy(self.policy)
        if policy is None:
            return module
        leasts = self._leasts(module, policy, context)
        found: list[int] = []

        def rewrite(body: Body) -> None:
            self._rewrite(body, policy, leasts, context, found)

        shapes = list(leasts)
        module = rewrite_functions(module, rewrite)
        if not found:
            return module
        least = max(least for least in leasts.values() if least is not None)
        context.did(f"layers {_ranges(found)} read what {policy} selects, from {least} tokens of "
                    "context on")  # fmt: skip
        shared = {"shared": True} if self._shares(shapes[0], policy, context) else {}
        chosen = freeze({"policy": str(policy), "least": least, **shared})
        return Module(tuple(op.with_attributes(attention=chosen) if op.name == "graph.func" else op
                            for op in module.operations))  # fmt: skip

    def _leasts(
        self, module: Module, policy: SparsePolicy, context: Context
    ) -> dict[AttentionShape, int | None]:
        """Return, for each shape of a layer, from which context on sparse pays, and say what it
        costs; None: it never does."""
        shapes = dict.fromkeys(self._shape(op) for op in module.walk()
                               if op.name == "graph.partial")  # fmt: skip
        if self.always:
            return dict.fromkeys(shapes, 0)
        level, most = load(self.hardware).of_kind(self.kind), self.context_length
        found: dict[AttentionShape, int | None] = {}
        for shape in shapes:
            least = least_context(shape, level, policy, most, self.batch, self.share)
            say = context.left if least is None else context.did
            place = "at no context up to" if least is None else f"from {least} tokens on; at"
            say(f"{policy} pays {place} {most}: {self._costs(shape, level, policy, most)}")
            found[shape] = least
        return found

    def _shape(self, partial: Operation) -> AttentionShape:
        return AttentionShape(partial["heads"], partial["kv_heads"], partial["head_dim"], self.kv)

    def _shares(self, shape: AttentionShape, policy: SparsePolicy, context: Context) -> bool:
        """Return, and say, whether labels of a prefix are scored once for rows that share it; and
        say who rounds queries, where labels are multiplied as bytes."""
        level = load(self.hardware).of_kind(self.kind)
        if by_steps(level.kind, policy, shape.head_dim):
            context.did("queries are rounded to bytes by every program that scores labels of one "
                        "row, while its first labels come")  # fmt: skip
        if not can_share(shape, level, policy):
            return False
        if self.always:
            context.did(f"labels that rows share are scored once for up to {SHARERS} of them, "
                        "whose queries a launch has rounded before")  # fmt: skip
        else:
            context.did("labels that rows share are scored row by row: arithmetic bounds both ways")
        return self.always

    def _costs(self, shape: AttentionShape, level: Level, policy: SparsePolicy, most: int) -> str:
        dense = dense_seconds(shape, level, most, self.batch) * 1e6
        sparse = sparse_seconds(shape, level, policy, most, self.batch, self.share) * 1e6
        expected = Expected.of(policy, self.share)
        reads = f"; {expected}" if expected else ""
        return (f"{dense:.1f} us a layer dense, {sparse:.1f} us sparse, by {self.hardware} for a "
                f"batch of {self.batch}{reads}")  # fmt: skip

    def _rewrite(
        self, body: Body, policy: SparsePolicy, leasts: dict[AttentionShape, int | None],
        context: Context, found: list[int],
    ) -> None:  # fmt: skip
        labels = {op["layer"]: op for op in body.operations if op.name == "graph.label_write"}
        expected = Expected.of(policy, self.share)
        for partial in body.operations:
            if partial.name != "graph.partial" or leasts[self._shape(partial)] is None:
                continue
            kvset = body.maker[partial.operands[2].name]
            layer = kvset["layer"]
            if layer not in labels:
                why = "a sliding window" if kvset.attribute("window") else "dense by the policy"
                context.left(f"layer {layer}: {why}", partial.span)
                continue
            found.append(layer)
            made = _parts(body, partial, kvset, labels[layer], policy)
            if expected is not None:
                made = [op.with_attributes(expected=round(expected.share, 4))
                        if op.name == "graph.select" else op for op in made]  # fmt: skip
            body.replace(partial, [partial, kvset], made)
            body.rename(partial.result, made[-1].result)


def _parts(
    body: Body, partial: Operation, kvset: Operation, label: Operation, policy: SparsePolicy
) -> list[Operation]:
    """Return the operations that stand for a partial: the selected middle, the forced ends, the
    tail where the policy has one, and their merge."""
    q, starts, _ = partial.operands

    def value(hint: str, type: Term) -> Value:
        return body.names.value(hint, type)

    def view(hint: str, kind: Term) -> Operation:
        return make("graph.kvset", *kvset.operands, results=(value(hint, KVSET),),
                    layer=kvset["layer"], kind=kind, span=kvset.span)  # fmt: skip

    def part(of: Value) -> Operation:
        state = value("state", Term("state", of.type.parameters))
        return make("graph.partial", q, starts, of, span=partial.span, results=(state,),
                    **_attributes(partial))  # fmt: skip

    unit = Term(policy.unit)
    labels = view("labels", Term("labels", (label["channels"], Term(label["format"]))))
    select = make(
        "graph.select", q, starts, labels.result, layer=kvset["layer"], policy=str(policy),
        heads=partial["heads"], kv_heads=partial["kv_heads"], head_dim=partial["head_dim"],
        scale=partial["scale"], results=(value("middle", Term("kvset", (APPROXIMATE,))),),
        span=partial.span,
    )  # fmt: skip
    ends = view("ends", Term("ends", (policy.sinks, policy.recent, unit)))
    middle, near = part(select.result), part(ends.result)
    parts = [middle, near]
    if policy.tail != "none":
        tail = make("graph.tail", q, starts, labels.result, select.result, span=partial.span,
                    results=(value("tail", Term("state", (APPROXIMATE,))),), layer=kvset["layer"],
                    **_attributes(partial, causal=False))  # fmt: skip
        parts.append(tail)
    merge = make("graph.merge", *(each.result for each in parts), span=partial.span,
                 results=(value("state", Term("state", (APPROXIMATE,))),))  # fmt: skip
    return [labels, select, middle, ends, near, *parts[2:], merge]


def _attributes(operation: Operation, causal: bool = True) -> dict[str, Any]:
    names = ("heads", "kv_heads", "head_dim", "scale", *(["causal"] if causal else []))
    return {name: operation[name] for name in names if operation.attribute(name) is not None}


def _value_sums(body: Body, write: Operation, kvset: Operation) -> Operation:
    """Return what keeps the sums of v that a layer writes."""
    partial = next(op for op in body.operations
                   if op.name == "graph.partial" and op.operands[2] == kvset.result)  # fmt: skip
    table, lengths = kvset.operands
    return make("graph.value_sums", partial.operands[1], lengths, table, layer=write["layer"],
                kv_heads=write["kv_heads"], head_dim=write["head_dim"],
                span=write.span)  # fmt: skip


def _head_dim(module: Module) -> int:
    return next(op["head_dim"] for op in module.walk() if op.name == "graph.qkv_rope_write")


def _ranges(layers: list[int]) -> str:
    """Return layers as text: 0-3, 5."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
