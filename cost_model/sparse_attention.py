"""What a decode step's attention costs, dense and sparse, and from which context on sparse pays.

Bytes are those of `sparse_bytes`. The selection itself is bound by operations, not bytes:
histograms are scalar on a CPU, and run in one program a sequence and key head on a GPU, unless
scores are compared by steps there: then all of it selects.
"""

from __future__ import annotations

from ..ir.sparse.policy import SparsePolicy
from .expected_reads import expected_tokens
from .hardware import Level
from .sparse_bytes import PAGE, AttentionShape, Overheads, passes, sparse_bytes

OPERATIONS = {"gpu": 8.0, "cpu": 64.0}
"""Vector operations that a pass costs a score. On a CPU a pass is scalar, so four of its
operations count sixteen lanes each; measured at 1 to 2 ns a score on one core."""
COUNTED, TALLIED = (11.0, 15.0), (68.0, 42.0)
"""Vector operations that a score costs a GPU that compares steps, to count and to list; and where a
policy is adaptive, as every step is tallied then. An H200 takes 6 and 8 us for 2^23 scores, 19 and
22 for 2^25, and 28 and 17 for 2^23 that are tallied, a launch among each (`bench.sparse_speed
--only operation policies`, 128 K tokens, batches of 8 and 32)."""
STEPS = Overheads(score=1.0, score_reads=2.0)
"""What is moved there: a byte a score, read to be counted and to be selected."""
WAY = {"gpu": 1.7e-6}
"""Seconds from a kernel's begin to its end that no work of it fills: one load waits for another,
programs for each other."""
ATTENTION = 2
"""Launches of attention itself: parts, and their join."""
WRITES = 1
"""Launches a layer that write labels; one more writes the sums of v that a tail needs."""
GATHER = {"gpu": 0.93, "cpu": 0.4}
"""Part of the speed of reading in order that rows read by a list reach: measured by
`bench.sparse_speed` (128 K tokens: .90 at batch 8, .98 at 32) and `bench.sparse_cpu`, as nothing
fetches a CPU's rows ahead."""
UNPACKED = 2.0
"""Vector operations a product of a label's channel costs on a CPU, codes unpacked."""
WEIGHED = 8.0
"""Products of a channel that a tail's exponential costs a CPU, of each query head and token."""
TAIL_SCORED, TAIL_READ = 24.0, 270.0
"""Vector operations that a tail costs a GPU, of each query head: a token, whose weight is summed
up; and one that is read, whose label is made again and its weight taken off. At 128 K tokens and
batch 8 an H200's launches of scores take 24 us longer with one, those of attention 17 us at 1/16 of
the tokens (`bench.sparse_speed --only policies`)."""


def dense_seconds(shape: AttentionShape, level: Level, context: int, batch: int = 1) -> float:
    """Return the seconds of one layer's dense decode of `batch` sequences."""
    return _read(shape, level, context * batch) + launch_seconds(level, ATTENTION)


def sparse_seconds(
    shape: AttentionShape, level: Level, policy: SparsePolicy, context: int, batch: int = 1,
    share: float = 0.0,
) -> float:  # fmt: skip
    """Return the same of sparse decode under a policy that reads what it is expected to: `share`
    of the context, if that is known of an adaptive one (`expected_reads`)."""
    writes = WRITES + (policy.tail != "none")
    selects = select_launches(level.kind, policy, shape.head_dim)
    launches = launch_seconds(level, ATTENTION + writes + selects)
    return sum(sparse_parts(shape, level, policy, context, batch, share).values()) + launches


def by_steps(kind: str, policy: SparsePolicy, head_dim: int) -> bool:
    """Return whether a device compares scores by steps, in a launch for counts too."""
    return kind == "gpu" and policy.in_words(head_dim)


def select_launches(kind: str, policy: SparsePolicy, head_dim: int) -> int:
    """Return the launches of a layer that choose keys, apart: scores and lists, and counts where
    steps are compared. Of few rows on a GPU they are one, whose programs meet in between."""
    return 2 + by_steps(kind, policy, head_dim)


