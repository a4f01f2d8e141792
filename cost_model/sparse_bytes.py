"""Bytes that one decoded token's attention moves, dense and sparse, and the bound of the speed-up.

For one sequence and one key/value head, with C channels a head, b bytes an element of k and v, N
tokens of context, k of them read by each of n selections (1 where the query heads of a key/value
head share one), l bytes of a label:
  dense   2 C b N
  sparse  N l + n N b_s (1 + rho) + n k 2 b_i + n k 2 C b + t
where scores of b_s bytes are written once and read rho times (of a page where pages are selected),
and indices of b_i bytes are written and read. A tail moves t = 12 C + C b + 4 C / P + 16 g: tables
of the expected key and the row of the mean of v are read, v once more where sums of v are kept (a
sum a page of P), and of g query heads a maximum and a sum are written and read: nothing grows with
N. Without scores, indices and tail the ratio is S = 1 / (alpha / 2 + n beta), alpha = l / (C b),
beta = k / N: 10.67 at 1/16 and 1/16 with shared selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.sparse.policy import SparsePolicy
from ..ir.types import DTYPE_BYTES

PASSES = 4
"""Passes of our selection over the scores: three histograms and the one that writes the list."""
ADAPTIVE_PASSES = 2
"""More of them for threshold and top-p: the largest score, and the count or mass."""
PAGE = 16
"""Tokens of a page of the cache, unless given."""


@dataclass(frozen=True)
class AttentionShape:
    """One layer's attention: heads H, key heads K, head width C, the dtype of keys and values."""

    heads: int
    kv_heads: int
    head_dim: int
    kv: str = "bf16"

    @property
    def element(self) -> float:
        """Bytes of an element of k and v."""
        return DTYPE_BYTES[self.kv]

    @property
    def token(self) -> float:
        """Bytes of one token's k and v, all key heads."""
        return 2 * self.kv_heads * self.head_dim * self.element


def passes(policy: SparsePolicy) -> int:
    """Return how often our selection reads the scores."""
    return PASSES + ADAPTIVE_PASSES * policy.adaptive


@dataclass(frozen=True)
class Overheads:
    """What selecting moves beside labels and keys: bytes of a score and an index, and how often.

    `score_reads` is rho, how often scores are read. The default is an f32 score that one pass
    writes and one reads, and i32 indices.
    """

    score: float = 4.0
    score_reads: float = 1.0
    index: float = 4.0
    selections: int = 1

    @staticmethod
    def none() -> Overheads:
        """Return the ideal: labels and keys alone."""
        return Overheads(0.0, 0.0, 0.0)

    @staticmethod
    def of(policy: SparsePolicy) -> Overheads:
        """Return those of our kernels."""
        return Overheads(score_reads=passes(policy))


@dataclass(frozen=True)
class SparseBytes:
    """The parts of one layer's sparse read, of one sequence, in bytes."""

    labels: float
    scores: float
    indices: float
    kv: float
    tail: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.labels + self.scores + self.indices + self.kv + self.tail


def dense_bytes(shape: AttentionShape, context: int) -> float:
    """Return the bytes that dense attention of one query reads of a layer's cache."""
    return shape.token * context


def sparse_bytes(
    shape: AttentionShape, policy: SparsePolicy, context: int, read: float | None = None,
    overheads: Overheads | None = None, page: int = PAGE,
) -> SparseBytes:  # fmt: skip
    """Return the bytes that a policy moves of a layer; `read` tokens, else its whole budget, with
    the overheads of our kernels unless others are given.

    A context that the policy reads whole costs what dense attention costs: no labels are read.
    """
    if policy.reads_whole(context):
        return SparseBytes(0.0, 0.0, 0.0, dense_bytes(shape, context))
    extra, heads = overheads or Overheads.of(policy), shape.kv_heads
    chosen = policy.budget(context) if read is None else read
    unit = page if policy.unit == "page" else 1
    return SparseBytes(
        labels=heads * context * policy.label_bytes(shape.head_dim),
        scores=heads * extra.selections * context / unit * extra.score * (1 + extra.score_reads),
        indices=heads * extra.selections * chosen / unit * 2 * extra.index,
        kv=extra.selections * chosen * shape.token,
        tail=tail_bytes(shape, page) if policy.tail != "none" else 0.0,
    )


def tail_bytes(shape: AttentionShape, page: int = PAGE) -> float:
    """Return the bytes that a tail moves of a layer, whatever the context."""
    of_head = shape.head_dim * (12 + shape.element + 4 / page)
    return shape.kv_heads * of_head + 16 * shape.heads


def speedup(
    shape: AttentionShape, policy: SparsePolicy, context: int, read: float | None = None,
    overheads: Overheads | None = None,
) -> float:  # fmt: skip
    """Return dense over sparse bytes: the most that an attention bound by memory can gain."""
    found = sparse_bytes(shape, policy, context, read, overheads)
    return dense_bytes(shape, context) / found.total


def ideal_speedup(alpha: float, beta: float, selections: int = 1) -> float:
    """Return S = 1 / (alpha / 2 + n beta) of label share alpha of a row of k, token share beta."""
    return 1.0 / (alpha / 2 + selections * beta)


def model_speedup(
    shape: AttentionShape, policy: SparsePolicy, layers: int, contexts: Sequence[int]
) -> float:
    """Return dense over sparse bytes of one step in a model, dense layers counted."""
    policy.check_layers(layers)
    dense = sum(dense_bytes(shape, context) for context in contexts)
    sparse = sum(sparse_bytes(shape, policy, context).total for context in contexts)
    whole = len(set(policy.dense))
    return layers * dense / (whole * dense + (layers - whole) * sparse)
