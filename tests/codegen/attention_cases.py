"""Paged attention cases: scattered pages, poisoned slots, and a float64 oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from weft.passes.tile.attention.paged import Attention


@dataclass
class Paged:
    """Queries and a paged cache in which every slot that nobody wrote holds NaN."""

    q: np.ndarray
    starts: np.ndarray
    table: np.ndarray
    lengths: np.ndarray
    k: np.ndarray
    v: np.ndarray

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """B, B + 1, N, MAXP."""
        b, pages = self.table.shape
        return b, b + 1, self.k.shape[0], pages


def paged(shape: Attention, lengths: list[int], queries: list[int], seed: int = 0) -> Paged:
    """Return a random case; page 0 belongs to nobody, and unused table entries name it."""
    rng = np.random.default_rng(seed)
    page, count = shape.page, [-(-length // shape.page) for length in lengths]
    k = np.full((sum(count) + 2, shape.kv_heads, page, shape.head_dim), np.nan, "f4")
    v = k.copy()
    table = np.zeros((len(lengths), max(1, *count)), "i4")
    free = iter(rng.permutation(sum(count)) + 1)
    for sequence, length in enumerate(lengths):
        for place in range(count[sequence]):
            table[sequence, place] = number = next(free)
            used = min(page, length - place * page)
            for pool in (k, v):
                pool[number, :, :used] = rng.standard_normal((shape.kv_heads, used, shape.head_dim))
    q = rng.standard_normal((sum(queries), shape.heads * shape.head_dim)).astype("f4")
    starts = np.cumsum([0, *queries]).astype("i4")
    if shape.kv == "bf16":
        k, v = ((pool.view("u4") >> 16).astype("u2") for pool in (k, v))
    return Paged(q, starts, table, np.array(lengths, "i4"), k, v)


def expected(shape: Attention, case: Paged) -> np.ndarray:
    """Return the outputs in float64."""
    rows = case.q.astype("f8").reshape(-1, shape.heads, shape.head_dim)
    out = np.zeros_like(rows)
    k, v = (_wide(pool) for pool in (case.k, case.v))
    for sequence, length in enumerate(case.lengths):
        ids = case.table[sequence]
        keys, values = (
            pool[ids].transpose(1, 0, 2, 3).reshape(shape.kv_heads, -1, shape.head_dim)[:, :length]
            for pool in (k, v)
        )
        first, last = case.starts[sequence], case.starts[sequence + 1]
        for row in range(first, last):
            end = length - (last - row) + 1
            low = max(0, end - shape.window) if shape.window else 0
            for head in range(shape.heads if end > low else 0):
                of = head // shape.group
                scores = keys[of, low:end] @ rows[row, head] * shape.factor * np.log(2.0)
                weights = np.exp(scores - scores.max())
                out[row, head] = weights / weights.sum() @ values[of, low:end]
    return out.reshape(len(rows), -1)


def _wide(pool: np.ndarray) -> np.ndarray:
    return ((pool.astype("u4") << 16).view("f4") if pool.dtype == "u2" else pool).astype("f8")
