"""The lists of a step whose decode rows may be sparse: budgets, where scores lie, which items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...ir.sparse.policy import (
    FEW_PAIRS,
    LEAST_HEADS,
    LISTED,
    LISTED_SLOTS,
    MOST_PARTS,
    MOST_SHARES,
    SCORE_PARTS,
    SCORE_STEPS,
    SHARERS,
    STEP_KINDS,
    few_pairs,
)
from ..execution.recipe import PLANNED
from ..execution.sparse_decode import SparseDecode, decode_rows
from ..execution.step import StepInput
from .cost import Batch, Cost, Rates, Run, Shape
from .label_groups import group_arrays, label_groups
from .plan import WorkList, build, choose_runs

ROW_ARRAYS = ("kv_lengths", "budgets", "row_page", "base", "span", "own", "guess_budgets")
"""Arrays with an entry a decode row; the last only where keys are fetched ahead, those before it
only where labels are words."""
GROUP_ARRAYS = {"group_pages": 1, "group_rows": SHARERS}
"""Arrays of groups of rows that share labels, with so many entries a group."""
FILLS = ("fill_entry", "fill_count", "fill_before")
"""Arrays with an entry a sequence: which of its pages a step fills, for sums of v."""


Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Gives zeroed memory of a device: what it is for, its shape, its dtype."""


