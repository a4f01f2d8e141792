"""The meaning of graph operations, in torch: one small function an operation, no speed in mind.

A run holds keys and values by slot (page * page size + offset), so that chunked and ragged steps
mean the same here as in the executor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ir.core import Module, Operation, thaw
from ...ir.model import Rope
from .moe_meaning import MOE_MEANING


@dataclass(frozen=True)
class State:
    """Attention over a part of the keys: max [T, H], sum [T, H], accumulator [T, H, C]."""

    max: Tensor
    sum: Tensor
    accumulator: Tensor


@dataclass(frozen=True)
class Kvset:
    """Which slots each sequence sees, in order of position; `first` is the first one's position."""

    layer: int
    slots: list[Tensor]
    first: int
    lengths: list[int]
    window: int | None


Attend = Callable[["GraphRun", Operation, Tensor, Tensor, Kvset], State]
"""The meaning of graph.partial: of a run, the operation, q [T, H*C], query_starts, a kvset."""


@dataclass
class GraphRun:
    """One model in one dtype, with its keys and values: `step` may be called again and again.

    `attend`, where given, takes the place of dense attention: to observe q and k after rope
    (`codegen.measure.observe_attention`), or to read only some keys
    (`codegen.meaning.sparse_reference`).
    `meanings` come before those of this module, by operation (`codegen.meaning.sparse_meaning`).
    """

    module: Module
    weights: Mapping[str, Tensor]
    page_size: int = 16
    slots: int = 4096
    dtype: torch.dtype = torch.float32
    exchange: Callable[[Tensor], list[Tensor]] | None = None
    """Returns every rank's tensor, in order; the ranks of a tensor-parallel run have one."""
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    attend: Attend | None = None
    meanings: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def step(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the step; inputs as the graph's arguments: i32, and rows of the head in f32, if they
        are one; returns logits [R, V], or [R, W]."""
        function = self.module.symbol("step")
        environment: dict[str, Any] = {
            value.name: self._argument(inputs[value.name])
            for value in function.regions[0].arguments
        }
        (logits,) = self._run(function.regions[0].operations, environment)
        return logits

    def _argument(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor.long()

    def _run(self, operations: Sequence[Operation], environment: dict[str, Any]) -> tuple[Any, ...]:
        """Run a list of operations to its end; returns what the last one gives."""
        for operation in operations:
            operands = tuple(environment[value.name] for value in operation.operands)
            if operation.name in {"graph.return", "graph.yield"}:
                return operands
            if operation.name == "graph.section":
                results = self._run(operation.regions[0].operations, dict(environment))
            else:
                meaning = self.meanings.get(operation.name) or _MEANING[operation.name]
                results = meaning(self, operation, *operands)
                if len(operation.results) == 1:
                    results = (results,)
            for value, result in zip(operation.results, results or (), strict=True):
                environment[value.name] = result
        raise ValueError("a list of operations has no end")

    def store(self, layer: int, k: Tensor, v: Tensor, slots: Tensor) -> None:
        """Write rows k, v [T, K*C] to slots [T] of a layer."""
        for cache, rows in ((self.keys, k), (self.values, v)):
            if layer not in cache:
                cache[layer] = torch.zeros(self.slots, rows.shape[1], dtype=self.dtype)
            cache[layer][slots] = rows


def run_graph(
    module: Module, weights: Mapping[str, Tensor], tokens: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Run one whole sequence from scratch; returns the logits of every row [T, V]."""
    length = len(tokens)
    pages = -(-length // 16)
    rows = torch.arange(length)
    run = GraphRun(module, weights, slots=pages * 16, dtype=dtype)
    return run.step({
        "tokens": torch.tensor(list(tokens)), "positions": rows, "slots": rows,
        "query_starts": torch.tensor([0, length]), "kv_lengths": torch.tensor([length]),
        "page_table": torch.arange(pages)[None], "logits_rows": rows,
    })  # fmt: skip


def rope_tables(rope: Rope, head_dim: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin [T, C / 2] at positions [T], angles in f32 as checkpoints are trained."""
    frequencies = torch.tensor(rope.inverse_frequencies(head_dim), dtype=torch.float32)
    angles = positions.float()[:, None] * frequencies
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


def _weight(run: GraphRun, operation: Operation) -> Tensor:
    return run.weights[operation.result.name].to(run.dtype)


def _embedding(run: GraphRun, operation: Operation, table: Tensor, ids: Tensor) -> Tensor:
    return table[ids] * operation.attribute("scale", 1.0)


def _matmul(run: GraphRun, operation: Operation, x: Tensor, w: Tensor, bias: Tensor | None = None
            ) -> Tensor:  # fmt: skip
    return F.linear(x, w, bias)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [T, K] / scale as f8e4m3 holds it, and scale [T]: absmax / 448."""
    scale = x.abs().amax(-1).clamp_min(SMALLEST) / 448
    return (x / scale[:, None]).to(torch.float8_e4m3fn).to(x.dtype), scale


SMALLEST = 1e-12
"""What the largest number of a row counts as at least, so that a row of zeros has a scale."""


def _quantize_rows(run: GraphRun, operation: Operation, x: Tensor) -> tuple[Tensor, Tensor]:
    return quantized(x)


def _quantized_last(meaning: Callable[..., Any], plain: int) -> Callable[..., Any]:
    """Return an operation's meaning that rounds its last result where there is one more."""

    def run(run: GraphRun, operation: Operation, *operands: Tensor) -> Any:
        found = meaning(run, operation, *operands)
        if len(operation.results) == plain:
            return found
        *others, last = found if plain > 1 else (found,)
        return (*others, *quantized(last))

    return run


def _scaled_matmul(run: GraphRun, operation: Operation, x: Tensor, scale: Tensor, w: Tensor,
                   bias: Tensor | None = None) -> Tensor:  # fmt: skip
    return F.linear(x * scale[:, None], w, bias)


def _norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def _rmsnorm(run: GraphRun, operation: Operation, x: Tensor, w: Tensor) -> Tensor:
    return _norm(x, w, operation["eps"])


def _add_rmsnorm(run: GraphRun, operation: Operation, x: Tensor, y: Tensor, w: Tensor
                 ) -> tuple[Tensor, Tensor]:  # fmt: skip
    y = y.sum(0) if y.dim() > x.dim() else y
    return x + y, _norm(x + y, w, operation["eps"])


def _silu_mul(run: GraphRun, operation: Operation, x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def _fused_matmul(run: GraphRun, operation: Operation, x: Tensor, w: Tensor, *rest: Tensor
                  ) -> Tensor:  # fmt: skip
    parts = dict(zip(operation["parts"], rest, strict=True))
    if "norm" in parts:
        x = _norm(x, parts["norm"], operation["eps"])
    w = w.transpose(0, 1).flatten(1) if w.dim() == 3 else w  # packed
    y = F.linear(x, w, parts.get("bias"))
    if operation.attribute("silu"):
        y = _silu_mul(run, operation, y)
    return y + parts["residual"] if "residual" in parts else y


def _cut_matmul(run: GraphRun, operation: Operation, x: Tensor, w: Tensor) -> Tensor:
    parts = zip(x.chunk(operation["cuts"], -1), w.chunk(operation["cuts"], -1), strict=True)
    return torch.stack([F.linear(*part) for part in parts])


def _split(run: GraphRun, operation: Operation, x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, thaw(operation["sizes"]), dim=-1)


def _concat(run: GraphRun, operation: Operation, *parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=-1)


def _head_norm(run: GraphRun, operation: Operation, x: Tensor, w: Tensor) -> Tensor:
    heads = x.unflatten(-1, (operation["heads"], -1))
    return _norm(heads, w, operation["eps"]).flatten(-2)


def _rope(run: GraphRun, operation: Operation, x: Tensor, positions: Tensor) -> Tensor:
    rope = Rope.of(operation["rope"])
    return _rotate(x, operation["heads"], rope_tables(rope, operation["head_dim"], positions))


def _rotate(x: Tensor, heads: int, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (i, i + C/2) of each head of x [T, H*C]."""
    cos, sin = (table.to(x.dtype)[:, None] for table in tables)
    low, high = x.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).flatten(-2)


def _take_rows(run: GraphRun, operation: Operation, x: Tensor, rows: Tensor) -> Tensor:
    return x[rows]


def _kv_write(run: GraphRun, operation: Operation, k: Tensor, v: Tensor, slots: Tensor
              ) -> tuple[()]:  # fmt: skip
    run.store(operation["layer"], k, v, slots)
    return ()


def _qkv_rope_write(
    run: GraphRun, operation: Operation, qkv: Tensor, positions: Tensor, slots: Tensor,
    *norms: Tensor,
) -> Tensor:  # fmt: skip
    heads, kv_heads, width = operation["heads"], operation["kv_heads"], operation["head_dim"]
    qkv = qkv.sum(0) if qkv.dim() == 3 else qkv
    q, k, v = torch.split(qkv, [heads * width, kv_heads * width, kv_heads * width], dim=-1)
    if norms:
        q = _norm(q.unflatten(-1, (heads, -1)), norms[0], operation["eps"]).flatten(-2)
        k = _norm(k.unflatten(-1, (kv_heads, -1)), norms[1], operation["eps"]).flatten(-2)
    tables = rope_tables(Rope.of(operation["rope"]), width, positions)
    run.store(operation["layer"], _rotate(k, kv_heads, tables), v, slots)
    return _rotate(q, heads, tables)


def _kvset(run: GraphRun, operation: Operation, page_table: Tensor, lengths: Tensor) -> Kvset:
    low, high = operation.attribute("range", (0, None))
    slots = []
    for pages, length in zip(page_table, lengths.tolist(), strict=True):
        positions = torch.arange(length)[low:high]
        slots.append(pages[positions // run.page_size] * run.page_size + positions % run.page_size)
    return Kvset(operation["layer"], slots, low, lengths.tolist(), operation.attribute("window"))


def _partial(run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
             ) -> State:  # fmt: skip
    return (run.attend or dense_partial)(run, operation, q, starts, kvset)


def dense_partial(run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
                  ) -> State:  # fmt: skip
    """Attend to every key of the kvset that is not masked."""
    heads, kv_heads, width = operation["heads"], operation["kv_heads"], operation["head_dim"]
    q = q.unflatten(-1, (heads, width)) * operation["scale"]
    parts = []
    for sequence, (low, high) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(),
                                               strict=True)):  # fmt: skip
        slots = kvset.slots[sequence]
        k = run.keys[kvset.layer][slots].unflatten(-1, (kv_heads, width))
        v = run.values[kvset.layer][slots].unflatten(-1, (kv_heads, width))
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        length = kvset.lengths[sequence]
        at = torch.arange(length - (high - low), length)[:, None]
        key_at = kvset.first + torch.arange(len(slots))[None]
        hidden = key_at > at if operation.attribute("causal", True) else key_at < 0
        if kvset.window is not None:
            hidden = hidden | (key_at <= at - kvset.window)
        scores = torch.einsum("thc,shc->hts", q[low:high], k).masked_fill(hidden, -torch.inf)
        parts.append(state_of(scores, v))
    return State(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


def state_of(scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return max, sum, accumulator of scores [H, T, S] over v [S, H, C]; rows may see nothing."""
    if scores.shape[-1] == 0:
        scores = scores.new_full((*scores.shape[:2], 1), -torch.inf)
        v = v.new_zeros((1, *v.shape[1:]))
    top = scores.amax(-1)
    weights = torch.exp(scores - top.clamp_min(-1e30)[..., None])
    accumulator = torch.einsum("hts,shc->thc", weights, v)
    return top.T, weights.sum(-1).T, accumulator


def _merge(run: GraphRun, operation: Operation, *states: State) -> State:
    top = torch.stack([state.max for state in states]).amax(0)
    scales = [torch.exp(state.max - top.clamp_min(-1e30)) for state in states]
    total = sum((s.sum * scale for s, scale in zip(states, scales, strict=True)), start=0.0 * top)
    pairs = zip(states, scales, strict=True)
    accumulator = torch.stack([s.accumulator * scale[..., None] for s, scale in pairs]).sum(0)
    return State(top, total, accumulator)


def _finalize(run: GraphRun, operation: Operation, state: State) -> Tensor:
    return (state.accumulator / state.sum.clamp_min(1e-30)[..., None]).flatten(-2)


def _transfer(run: GraphRun, operation: Operation, x: Tensor) -> Tensor:
    return x


def _all_reduce(run: GraphRun, operation: Operation, x: Tensor) -> Tensor:
    assert run.exchange is not None
    return torch.stack(run.exchange(x)).sum(0)


def _all_gather(run: GraphRun, operation: Operation, x: Tensor) -> Tensor:
    assert run.exchange is not None
    return torch.cat(run.exchange(x), -1)


def _add(run: GraphRun, operation: Operation, x: Tensor, y: Tensor) -> Tensor:
    return x + y


def meaning_of(name: str) -> Callable[..., Any]:
    """Return the meaning of an operation, for meanings that take its place now and then."""
    return _MEANING[name]


_MEANING: dict[str, Callable[..., Any]] = {
    "graph.weight": _weight, "graph.embedding": _embedding, "graph.matmul": _matmul,
    "graph.fused_matmul": _fused_matmul, "graph.rmsnorm": _quantized_last(_rmsnorm, 1),
    "graph.cut_matmul": _cut_matmul, "graph.add": _add,
    "graph.add_rmsnorm": _quantized_last(_add_rmsnorm, 2),
    "graph.quantize_rows": _quantize_rows, "graph.scaled_matmul": _scaled_matmul,
    "graph.silu_mul": _quantized_last(_silu_mul, 1), "graph.split": _split, "graph.concat": _concat,
    "graph.head_norm": _head_norm, "graph.rope": _rope, "graph.take_rows": _take_rows,
    "graph.kv_write": _kv_write, "graph.qkv_rope_write": _qkv_rope_write,
    "graph.kvset": _kvset,
    "graph.partial": _partial, "graph.merge": _merge, "graph.finalize": _finalize,
    "graph.all_reduce": _all_reduce, "graph.all_gather": _all_gather, "graph.transfer": _transfer,
    **MOE_MEANING,
}  # fmt: skip
