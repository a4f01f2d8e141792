"""What a decode step's attention costs, dense and sparse, and from which context on sparse pays.

The byte model of Double Sparsity: dense reads 2 C b a token and key head; sparse reads a label of
every token, writes its score and reads it again for each pass of the selection, and gathers the
rows of the chosen ones. The selection itself is bound by operations, not bytes: histograms are
scalar on a CPU, and run in one program a sequence and key head.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.sparse import SparsePolicy
from ..ir.types import DTYPE_BYTES
from .hardware import Level

PASSES = 4
"""Passes over the scores: three histograms and the one that writes the list."""
ADAPTIVE_PASSES = 2
"""More of them for threshold and top-p: the largest score, and the count or mass."""
OPERATIONS = {"gpu": 8.0, "cpu": 64.0}
"""Vector operations that a pass costs a score. On a CPU a pass is scalar, so four of its
operations count sixteen lanes each; measured at 1 to 2 ns a score on one core."""
LAUNCHES = 3
"""Launches a layer that dense decode does not have: labels, scores, selection."""
GATHER = {"gpu": 0.85, "cpu": 0.4}
"""Part of the speed of reading in order that rows read by a list reach; a CPU's was measured
(`bench.sparse_cpu`), as nothing fetches its rows ahead; a GPU's is a guess."""
UNPACKED = 2.0
"""Vector operations a product of a label's channel costs on a CPU, codes unpacked."""


@dataclass(frozen=True)
class AttentionShape:
    """One layer's attention: heads H, key heads K, head width C, the dtype of keys and values."""

    heads: int
    kv_heads: int
    head_dim: int
    kv: str = "f32"

    @property
    def row_bytes(self) -> int:
        """Bytes of the keys and values of one token, all key heads."""
        return 2 * self.kv_heads * self.head_dim * DTYPE_BYTES[self.kv]


def dense_seconds(shape: AttentionShape, level: Level, context: int, batch: int = 1) -> float:
    """Return the seconds of one layer's dense decode of `batch` sequences."""
    return _read(shape, level, context * batch)


def sparse_seconds(
    shape: AttentionShape, level: Level, policy: SparsePolicy, context: int, batch: int = 1
) -> float:
    """Return the same of sparse decode under a policy, its cap read in full."""
    tokens, kv = context * batch, shape.kv_heads
    passes = PASSES + ADAPTIVE_PASSES * policy.adaptive
    units = tokens / (16 if policy.unit == "page" else 1)
    labels = tokens * kv * policy.label_bytes(shape.head_dim)
    scores = level.memory_for(units * kv * 4).read.median
    gathered = _read(shape, level, policy.budget(context) * batch) / GATHER.get(level.kind, 0.85)
    products = 2 * tokens * shape.heads * policy.label_channels(shape.head_dim)
    rate = level.vector_rate("f32").median / UNPACKED if level.kind == "cpu" else None
    scored = max(labels / level.main.read.median, products / rate if rate else 0.0)
    moved = scored + units * kv * 4 * (1 + passes) / scores
    each = level.vector_rate("f32").median / level.threads
    rounds = -(-kv * batch // level.threads)
    select = rounds * units / batch * passes * OPERATIONS.get(level.kind, 8.0) / each
    launch = [cost.median for cost in level.launch.values()][-1:]
    return moved + gathered + select + LAUNCHES * sum(launch)


def least_context(
    shape: AttentionShape, level: Level, policy: SparsePolicy, most: int, batch: int = 1
) -> int | None:
    """Return the context from which sparse decode is cheaper than dense, up to `most`; None: it
    never is."""

    def pays(context: int) -> bool:
        return not policy.reads_whole(context) and (
            sparse_seconds(shape, level, policy, context, batch)
            < dense_seconds(shape, level, context, batch)
        )

    if not pays(most):
        return None
    low, high = 0, most  # it does not pay at low, and does at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def _read(shape: AttentionShape, level: Level, tokens: int) -> float:
    """Return the seconds of attention over so many tokens: bytes or arithmetic."""
    size = tokens * shape.row_bytes
    rate = level.vector_rate("f32") if level.kind == "cpu" else level.matmul_rate("bf16")
    flops = tokens * 4.0 * shape.heads * shape.head_dim
    return max(size / level.memory_for(size).read.median, flops / rate.median)
