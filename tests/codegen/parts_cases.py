"""Work lists over trees of shared pages, with poisoned slots, for the kernel of parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from weft.passes.tile.attention.join import attention_merge
from weft.passes.tile.attention.parts import ALL, MANY, Parts
from weft.passes.tile.attention.ways import launches
from weft.runtime.attention.plan import Batch, Rates, Shape, WorkList, plan

SHAPES = {
    "f32": Parts(4, 2, 16, page=4, q="f32", kv="f32", few=4, many=8, keys=8, keys_many=4),
    "bf16": Parts(8, 2, 32, page=8, few=16, many=32, keys=16, keys_many=8),
    "paged": Parts(8, 2, 16, page=16, q="f32", kv="f32", few=16, many=32, keys=8, keys_many=16),
    "one_tile": Parts(4, 4, 16, page=4, q="f32", kv="f32", few=4, many=0, keys=4),
    "odd_group": Parts(6, 2, 16, page=4, q="f32", kv="f32", few=16, many=32, keys=4, keys_many=4),
    "window": Parts(4, 2, 16, page=4, q="f32", kv="f32", window=9, few=4, many=8, keys=4,
                    keys_many=4),
}  # fmt: skip
GROUPS = {
    "apart": [(0, [5]), (0, [0]), (0, [33]), (0, [1])],
    "forks": [(5, [3, 17, 1, 4, 9, 2, 30]), (0, [12])],
    "two": [(3, [1, 2]), (6, [7, 7, 7])],
}
QUERIES = {"apart": [3, 0, 9, 1], "forks": [1, 5, 1, 2, 1, 1, 11, 4], "two": [1, 2, 3, 1, 7]}


@dataclass
class Tree:
    """Sequences with their pages; `pools` hold NaN wherever no key was written."""

    batch: Batch
    pools: list[np.ndarray]
    q: np.ndarray


def planner_shape(shape: Parts) -> Shape:
    granule = max(shape.page, shape.keys, shape.keys_many if shape.many else 0)
    return Shape(shape.heads, shape.kv_heads, shape.head_dim, shape.page, shape.rows_few,
                 shape.rows_many, granule, 2 if shape.kv == "bf16" else 4)  # fmt: skip


def tree(
    shape: Parts, groups: list[tuple[int, list[int]]], queries: list[int] | None = None,
    seed: int = 0,
) -> Tree:  # fmt: skip
    """Return sequences in groups of (shared pages, own lengths after them)."""
    rng = np.random.default_rng(seed)
    page, tables, lengths = shape.page, [], []
    total = 1 + sum(shared + sum(-(-own // page) for own in owns) for shared, owns in groups)
    free = iter(rng.permutation(total - 1) + 1)
    for shared, owns in groups:
        prefix = [next(free) for _ in range(shared)]
        for own in owns:
            tables.append(prefix + [next(free) for _ in range(-(-own // page))])
            lengths.append(shared * page + own)
    most = max(map(len, tables), default=0) + 1
    table = np.array([row + [0] * (most - len(row)) for row in tables], "i4").reshape(-1, most)
    pools = [np.full((total, shape.kv_heads, page, shape.head_dim), np.nan, "f4") for _ in "kv"]
    for row, length in zip(table, lengths, strict=True):
        for place in range(-(-length // page)):
            used = min(page, length - place * page)
            for pool in pools:
                size = (shape.kv_heads, used, shape.head_dim)
                pool[row[place], :, :used] = rng.standard_normal(size)
    counts = queries or [1] * len(lengths)
    starts = np.cumsum([0, *counts])
    q = rng.standard_normal((starts[-1], shape.heads * shape.head_dim)).astype("f4")
    if shape.kv == "bf16":
        pools = [truncated(pool) for pool in pools]
    if shape.q == "bf16":
        q = truncated(q)
    return Tree(Batch(table, np.array(lengths, np.int64), starts), pools, q)


def truncated(values: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(values, "f4").view("u4") >> 16).astype("u2")


def widened(values: np.ndarray) -> np.ndarray:
    wide = (values.astype("u4") << 16).view("f4") if values.dtype == np.uint16 else values
    return wide.astype("f8")


def arguments(shape: Parts, case: Tree, work: WorkList) -> tuple[list[Any], list[Any]]:
    """Return the arguments of the two kernels; outputs and states are poisoned."""
    tokens, width = case.q.shape
    wide = (work.slots, shape.heads)
    states = [np.full(wide, np.nan, "f4"), np.full(wide, np.nan, "f4"),
              np.full((*wide, shape.head_dim), np.nan, "f4")]  # fmt: skip
    out = np.full((tokens, width), np.nan, "f4")
    out = truncated(out) if shape.q == "bf16" else out
    pages = np.ascontiguousarray(case.batch.table.ravel())
    rows = len(work.row_query)
    parts = [tokens, len(case.pools[0]), len(work.item_row), rows, len(pages), work.slots, case.q,
             work.item_row, work.item_rows, work.item_page, work.item_low, work.item_high,
             work.row_query, work.row_limit, work.row_slot, pages, *case.pools, out,
             *states]  # fmt: skip
    joined = len(work.merge_query)
    join = [
        tokens,
        joined,
        joined + 1,
        work.slots,
        work.merge_query,
        work.merge_start,
        *states,
        out,
    ]
    return parts, join


def expected(shape: Parts, case: Tree) -> np.ndarray:
    """Return the outputs in float64."""
    q = widened(case.q).reshape(-1, shape.heads, shape.head_dim)
    k, v = (widened(pool) for pool in case.pools)
    out = np.zeros_like(q)
    for sequence, length in enumerate(case.batch.lengths):
        ids = case.batch.table[sequence]
        first, last = case.batch.starts[sequence], case.batch.starts[sequence + 1]
        for row in range(first, last):
            end = length - (last - row) + 1
            low = max(0, end - shape.window) if shape.window else 0
            for head in range(shape.heads if end > low else 0):
                keys, values = (
                    pool[ids][:, head // shape.group].reshape(-1, shape.head_dim)[low:end]
                    for pool in (k, v)
                )
                scores = keys @ q[row, head] * shape.factor * np.log(2.0)
                weights = np.exp(scores - scores.max())
                out[row, head] = weights / weights.sum() @ values
    return out.reshape(len(q), -1)


def planned(shape: Parts, case: Tree, **options: Any) -> WorkList:
    return plan(case.batch, planner_shape(shape), Rates(resident=8), window=shape.window, **options)


def tolerance(shape: Parts) -> float:
    """bf16: queries, keys and values are exact, weights and results rounded to 8 bits."""
    return 2e-2 if shape.q == "bf16" else 2e-5


def launched(run: Any, shape: Parts, case: Any, work: Any, by: Any = None, kernels: Any = None
             ) -> np.ndarray:  # fmt: skip
    merge = by or attention_merge(shape.heads, shape.head_dim, shape.q)
    parts, join = arguments(shape, case, work)
    many = int((work.item_rows > shape.rows_few).sum())
    for kernel in kernels or launches(shape):
        first = [min(many + 1, len(work.item_row))] * kernel["name"].name.endswith((MANY, ALL))
        parts[-4:] = run(kernel, [*parts[:6], *first, *parts[6:]])[-4:]
    join[6:9], join[9] = parts[-3:], parts[-4]
    return widened(run(merge, join)[-1])
