"""Labels of a few rows scored and chosen by the kernels, and what scores and steps are exactly."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from weft.ir.core import Operation
from weft.ir.sparse.calibration import LEVELS
from weft.ir.sparse.policy import MOST_PARTS, MOST_SHARES, SHARERS
from weft.ir.sparse.policy import SCORE_STEPS as BINS
from weft.passes.tile.meeting import meeting
from weft.passes.tile.selection.bin_boundary import BinSelection
from weft.passes.tile.selection.bin_selection import select_bins
from weft.passes.tile.selection.labels import Labels
from weft.passes.tile.selection.packed_counts import KINDS
from weft.passes.tile.selection.query_words import query_words
from weft.passes.tile.selection.shared_labels import shared_labels
from weft.passes.tile.selection.step_counts import step_counts
from weft.passes.tile.selection.word_labels import STEPS, WordScores, label_words, word_write
from weft.passes.tile.selection.word_scores import word_scores
from weft.runtime.attention.label_groups import group_arrays, label_groups
from weft.tests.codegen.kernel_case import interpreted

HEADS, SINKS, RECENT, PAGE = 4, 2, 5, 4
LENGTHS = [0, 40, 21, 97, 8]
SCALE = 0.25
SHARED = {1: {3: 7}, 2: {3: 5}}
"""How many first pages a row has of another."""
WANTED = [0, 14, 8, 30, 8]
Run = Callable[[Operation, list[Any]], list[Any]]


@dataclass
class Case:
    """Keys of a few rows in scattered pages, and what the kernels left."""

    labels: Labels
    k: np.ndarray
    q: np.ndarray
    mean: np.ndarray
    level: np.ndarray
    pages: np.ndarray
    row_page: np.ndarray
    base: np.ndarray
    after: dict[str, np.ndarray]


def run_all(
    run: Run, format: str, seed: int = 0, shared: bool = False, tail: bool = False,
    keys: int = 16, pairs: str = "", met: int = 0, **amounts: float,
) -> Case:  # fmt: skip
    labels, rng = Labels(2, 16, PAGE, 8, format), np.random.default_rng(seed)
    count = [-(-length // PAGE) for length in LENGTHS]
    total, rows = sum(count), len(LENGTHS)
    pages = (rng.permutation(total) + 1).astype("i4")
    row_page = (np.cumsum(count) - count).astype("i4")
    table = np.zeros((rows, max(count)), "i4")
    for row, first in enumerate(row_page):
        for other, prefix in (SHARED if shared else {}).get(row, {}).items():
            pages[first : first + prefix] = pages[row_page[other] :][:prefix]
        table[row, : count[row]] = pages[first:][: count[row]]
    groups = label_groups(table, np.array(count))
    lists = {n: a.astype("i4") for n, a in group_arrays(groups, np.array(count)).items()}
    base, capacity = row_page * PAGE, total * PAGE
    k = rng.standard_normal((total + 1, 2, PAGE, 16)).astype("f4")
    q = rng.standard_normal((rows, HEADS * 16)).astype("f4")
    mean = rng.standard_normal((2, 8)).astype("f4") * 0.1
    level = np.full((2, 8), 2.5 / LEVELS[format], "f4")
    slots = np.arange(PAGE, (total + 1) * PAGE).astype("i4")
    given: dict[str, Any] = {
        "T": len(slots), "N": total + 1, "slots": slots, "k": k, "mean": mean, "level": level,
        "labels": np.full((total + 1, 2, label_words(labels), PAGE), 0x5A5A5A5A, "i4"),
    }  # fmt: skip
    shape = WordScores(labels, HEADS, SINKS, RECENT, "f32", keys=keys, pairs=pairs,
                       scale=SCALE * bool(amounts or tail), tail=tail)  # fmt: skip
    taken = BinSelection(2, PAGE, SINKS, RECENT, 16, **amounts)
    later: dict[str, Any] = {
        "T": rows, "B": rows, "E": total, "C": capacity, "q": q, "pages": pages,
        "row_page": row_page, "base": base, "kv_lengths": np.array(LENGTHS, "i4"),
        "budgets": np.array(WANTED, "i4"), "Q": len(groups), "QM": SHARERS * len(groups), **lists,
        "query": np.full((rows, 2, 2 * 2), -7, "i4"), "bias": np.full((rows, 2, 2), -7, "i4"),
        "reach": np.full((rows, 2, 2), -7, "i4"), "CP": total,
        "bins": np.full((total, 2, PAGE // 4), -0x36363637, "i4"),
        "tally": np.full((rows, 2, MOST_SHARES, BINS), -9, "i4"),
        **{name: np.full((rows, 2), np.nan, "f4") for name in ("worth", "score_unit")},
        **{name: np.full((rows, HEADS, MOST_PARTS), np.nan, "f4")
           for name in ("tail_max", "tail_sum")},
        "coarse": np.full((rows, 2, MOST_PARTS, KINDS), -9, "i4"),
        "fine": np.full((rows, 2, MOST_SHARES, KINDS), -9, "i4"),
        "chosen": np.full((2, capacity), -7777, "i4"), "counts": np.full((rows, 2), -7, "i4"),
        "meets": np.zeros((rows, 2), "i4"),
    }  # fmt: skip
    kernels = [
        word_write(labels), query_words(shape), shared_labels(shape), word_scores(shape),
        step_counts(taken), select_bins(taken),
    ]  # fmt: skip
    if met:
        kernels[-met:] = [meeting("met", *kernels[-met:])]
    for kernel in kernels:
        names = [value.name for value in kernel.regions[0].arguments]
        given |= dict(zip(names, run(kernel, [given[name] for name in names]), strict=True))
        given |= {name: value for name, value in later.items() if name not in given or name == "T"}
        later = {}
    return Case(labels, k, q, mean, level, pages, row_page, base, given)


@cache
def _interpreted(*options: Any, **named: Any) -> Case:
    return run_all(interpreted, *options, **named)


def case_of(*options: Any, **named: Any) -> Case:
    """Return `run_all` of these options, interpreted once for all tests of a process: a copy."""
    return deepcopy(_interpreted(*options, **named))


def worth(case: Case, row: int, head: int) -> float:
    """Return the power of two that a step more is worth: of a 255th of what scores can be."""
    q = case.q[row].reshape(2, 2, 16)[head, :, :8] * case.level[head]
    words = np.floor(q * (127 / np.abs(q).max()) + 0.5)
    most = np.abs(words).sum(1).max() * (8 if case.labels.format == "i4" else 127)
    return float(SCALE * np.abs(q).max() / 127 * (2 * most + 1) / STEPS / np.log(2))


def exact_scores(case: Case, row: int, head: int) -> tuple[np.ndarray, int]:
    """Return the score of each token for each query head [g, S] from keys and queries, without any
    packing, and the most that one can be."""
    length, r = LENGTHS[row], 8
    pages = case.pages[case.row_page[row] :][: -(-length // PAGE)]
    keys = case.k[pages, head].reshape(-1, 16)[:length, :r]
    most = LEVELS[case.labels.format]
    codes = np.clip(np.round((keys - case.mean[head]) / case.level[head]), -most, most)
    q = case.q[row].reshape(2, 2, 16)[head, :, :r] * case.level[head]
    words = np.floor(q * (np.float32(127) / np.abs(q).max()) + np.float32(0.5)).astype(int)
    top = np.abs(words).sum(1).max() * (8 if case.labels.format == "i4" else 127)
    return words @ codes.T.astype(int), top


def exact_steps(case: Case, row: int, head: int) -> np.ndarray:
    """Return the step of each token's score."""
    scores, top = exact_scores(case, row, head)
    factor = int(np.float32(STEPS * 2.0**31) / np.float32(max(2 * top + 1, STEPS + 1)))
    return 1 + np.minimum(((scores.max(0) + top) * 2 * factor) >> 32, STEPS - 1)
