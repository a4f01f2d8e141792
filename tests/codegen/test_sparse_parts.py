"""Work lists with sparse rows: lists of chosen keys beside dense items, in one launch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from weft.codegen.bounds.prove import UnprovenAccess, prove_bounds
from weft.codegen.meaning.arrays import narrow, widen
from weft.ir.sparse.policy import MOST_PARTS, SparsePolicy
from weft.passes.tile.attention.join import attention_merge
from weft.passes.tile.attention.parts import FEW, attention_parts
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.passes.tile.selection.labels import Labels, Scores, label_scores, label_write
from weft.passes.tile.selection.selection import Selection, select_keys
from weft.passes.tile.selection.value_sums import ValueSums, value_sums
from weft.passes.tile.sparse.held_attention import HeldParts, held_parts
from weft.passes.tile.sparse.sparse_parts import SparseParts, sparse_parts
from weft.runtime.attention.plan import Rates
from weft.runtime.attention.sparse_lists import SparseLists, SparseRows
from weft.runtime.execution.sparse_decode import SparseDecode
from weft.tests.codegen.kernel_case import interpreted
from weft.tests.codegen.parts_cases import planner_shape, tree

LATER = ("held", "token", "slots", "page", "tail", "tail_page", "tail_words", "tail_slots")
GROUPS = [(3, [9, 3]), (0, [33]), (0, [0]), (1, [40, 2, 25])]
COMMON: dict[str, Any] = {"page": 4, "q": "f32", "kv": "f32", "few": 4, "keys": 8, "keys_many": 4}
SCORED = Scores(Labels(2, 16, 4, 4, "i8"), 4, sinks=1, recent=1, parts=2, flat=True, tail=True)
SHAPES = {
    "token": SparseParts(4, 2, 16, many=8, **COMMON),
    "slots": SparseParts(4, 2, 16, many=8, slots=True, **COMMON),
    "page": SparseParts(4, 2, 16, many=0, unit="page", **COMMON),
    "tail": SparseParts(4, 2, 16, many=8, tail=SCORED, **COMMON),
    "tail_page": SparseParts(
        4, 2, 16, many=0, unit="page", tail=replace(SCORED, unit="page"), **COMMON
    ),
    "tail_words": SparseParts(
        4, 2, 16, many=8, tail=replace(SCORED, words=True, parts=MOST_PARTS), **COMMON
    ),
    "tail_slots": SparseParts(
        4, 2, 16, many=8, tail=replace(SCORED, words=True, parts=MOST_PARTS), slots=True, **COMMON
    ),
    "fp8": SparseParts(4, 2, 16, many=8, tail=SCORED, **COMMON | {"kv": "f8e4m3"}),
    "held": HeldParts(4, 2, 16, many=8, **COMMON),
}


def lists(shape: SparseParts, rows: int) -> SparseLists:
    policy = SparsePolicy(k=8, sinks=1, recent=1, unit=shape.unit, min_context=0)
    decode = SparseDecode(policy, 0, {"labels": []}, rows, 128)
    return SparseLists(decode, planner_shape(shape), rows, 400, torch.device("cpu"))


def launched(run: Any, shape: SparseParts, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return found and wanted outputs: every other sequence reads keys chosen at random."""
    case, rng, page = tree(shape, GROUPS, seed=seed), np.random.default_rng(seed), shape.page
    given_pools = case.pools
    if shape.kv == "f8e4m3":
        given_pools = [narrow(pool, "f8e4m3") for pool in case.pools]
        case = replace(case, pools=[widen(pool, "f8e4m3") for pool in given_pools])
    lengths = case.batch.lengths
    count = len(lengths)
    sparse = (np.arange(count) % 2 == 1) & (lengths > 2)
    room = np.where(sparse, -(-lengths // page) * page, 0)
    unit = page if shape.unit == "page" else 1
    budgets = np.maximum(lengths // 2, 3)
    known = SparseRows(np.where(sparse, lengths, 0), budgets, sparse, np.cumsum(room) - room)
    held = lists(shape, count)
    work = held.plan(case.batch, known, planner_shape(shape), Rates(resident=8))
    more = {
        n.removeprefix("plan_"): a for n, a in held.arrays(known, work, case.batch.table).items()
    }
    chosen = np.full((shape.kv_heads, held.capacity), 99999, "i4")
    counts = np.full((count, shape.kv_heads), -5, "i4")
    seen: dict[tuple[int, int], np.ndarray] = {}
    for row, head in np.ndindex(count, shape.kv_heads):
        tokens = np.arange(lengths[row])
        if sparse[row]:
            units = np.unique(tokens // unit)
            take = np.sort(rng.choice(units, max(1, budgets[row] // unit - head), replace=False))
            if shape.slots and shape.tail:  # whose forced tokens are known by their places
                take[[0, -1]] = 0, lengths[row] - 1
            counts[row, head] = len(take)
            named = shape.slots or isinstance(shape, HeldParts)
            at = case.batch.table[row, take // page] * page + take % page if named else take
            chosen[head, known.base[row] : known.base[row] + len(take)] = at
            tokens = tokens[np.isin(tokens // unit, take)]
        seen[row, head] = tokens
    out = np.full(case.q.shape, np.nan, "f4")
    states = [np.full((work.slots, shape.heads), np.nan, "f4") for _ in "ml"]
    states.append(np.full((work.slots, shape.heads, shape.head_dim), np.nan, "f4"))
    pages = np.ascontiguousarray(case.batch.table.ravel())
    items = [work.item_row, work.item_rows, work.item_page, work.item_low, work.item_high]
    given = [
        len(out), len(case.pools[0]), len(work.item_row), len(work.row_query), len(pages),
        work.slots, case.q, *items, work.row_query, work.row_limit, work.row_slot, pages,
        *given_pools, out, *states, count, held.capacity, more["item_list"], more["row_page"],
        more["base"], more["kv_lengths"], chosen, counts,
    ]  # fmt: skip
    tail = Tails.of(shape, case, seed) if shape.tail else None
    given += tail.arguments(seen) if tail else []
    if shape.many:
        given[18:22] = many_rows(run, shape, [given[:6], given[6:22]], len(work.item_row))
        shape = replace(shape, items=FEW)
    if isinstance(shape, HeldParts):
        after = run(held_parts(shape), given + cached(given_pools, chosen, rng))
    else:
        after = run(sparse_parts(shape), given)
    joined = len(work.merge_query)
    join = [len(out), joined, joined + 1, work.slots, work.merge_query, work.merge_start,
            *after[19:22], after[18]]  # fmt: skip
    found = run(attention_merge(shape.heads, shape.head_dim, "f32"), join)[-1]
    return found, expected(shape, case, seen, tail)


def cached(pools: list[np.ndarray], chosen: np.ndarray, rng: Any) -> list[Any]:
    """Return HP, held_k and held_v: the chosen rows of pools in any order, the rest NaN. What
    `chosen` names is named by its new place."""
    pages, heads, page, width = pools[0].shape
    held = [np.full((pages + 3, heads, page, width), np.nan, "f4") for _ in pools]
    for head, listed in enumerate(chosen):
        moved = rng.permutation((pages + 3) * page)
        wanted = np.flatnonzero(listed < pages * page)
        old, new = listed[wanted], moved[listed[wanted]]
        for pool, rows in zip(pools, held, strict=True):
            rows[new // page, head, new % page] = pool[old // page, head, old % page]
        listed[wanted] = new
    return [pages + 3, *held]


def many_rows(run: Any, shape: SparseParts, given: list[list[Any]], items: int) -> list[Any]:
    """Return results and states after the launch for items of many rows."""
    return run(attention_parts(shape.of_many), [*given[0], items, *given[1]])[-4:]


@dataclass
class Tails:
    """Made-up tables and sums of v; what the middle of a row weighs, worked out in float64."""

    shape: SparseParts
    case: Any
    mean: np.ndarray
    level: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(shape: SparseParts, case: Any, seed: int) -> Tails:
        rng = np.random.default_rng(seed + 100)
        tables = (rng.standard_normal((2, n)).astype("f4") * 0.2 for n in (4, 16, 16))
        mean, centre, spread = tables
        return Tails(shape, case, mean, np.full((2, 4), 0.02, "f4"), centre, spread)

    def rows(self, row: int, of: int, pool: int) -> np.ndarray:
        found = self.case.pools[pool][self.case.batch.table[row]][:, of].reshape(-1, 16)
        return found[: self.case.batch.lengths[row]].astype("f8")

    def middle(self, row: int) -> np.ndarray:
        length = int(self.case.batch.lengths[row])
        if self.shape.unit == "token":
            return np.arange(1, max(length - 1, 1))
        return np.arange(4, max((length - 1) // 4 * 4, 4))

    def scores(self, row: int, of: int, head: int) -> np.ndarray:
        """Label scores of the row's tokens in the exp2 domain, and what they lack of weights."""
        q = self.case.q[row].reshape(-1, 16)[head].astype("f8") * self.shape.factor
        codes = np.round((self.rows(row, of, 0)[:, :4] - self.mean[of]) / self.level[of])
        codes = np.clip(codes, -127, 127)
        if self.words:
            whole, unit = self.rounded(row, of)
            return codes @ whole[head - 2 * of] * unit
        return codes * self.level[of] @ q[:4]

    @property
    def words(self) -> bool:
        return bool(self.shape.tail and self.shape.tail.words)

    def rounded(self, row: int, of: int) -> tuple[np.ndarray, float]:
        """The queries of a key head as bytes [2, 4], and what a score of one is in that domain."""
        q = self.case.q[row].reshape(2, 2, 16)[of, :, :4].astype("f8") * self.level[of]
        largest = np.abs(q).max()
        return np.floor(q * 127 / largest + 0.5), largest / 127 * self.shape.factor

    def base(self, row: int, of: int, head: int) -> float:
        q = self.case.q[row].reshape(-1, 16)[head].astype("f8") * self.shape.factor
        return q @ self.centre[of] + np.log(2) / 2 * np.square(q * self.spread[of]).sum()

    def arguments(self, seen: dict[tuple[int, int], np.ndarray]) -> list[np.ndarray]:
        """The kernel's last arguments: each half of a middle is a part; whole rows have none."""
        table, lengths = self.case.batch.table, self.case.batch.lengths
        top = np.full((len(lengths), 4, MOST_PARTS if self.words else 2), -1e20, "f4")
        mass = np.zeros_like(top)
        for (row, of), tokens in seen.items():
            for head in (2 * of, 2 * of + 1):
                for part, half in enumerate(np.array_split(self.middle(row), 2)):
                    if len(half) and len(tokens) < lengths[row]:
                        found = self.scores(row, of, head)[half]
                        top[row, head, part] = found.max()
                        mass[row, head, part] = np.exp2(found - found.max()).sum()
        sums = np.full((len(self.case.pools[0]), 2, 16), np.nan, "f4")
        for row, of in seen:
            for page in range(int(lengths[row]) // 4):
                sums[table[row, page], of] = self.rows(row, of, 1)[: 4 * page + 4].sum(0)
        given = [top, mass, self.mean, self.level, self.centre, self.spread, sums]
        if not self.words:
            return given
        query = np.zeros((len(lengths), 2, 2), "i4")
        unit = np.zeros((len(lengths), 2), "f4")
        for row, of in np.ndindex(len(lengths), 2):
            whole, unit[row, of] = self.rounded(row, of)
            query[row, of] = whole.astype("i1").view("i4").ravel()
        return [*given, query, unit]

    def of_head(self, row: int, of: int, head: int, read: np.ndarray) -> tuple[float, np.ndarray]:
        """The weight of the middle's unread tokens, and the value that they get."""
        whole = int(self.case.batch.lengths[row]) // 4 * 4
        unread = np.setdiff1d(self.middle(row), read)
        weight = np.exp2(self.scores(row, of, head)[unread] + self.base(row, of, head)).sum()
        return weight if whole else 0.0, self.rows(row, of, 1)[:whole].sum(0) / max(whole, 1)


def expected(
    shape: SparseParts, case: Any, seen: dict[tuple[int, int], np.ndarray], tail: Tails | None
) -> np.ndarray:
    q = case.q.reshape(-1, shape.heads, shape.head_dim).astype("f8")
    wanted = np.zeros_like(q)
    for (row, of), tokens in seen.items():
        for head in range(of * shape.group, (of + 1) * shape.group):
            if len(tokens):
                keys, values = (
                    pool[case.batch.table[row]][:, of].reshape(-1, shape.head_dim)[tokens]
                    for pool in case.pools
                )
                weights = np.exp(keys @ q[row, head] * shape.factor * np.log(2.0))
                total, summed = weights.sum(), weights @ values
                if tail and len(tokens) < case.batch.lengths[row]:
                    weight, mean = tail.of_head(row, of, head, tokens)
                    total, summed = total + weight, summed + weight * mean
                wanted[row, head] = summed / total
    return wanted.reshape(len(q), -1)


@pytest.mark.parametrize("name", SHAPES)
def test_dense_and_sparse_rows_in_one_launch(name: str) -> None:
    for seed in (1, 2):
        found, wanted = launched(interpreted, SHAPES[name], seed)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["fp8", *(pytest.param(n, marks=pytest.mark.slow) for n in LATER)])
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    found, wanted = launched(triton_interpreter.run, SHAPES[name], 3)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_gpu(name: str, gpu: Any) -> None:
    found, wanted = launched(gpu, SHAPES[name], 3)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-5)


def test_proven_and_not_when_a_list_may_name_any_row() -> None:
    kernel = sparse_parts(SHAPES["page"])
    assert prove_bounds(kernel).ok
    facts = [fact for fact in kernel["requires"] if "item_list" not in fact]
    with pytest.raises(UnprovenAccess):
        prove_bounds(kernel.with_attributes(requires=facts))
    labels = Labels(2, 16, 4, 4, "i8")
    assert prove_bounds(held_parts(SHAPES["held"])).ok
    assert prove_bounds(sparse_parts(SHAPES["slots"])).ok
    assert prove_bounds(sparse_parts(SHAPES["tail"])).ok
    assert prove_bounds(sparse_parts(SHAPES["tail_words"])).ok
    assert prove_bounds(sparse_parts(SHAPES["tail_slots"])).ok
    assert prove_bounds(value_sums(ValueSums(2, 16, 4, flat=True))).ok
    for unit in ("token", "page"):
        scores = Scores(labels, 4, unit=unit, flat=True, parts=2, tail=unit == "page")
        assert prove_bounds(label_scores(scores)).ok
        assert prove_bounds(select_keys(Selection(2, 4, unit=unit, flat=True))).ok


def test_labels_and_sums_of_fp8_keys(triton_interpreter: Any) -> None:
    check_fp8_labels(triton_interpreter.run)


@pytest.mark.gpu
def test_gpu_labels_and_sums_of_fp8_keys(gpu: Any) -> None:
    check_fp8_labels(gpu)


def check_fp8_labels(run: Any) -> None:
    """Of 8-bit keys and values: codes and sums are those of the values that pages hold."""
    rng, labels = np.random.default_rng(4), Labels(2, 16, 4, 4, "i8", "f8e4m3")
    k, v = (narrow(rng.standard_normal((5, 2, 4, 16)).astype("f4"), "f8e4m3") for _ in "kv")
    mean, level = np.full((2, 4), 0.1, "f4"), np.full((2, 4), 0.02, "f4")
    slots = np.array([4, 5, 6, 7, 12, 13, 14, 15, -1], "i4")
    codes = np.full((5, *labels.pool[1:]), 77, "i1")
    given = [len(slots), 5, slots, k, mean, level, codes]
    found = run(label_write(labels), given)[-1]
    exact = ((widen(k, "f8e4m3")[..., :4].astype("f8") - mean[0, 0]) / level[0, 0]).clip(-127, 127)
    for page in (1, 3):
        off = np.abs(found[page] - exact[page].transpose(0, 2, 1))
        assert off.max() <= 0.5 + 1e-4  # the nearest code, and either of two that are as near
    assert (found[[0, 2, 4]] == 77).all()
    entries = [np.array(x, "i4") for x in ([1], [2], [-1], [0, 1, 3])]
    sums = np.full((5, 2, 16), np.nan, "f4")
    kernel = value_sums(ValueSums(2, 16, 4, "f8e4m3", flat=True))
    sums = run(kernel, [5, 3, 1, *entries, v, sums])[-1]
    rows = widen(v, "f8e4m3")[[1, 3]].sum(2).cumsum(0)
    np.testing.assert_allclose(sums[[1, 3]], rows, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_kernels_of_an_8b_shape_compile_for_hopper() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    labels = Labels(8, 128, 64, 32, "i4", kv="bf16")
    kernels = [
        label_scores(Scores(labels, 32, q="bf16", flat=True, parts=16)),
        select_keys(Selection(8, 64, keys=1024, digits=(11, 11, 10), flat=True)),
        sparse_parts(SparseParts(32, 8, 128, page=64, few=16, many=0, keys=64)),
        sparse_parts(SparseParts(32, 8, 128, page=64, few=16, many=64, unit="page", items=FEW)),
        label_scores(tail := Scores(labels, 32, q="bf16", flat=True, parts=16, tail=True)),
        sparse_parts(SparseParts(32, 8, 128, page=64, few=16, many=0, keys=64, tail=tail)),
        value_sums(ValueSums(8, 128, 64, "bf16", flat=True)),
    ]
    for kernel in kernels:
        assert len(compile_offline(kernel, gpu_schedule(kernel, True))["cubin"]) > 1000
