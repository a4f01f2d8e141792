"""What a decode step's attention costs, dense and sparse, and from which context on sparse pays.

Bytes are those of `sparse_bytes`. The selection itself is bound by operations, not bytes:
histograms are scalar on a CPU, and run in one program a sequence and key head.
"""

from __future__ import annotations

from ..ir.sparse import SparsePolicy
from .hardware import Level
from .sparse_bytes import PAGE, AttentionShape, passes, sparse_bytes

OPERATIONS = {"gpu": 8.0, "cpu": 64.0}
"""Vector operations that a pass costs a score. On a CPU a pass is scalar, so four of its
operations count sixteen lanes each; measured at 1 to 2 ns a score on one core."""
LAUNCHES = 3
"""Launches a layer that dense decode does not have: labels, scores, selection; one more for the
sums of v that a tail needs."""
GATHER = {"gpu": 0.85, "cpu": 0.4}
"""Part of the speed of reading in order that rows read by a list reach; a CPU's was measured
(`bench.sparse_cpu`), as nothing fetches its rows ahead; a GPU's is a guess."""
UNPACKED = 2.0
"""Vector operations a product of a label's channel costs on a CPU, codes unpacked."""
WEIGHED = 8.0
"""Products of a channel that a tail's exponential costs, of each query head and token."""


def dense_seconds(shape: AttentionShape, level: Level, context: int, batch: int = 1) -> float:
    """Return the seconds of one layer's dense decode of `batch` sequences."""
    return _read(shape, level, context * batch)


def sparse_seconds(
    shape: AttentionShape, level: Level, policy: SparsePolicy, context: int, batch: int = 1
) -> float:
    """Return the same of sparse decode under a policy, its cap read in full."""
    tokens, tail = context * batch, policy.tail != "none"
    moved = sparse_bytes(shape, policy, context)
    units = tokens / (PAGE if policy.unit == "page" else 1)
    speed = level.memory_for(units * shape.kv_heads * 4).read.median
    gathered = _read(shape, level, policy.budget(context) * batch) / GATHER.get(level.kind, 0.85)
    each_token = 2 * policy.label_channels(shape.head_dim) + WEIGHED * tail
    rate = level.vector_rate("f32").median / UNPACKED if level.kind == "cpu" else None
    products = tokens * shape.heads * each_token / rate if rate else 0.0
    labels = batch * (moved.labels + moved.tail) / level.main.read.median
    each = level.vector_rate("f32").median / level.threads
    rounds = -(-shape.kv_heads * batch // level.threads)
    select = rounds * units / batch * passes(policy) * OPERATIONS.get(level.kind, 8.0) / each
    launch = [cost.median for cost in level.launch.values()][-1:]
    scored = max(labels, products) + batch * moved.scores / speed
    return scored + gathered + select + (LAUNCHES + tail) * sum(launch)


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


def least_shared(shape: AttentionShape, level: Level, policy: SparsePolicy) -> float | None:
    """Return how many tokens' labels must not be read again, in all rows that share a prefix, for
    the launch that scores them once to pay; None where labels are scored row by row."""
    if level.kind != "gpu" or not policy.in_words(shape.head_dim) or policy.tail != "none":
        return None
    launch = [cost.median for cost in level.launch.values()][-1]
    label = shape.kv_heads * policy.label_bytes(shape.head_dim)
    return float(round(launch * level.main.read.median / label))


def _read(shape: AttentionShape, level: Level, tokens: int) -> float:
    """Return the seconds of attention over so many tokens: bytes or arithmetic."""
    size = tokens * shape.token
    rate = level.vector_rate("f32") if level.kind == "cpu" else level.matmul_rate("bf16")
    flops = tokens * 4.0 * shape.heads * shape.head_dim
    return max(size / level.memory_for(size).read.median, flops / rate.median)