def sparse_parts(
    shape: AttentionShape, level: Level, policy: SparsePolicy, context: int, batch: int = 1,
    share: float = 0.0,
) -> dict[str, float]:  # fmt: skip
    """Return the seconds of `scores`, `counts`, `lists` and `attention`, what launches cost aside;
    `counts` are 0 where the launch that lists does them."""
    tokens, tail = context * batch, policy.tail != "none"
    steps = by_steps(level.kind, policy, shape.head_dim)
    read = expected_tokens(policy, context, share)
    moved = sparse_bytes(shape, policy, context, read, STEPS if steps else None)
    units = tokens / (PAGE if policy.unit == "page" else 1)
    speed = level.memory_for(units * shape.kv_heads * 4).read.median
    gathered = _read(shape, level, read * batch) / GATHER.get(level.kind, 0.85)
    each_token = 2 * policy.label_channels(shape.head_dim) + WEIGHED * tail
    rate = level.vector_rate("f32").median / UNPACKED if level.kind == "cpu" else None
    products = tokens * shape.heads * each_token / rate if rate else 0.0
    labels = batch * (moved.labels + moved.tail) / level.main.read.median
    vector = level.vector_rate("f32").median
    scored, unread = max(labels, products), 0.0
    if steps:
        each = 2 * shape.kv_heads * tokens / vector  # two flops are one operation
        counts, lists = (each * cost for cost in (TALLIED if policy.adaptive else COUNTED))
        if tail:
            scored += shape.heads * TAIL_SCORED * tokens * 2 / vector
            unread = shape.heads * TAIL_READ * read * batch * 2 / vector
    else:
        rounds = -(-shape.kv_heads * batch // level.threads)
        each = rounds * units / batch * passes(policy) * OPERATIONS.get(level.kind, 8.0)
        counts, lists = 0.0, each / (vector / level.threads)
    reads = (STEPS if steps else Overheads.of(policy)).score_reads
    written = batch * moved.scores / speed / (1 + reads)
    taken = reads * written / (1 + steps)
    return {"scores": scored + written, "counts": counts + taken * steps,
            "lists": lists + taken, "attention": gathered + unread}  # fmt: skip


def least_context(
    shape: AttentionShape, level: Level, policy: SparsePolicy, most: int, batch: int = 1,
    share: float = 0.0,
) -> int | None:  # fmt: skip
    """Return the context from which sparse decode is cheaper than dense, up to `most`; None: it
    never is."""

    def pays(context: int) -> bool:
        return not policy.reads_whole(context) and (
            sparse_seconds(shape, level, policy, context, batch, share)
            < dense_seconds(shape, level, context, batch)
        )

    if not pays(most):
        return None
    low, high = 0, most  # it does not pay at low, and does at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def can_share(shape: AttentionShape, level: Level, policy: SparsePolicy) -> bool:
    """Return whether labels that rows share can be scored for several of them at once. It saves
    nothing: what is not read again comes from a cache, and arithmetic bounds both ways. For 2^23
    labels an H200 takes 32 us row by row, and 35 (`bench.sparse_speed --only shared_prefix`, 128 K
    tokens, batch 8)."""
    return level.kind == "gpu" and policy.in_words(shape.head_dim) and policy.tail == "none"


def launch_seconds(level: Level, count: int) -> float:
    """Return what so many launches cost whatever they do."""
    launch = [cost.median for cost in level.launch.values()][-1:]
    return count * (sum(launch) + WAY.get(level.kind, 0.0))


def _read(shape: AttentionShape, level: Level, tokens: float) -> float:
    """Return the seconds of attention over so many tokens: bytes or arithmetic."""
    size = tokens * shape.token
    rate = level.vector_rate("f32") if level.kind == "cpu" else level.matmul_rate("bf16")
    flops = tokens * 4.0 * shape.heads * shape.head_dim
    return max(size / level.memory_for(size).read.median, flops / rate.median)