def _zeros(device: torch.device, what: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def fills(lengths: np.ndarray, new: np.ndarray, columns: int, page: int) -> dict[str, np.ndarray]:
    """Return which pages are filled by `new` tokens [B] that make sequences of `lengths` [B], as
    entries of a page table of so many columns; see `passes.tile.selection.value_sums`."""
    first, end = (lengths - new) // page, lengths // page
    entry = np.arange(len(lengths)) * columns + first
    some = end > first
    before = np.where(some & (first > 0), entry - 1, -1)
    found = (np.where(some, entry, 0), np.where(some, end - first, 0), before)
    return {PLANNED + name: x.astype(np.int32) for name, x in zip(FILLS, found, strict=True)}


RESIDENT = 3
"""Programs that read lists on a multiprocessor: each has 74 KB of shared memory."""

WAY = 160
"""Keys of a list that would be read while a program finds its first ones."""


def listed_chunk(keys: np.ndarray, shape: Shape, resident: int, tile: int = LISTED) -> int:
    """Return the keys of an item of lists of `keys` [B]: those with which the fewest are read one
    after another, where so many programs are resident. Rows of lists come one by one, so a program
    takes as long for a tile whether others run beside it or not."""
    step = max(tile, shape.page)
    chunks = np.arange(step, max(int(keys.max(initial=0)), 1) + step, step)
    programs = (-(-keys[:, None] // chunks)).sum(0) * shape.kv_heads
    return int(chunks[(-(-programs // resident) * (chunks + WAY)).argmin()])


@dataclass(frozen=True)
class SparseRows:
    """A step's decode rows: lengths, budgets, which of them select, where their scores begin."""

    lengths: np.ndarray
    budgets: np.ndarray
    chosen: np.ndarray
    base: np.ndarray


class SparseLists:
    """Plans sparse rows, and holds what the selection of one layer needs, layer after layer.

    `capacity` tokens of context may select in one step; more, and the step reads everything. Where
    keys lie across a link, predicted queries have lists of their own, and `allocate` gives the
    memory of what is as long as the context.
    """

    def __init__(
        self, decode: SparseDecode, shape: Shape, rows: int, capacity: int, device: torch.device,
        allocate: Allocate | None = None,
    ) -> None:  # fmt: skip
        self._across = allocate is not None
        self._allocate = allocate or partial(_zeros, device)
        self._decode, self._shape, self._unit = decode, shape, decode.unit
        self.tail, self.some_whole = decode.tail, decode.some_whole
        self.capacity = -(-capacity // shape.page) * shape.page
        places = (shape.kv_heads, self.capacity)
        counts = (rows, shape.kv_heads)
        self.memory: dict[str, Tensor | int] = {"C": self.capacity}
        for name in ("chosen", *(("guess_chosen", "rows") if self._across else ())):
            self.memory[name] = self._allocate(name, places, torch.int32)
        for name in ("counts", *(("guess_counts",) if self._across else ())):
            self.memory[name] = torch.zeros(counts, dtype=torch.int32, device=device)
        self._words = False
        self.memory |= self._scores(rows, device)
        self._at_once = not self._across and decode.attends_at_once(
            shape.head_dim, shape.heads // shape.kv_heads
        )
        if self._at_once:
            self.memory |= self._shares(rows, device)
        parts = MOST_PARTS if self._words else SCORE_PARTS
        for name in ("tail_max", "tail_sum") if self.tail else ():
            self.memory[name] = torch.zeros((rows, shape.heads, parts), device=device)

    def _scores(self, rows: int, device: torch.device) -> dict[str, Tensor | int]:
        """Return the memory of scores: numbers, or steps with what makes and counts them."""
        shape = self._shape
        size, heads = self._decode.query_bytes(shape.head_dim) // 4, shape.kv_heads
        if not size:
            places = (heads, self.capacity)
            return {"scores": self._allocate("scores", places, torch.float32)}
        group = shape.heads // heads
        sizes = {"query": (group * size,), "bias": (group,), "reach": (2,),
                 "coarse": (MOST_PARTS, STEP_KINDS), "fine": (MOST_SHARES, STEP_KINDS),
                 "meets": ()}  # fmt: skip
        if self._decode.adaptive:
            sizes["tally"] = (MOST_SHARES, SCORE_STEPS)
        found: dict[str, Tensor | int] = {
            name: torch.zeros((rows, heads, *dims), dtype=torch.int32, device=device)
            for name, dims in sizes.items()
        }
        self._words, pages = True, self.capacity // shape.page
        for name in ("worth", "score_unit"):
            found[name] = torch.zeros((rows, heads), device=device)
        bins = self._allocate("bins", (pages, heads, shape.page // 4), torch.int32)
        return found | {"bins": bins, "CP": pages}

    def _shares(self, rows: int, device: torch.device) -> dict[str, Tensor | int]:
        """Return the memory of what programs that choose keys of few rows and attend to them leave
        to each other (see `passes.tile.sparse.list_shares`)."""
        heads, group = self._shape.kv_heads, self._shape.heads // self._shape.kv_heads
        few = max(1, min(rows, FEW_PAIRS // max(heads, LEAST_HEADS)))
        each = group * self._shape.head_dim // MOST_PARTS
        sizes = {"share_max": (group,), "share_sum": (group,), "share_acc": (MOST_PARTS, each)}
        found = {name: torch.zeros((few, heads, MOST_PARTS, *dims), device=device)
                 for name, dims in sizes.items()}  # fmt: skip
        return {**found, "SR": few}

    def attends(self, rows: SparseRows) -> bool:
        """Return whether the launch that chooses the keys of such rows attends to them, too; then
        no item of a work list does."""
        return self._at_once and few_pairs(len(rows.chosen), self._shape.kv_heads)

    def rows(self, step: StepInput) -> SparseRows:
        """Return a step's decode rows; none selects where there is no room for all that would."""
        rows = decode_rows(step)
        lengths = step.kv_lengths.numpy()[:rows]
        self._decode.wanted(step)
        budgets = self._decode.known(rows)
        chosen = budgets <= lengths
        room = np.where(chosen, -(-lengths // self._shape.page) * self._shape.page, 0)
        if room.sum() > self.capacity:
            chosen = np.zeros(rows, bool)
        return SparseRows(np.where(chosen, lengths, 0), budgets, chosen, np.cumsum(room) - room)

    def plan(self, batch: Batch, rows: SparseRows, shape: Shape, rates: Rates) -> WorkList:
        """Return the work list: dense sequences as ever, a run of its budget a sparse row, unless
        the launch that chooses its keys attends to it, too."""
        sparse, attended = np.flatnonzero(rows.chosen), self.attends(rows)
        dense = batch.lengths.copy()
        dense[sparse] = 0
        runs = choose_runs(replace(batch, lengths=dense), shape, rates)
        if not attended:
            runs += [Run(row, 0, self._most(rows, row), (row,)) for row in sparse.tolist()]
        if dense.any():
            chunk = Cost(batch, runs, shape, rates).least()[1]
        else:
            keys = np.array([run.keys for run in runs])
            tile = LISTED_SLOTS if self._words and not self._across else LISTED
            chunk = listed_chunk(keys, shape, RESIDENT * rates.processors, tile)
        made = build(batch, runs, shape, chunk, 0.0)
        return _joined_elsewhere(made, batch.starts[sparse]) if attended else made

    def _most(self, rows: SparseRows, row: int) -> int:
        """Return the most tokens of its list that a row reads; pages are counted whole."""
        page, length, budget = self._shape.page, int(rows.lengths[row]), int(rows.budgets[row])
        whole = -(-length // page) * page
        return min(length, budget) if self._unit == "token" else min(whole, budget + 2 * page)

    def arrays(self, rows: SparseRows, made: WorkList, table: np.ndarray) -> dict[str, np.ndarray]:
        """Return the lists that only sparse kernels take, for a page table [B, MAXP]."""
        columns = table.shape[1]
        owner = made.item_page // columns
        count = len(rows.chosen)
        sparse = owner < count
        sparse[sparse] = rows.chosen[owner[sparse]]
        given = {
            "kv_lengths": rows.lengths,
            "budgets": rows.budgets,
            "row_page": np.arange(count) * columns,
            "base": np.where(rows.chosen, rows.base, 0),
            "item_list": np.where(sparse, owner, -1),
        }
        if self._words:
            given |= self._groups(rows, table)
        if self._across:
            given["guess_budgets"] = self._decode.guess_budgets(rows.budgets, rows.chosen)
        return {PLANNED + name: array.astype(np.int32) for name, array in given.items()}

    def _groups(self, rows: SparseRows, table: np.ndarray) -> dict[str, np.ndarray]:
        """Return the lists of rows that share labels, where these are scored once."""
        page, count = self._shape.page, len(rows.chosen)
        pages = np.where(rows.chosen, -(-rows.lengths // page), 0)
        shares = self._decode.shared and not self.tail
        groups = label_groups(table[:count], pages) if shares else []
        return group_arrays(groups, pages)


def _joined_elsewhere(made: WorkList, queries: np.ndarray) -> WorkList:
    """Return a work list that joins nothing for some queries, of which it has no items."""
    joins = ~np.isin(made.merge_query, queries)
    start = np.append(made.merge_start[:-1][joins], made.merge_start[-1:])
    return replace(made, merge_query=made.merge_query[joins], merge_start=start)
