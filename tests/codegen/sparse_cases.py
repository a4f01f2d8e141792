"""Cases of the sparse kernels: scattered pages, poisoned buffers, a float64 oracle that sorts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from weft.ir.sparse.calibration import LEVELS
from weft.ir.sparse.policy import SparsePolicy
from weft.passes.tile.attention.paged import Attention
from weft.passes.tile.selection.labels import Labels, Scores, label_scores, label_write
from weft.passes.tile.selection.selection import Selection, select_keys
from weft.passes.tile.selection.value_sums import ValueSums, value_sums
from weft.passes.tile.sparse.gathered import Gathered, gathered_decode

LENGTHS = [0, 1, 5, 17, 64, 33, 48, 63, 50]
POISON = -7777


@dataclass(frozen=True)
class Shape:
    """One shape of all four kernels."""

    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    page: int = 8
    channels: int = 4
    policy: SparsePolicy = SparsePolicy(k=16, sinks=2, recent=5, min_context=0, labels="bf16")
    parts: int = 1
    digits: tuple[int, ...] = (8, 8, 8, 8)

    @property
    def tail(self) -> bool:
        return self.policy.tail == "mean"

    @property
    def labels(self) -> Labels:
        return Labels(self.kv_heads, self.head_dim, self.page, self.channels, self.policy.labels)

    @property
    def kernels(self) -> dict[str, Any]:
        p = self.policy
        forced = {"sinks": p.sinks, "recent": p.recent, "unit": p.unit}
        amounts = {"threshold": p.threshold, "top_p": p.top_p}
        scores = Scores(self.labels, self.heads, parts=self.parts, tail=self.tail, **forced)
        sums = value_sums(ValueSums(self.kv_heads, self.head_dim, self.page))
        return {
            "write": label_write(self.labels),
            **({"sums": sums} if self.tail else {}),
            "scores": label_scores(scores),
            "select": select_keys(Selection(self.kv_heads, self.page, **forced, **amounts, keys=16,
                                            digits=self.digits)),
            "decode": gathered_decode(Gathered(self.heads, self.kv_heads, self.head_dim, self.page,
                                               unit=p.unit, tail=scores if self.tail else None)),
        }  # fmt: skip


def policy(**changes: Any) -> SparsePolicy:
    given = {"sinks": 2, "recent": 5, "min_context": 0, "labels": "bf16"} | changes
    return SparsePolicy(**given)


SHAPES = {
    "k": Shape(),
    "ratio": Shape(policy=policy(ratio=0.3)),
    "i8": Shape(policy=policy(k=20, labels="i8")),
    "i4": Shape(heads=6, policy=policy(k=20, labels="i4", sinks=0, recent=1), parts=3),
    "threshold": Shape(policy=policy(threshold=0.2, labels="i4")),
    "capped": Shape(policy=policy(threshold=0.001, cap=0.5)),
    "top_p": Shape(policy=policy(top_p=0.8), digits=(11, 11, 10)),
    "pages": Shape(policy=policy(k=30, unit="page", sinks=1), parts=2),
    "pages_top_p": Shape(policy=policy(top_p=0.7, cap=0.9, unit="page", labels="i8")),
    "tail": Shape(heads=6, policy=policy(k=20, labels="i4", tail="mean")),
    "tail_parts": Shape(policy=policy(top_p=0.8, labels="i8", tail="mean"), parts=3),
    "tail_pages": Shape(policy=policy(k=30, unit="page", sinks=1, tail="mean")),
}  # fmt: skip


@dataclass
class Case:
    """Inputs of the four kernels; what nobody wrote is NaN or POISON."""

    q: np.ndarray
    table: np.ndarray
    lengths: np.ndarray
    budgets: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mean: np.ndarray
    level: np.ndarray
    slots: np.ndarray
    centre: np.ndarray
    spread: np.ndarray


def case_of(shape: Shape, lengths: list[int], seed: int = 0, ties: bool = False) -> Case:
    rng = np.random.default_rng(seed)
    page, count = shape.page, [-(-length // shape.page) for length in lengths]
    pool = (sum(count) + 2, shape.kv_heads, page, shape.head_dim)
    k, v = np.full(pool, np.nan, "f4"), np.full(pool, np.nan, "f4")
    table = np.zeros((len(lengths), max(1, *count, 0)), "i4")
    free, slots = iter(rng.permutation(sum(count)) + 1), [-1]
    for row, length in enumerate(lengths):
        for place in range(count[row]):
            table[row, place] = number = next(free)
            used = min(page, length - place * page)
            slots += [number * page + offset for offset in range(used)]
            for values in (k, v):
                found = rng.standard_normal((shape.kv_heads, used, shape.head_dim))
                values[number, :, :used] = np.round(found) if ties else found
    q = rng.standard_normal((len(lengths), shape.heads * shape.head_dim)).astype("f4")
    mean = rng.standard_normal((shape.kv_heads, shape.channels)).astype("f4") * 0.1
    level = np.full((shape.kv_heads, shape.channels), 2.5, "f4") / LEVELS.get(
        shape.policy.labels, 1
    )
    p = shape.policy
    budgets = [length + 1 if p.reads_whole(length) else p.budget(length) for length in lengths]
    budgets = np.array(budgets, "i4")
    slots = rng.permutation(np.array(slots, "i4"))
    centre, spread = (
        rng.standard_normal((shape.kv_heads, shape.head_dim)).astype("f4") * 0.3 for _ in "cs"
    )
    centre[:, : shape.channels], spread[:, : shape.channels] = mean, 0
    return Case(q, table, np.array(lengths, "i4"), budgets, k, v, mean, level, slots, centre,
                spread)  # fmt: skip


def bf16(values: np.ndarray) -> np.ndarray:
    """Round to bf16, halves to even."""
    bits = np.ascontiguousarray(values, "f4").view("u4").astype("u8")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("u2")


def rows_of(shape: Shape, case: Case, row: int, pool: np.ndarray) -> np.ndarray:
    """Return the keys or values of a sequence [K, n, C]."""
    found = pool[case.table[row]].transpose(1, 0, 2, 3)
    return found.reshape(shape.kv_heads, -1, pool.shape[-1])[:, : case.lengths[row]]


def scores_of(shape: Shape, case: Case, row: int, kv_head: int) -> np.ndarray:
    """Return the scores of a sequence's tokens in float64, natural units, by query head [g, n]."""
    group, r = shape.heads // shape.kv_heads, shape.channels
    q = case.q[row].reshape(shape.kv_heads, group, -1)[kv_head, :, :r].astype("f8")
    keys = rows_of(shape, case, row, case.k)[kv_head, :, :r]
    mean, level = case.mean[kv_head], case.level[kv_head]
    if shape.policy.labels == "bf16":
        label = (bf16(keys).astype("u4") << 16).view("f4") - mean.astype("f8")
    else:
        most = LEVELS[shape.policy.labels]
        label = np.clip(np.round((keys - mean) / level), -most, most) * level.astype("f8")
    return (q @ label.T) * shape.head_dim**-0.5


def tail_of(
    shape: Shape, case: Case, row: int, kv_head: int, tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of what is not read, of each query head [g], and the value they get."""
    length = int(case.lengths[row])
    group, whole = shape.heads // shape.kv_heads, length // shape.page * shape.page
    q = case.q[row].reshape(shape.kv_heads, group, -1)[kv_head].astype("f8") * shape.head_dim**-0.5
    base = q @ case.centre[kv_head] + np.square(q * case.spread[kv_head]).sum(1) / 2
    unread = np.setdiff1d(np.arange(length), tokens)
    weights = np.exp(scores_of(shape, case, row, kv_head)[:, unread] + base[:, None]).sum(1)
    if not whole:
        return weights * 0, np.zeros(shape.head_dim)
    return weights, rows_of(shape, case, row, case.v)[kv_head, :whole].astype("f8").mean(0)


def selected(shape: Shape, case: Case, row: int, kv_head: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that `ir.sparse.policy` has read, and those that a histogram may read
    besides."""
    n, p = int(case.lengths[row]), shape.policy
    unit = shape.page if p.unit == "page" else 1
    every = np.arange(n)
    if case.budgets[row] > n:
        return every, every
    of = every // unit
    forced = np.isin(of, of[(every < p.sinks) | (every >= n - p.recent)])
    units = np.unique(of[~forced])
    scores = scores_of(shape, case, row, kv_head).max(0)
    best = np.array([scores[of == u].max() for u in units])
    order = np.lexsort((units, -best))
    want = len(units)
    if p.threshold:
        want = int((best >= best.max(initial=-1e9) + np.log(p.threshold)).sum())
    if p.top_p and want:
        weights = np.exp(best - best.max())[order]
        want = int((weights.cumsum() < p.top_p * weights.sum()).sum()) + 1
    room = -(-(int(case.budgets[row]) - int(forced.sum())) // unit)
    least = min(want, max(room, 0))
    step = 2 / 16 if p.top_p else 0  # what is left out is weighed at the upper ends of bins
    more = least
    while (
        p.top_p
        and more < min(room, len(units))
        and (best[order[more]] >= best[order[least - 1]] - step * np.log(2) - 1e-6)
    ):
        more += 1
    taken, most = (np.isin(of, units[order[:count]]) for count in (least, more))
    return every[forced | taken], every[forced | most]


def run_all(run: Any, shape: Shape, case: Case) -> dict[str, np.ndarray]:
    """Run the four kernels in order; outputs are poisoned first."""
    kernels, (b, pages) = shape.kernels, case.table.shape
    n, most, labels = len(case.k), pages * shape.page, shape.labels
    pool = np.full(
        (n, shape.kv_heads, labels.rows, shape.page),
        0x7FC0 if labels.dtype == "bf16" else 0x5A,
        {"bf16": "u2", "i8": "i1", "u8": "u1"}[labels.dtype],
    )
    pool = run(
        kernels["write"], [len(case.slots), n, case.slots, case.k, case.mean, case.level, pool]
    )[-1]
    scores = np.full((b, shape.kv_heads, most), np.nan, "f4")
    mass = [np.full((b, shape.heads, shape.parts), np.nan, "f4") for _ in "ms"] * shape.tail
    found = run(
        kernels["scores"],
        [
            b,
            n,
            pages,
            most,
            case.q,
            case.table,
            case.lengths,
            case.budgets,
            pool,
            case.mean,
            case.level,
            scores,
            *mass,
        ],
    )
    scores, mass = found[11], found[12:]
    chosen, counts = (
        np.full((b, shape.kv_heads, most), POISON, "i4"),
        np.full((b, shape.kv_heads), POISON, "i4"),
    )
    chosen, counts = run(
        kernels["select"], [b, most, scores, case.lengths, case.budgets, chosen, counts]
    )[-2:]
    tail = []
    if shape.tail:
        sums = filled(run, shape, case, np.full((n, shape.kv_heads, shape.head_dim), np.nan, "f4"))
        tail = [*mass, case.mean, case.level, case.centre, case.spread, sums]
    out = np.full(case.q.shape, np.nan, "f4")
    out = run(
        kernels["decode"],
        [b, n, pages, most, case.q, case.table, case.lengths, chosen, counts, case.k, case.v, out,
         *tail],
    )[11]  # fmt: skip
    return {"labels": pool, "scores": scores, "chosen": chosen, "counts": counts, "out": out}


def filled(run: Any, shape: Shape, case: Case, sums: np.ndarray) -> np.ndarray:
    """Return the sums of v after two steps: the first ten tokens of each sequence, the others."""
    before = np.zeros_like(case.lengths)
    for after in (np.minimum(case.lengths, 10), case.lengths):
        starts = np.concatenate([[0], np.cumsum(after - before)]).astype("i4")
        b, pages = case.table.shape
        given = [int(starts[-1]), b, b + 1, len(case.k), pages, starts, after, case.table, case.v]
        sums, before = run(shape.kernels["sums"], [*given, sums])[-1], after
    return sums


def check(shape: Shape, case: Case, found: dict[str, np.ndarray]) -> None:
    """Compare everything with the oracle."""
    group = shape.heads // shape.kv_heads
    unit = shape.page if shape.policy.unit == "page" else 1
    for row, length in enumerate(case.lengths.tolist()):
        for head in range(shape.kv_heads):
            count = int(found["counts"][row, head])
            units = found["chosen"][row, head, :count]
            assert (found["chosen"][row, head, count:] == POISON).all()
            assert (np.diff(units) > 0).all()
            tokens = (units[:, None] * unit + np.arange(unit)).ravel()
            tokens = tokens[tokens < length]
            least, most = selected(shape, case, row, head)
            assert set(least) <= set(tokens) <= set(most), (row, head)
            if not length:
                continue
            q = case.q[row].reshape(shape.kv_heads, group, -1)[head].astype("f8")
            k, v = (
                rows_of(shape, case, row, pool)[head, tokens].astype("f8")
                for pool in (case.k, case.v)
            )
            weights = np.exp(q @ k.T * shape.head_dim**-0.5)
            total, summed = weights.sum(1), weights @ v
            if shape.tail:
                rest, mean = tail_of(shape, case, row, head, tokens)
                total, summed = total + rest, summed + rest[:, None] * mean
            wanted = summed / total[:, None]
            got = found["out"][row].reshape(shape.kv_heads, group, -1)[head]
            np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-5)
        if not length:
            assert (found["out"][row] == 0).all()


def dense_shape(shape: Shape) -> Attention:
    return Attention(shape.heads, shape.kv_heads, shape.head_dim, shape.page)


def covering(shape: Shape) -> Shape:
    """The same with a budget that covers everything."""
    return replace(
        shape, policy=replace(shape.policy, k=ceil(1e6), ratio=0, threshold=0, top_p=0, cap=1)
    )
