"""A step's attention lists, and those that the next decode steps take over from them.

To plan them anew takes the host milliseconds: half a step, in which a device would wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..execution.recipe import PLANNED
from .plan import slots_of
from .sparse_lists import FILLS, fills
from .ways import GROUPED, UNGROUPED, singles

PAGES = f"{PLANNED}pages"

KEPT_FOR = 64
"""Steps after which lists are planned anew."""

AFTER_LEAVING = 8
"""The same after rows have left: what suited many rows may not suit those that are left."""

AFTER_LIKE = 4
"""The same where lists are cut as those of another step were. By then the host is ahead, and weighs
while the device computes."""

LONG = 1024
"""Tokens of a step behind which lists are weighed anew at once, though a step like theirs is known:
that takes an H200's host 3 to 10 ms, its device computes so many for 20, and steps of decoding that
follow for 6."""


@dataclass(frozen=True)
class Lists:
    """The lists of one step: arrays and extents by name, the page table last.

    `apart`: no item has more rows than the small tile holds. `sparse`: some row reads what is
    selected for it; `attended`: what chooses its keys attends to them. `seconds` are predicted, of
    one layer for each window. `way`: what kernels it was planned for. `again`: it is cut as an
    earlier step's lists were (`known_plans`).
    """

    arrays: Mapping[str, np.ndarray]
    extents: Mapping[str, int]
    apart: bool
    sparse: bool = False
    attended: bool = False
    seconds: float = 0.0
    way: str = ""
    again: bool = False

    def sizes(self) -> list[tuple[str, int]]:
        """Return each array's name and size."""
        return [(name, len(array)) for name, array in self.arrays.items()]


class Growing:
    """The lists of a decode step, which the next steps may take with one key more a row.

    `few`: rows that an item of lists `apart` has at most.
    """

    def __init__(
        self, lists: Lists, table: np.ndarray, lengths: np.ndarray, page: int, few: int
    ) -> None:  # fmt: skip
        self._table, self._lengths, self._page = table, lengths.copy(), page
        self._few, self._left = few, AFTER_LIKE if lists.again else KEPT_FOR
        self._seconds, self._way = lists.seconds, lists.way
        self._take(dict(lists.arrays), lists.extents, lists.apart)
        row, start = np.divmod(lists.arrays[f"{PLANNED}item_page"], table.shape[1])
        self._ends = start * page + self._high == lengths[row]  # items of a row's last keys

    def _take(
        self, arrays: dict[str, np.ndarray], extents: Mapping[str, int], apart: bool
    ) -> None:  # fmt: skip
        self._high, self._limit = (
            arrays[PLANNED + name].copy() for name in ("item_high", "row_limit")
        )
        arrays |= {f"{PLANNED}item_high": self._high, f"{PLANNED}row_limit": self._limit}
        self._arrays, self._extents, self._apart = arrays, extents, apart

    @property
    def over(self) -> bool:
        """Whether they have been taken for as many steps as they may."""
        return self._left < 0

    def grown(self, table: np.ndarray, lengths: np.ndarray) -> Lists | None:
        """Return the lists of the next step, some of whose rows may have left and moved, or None
        if it is no such step."""
        self._left -= 1
        if self._left < 0 or table.shape[1] != self._table.shape[1]:
            return None
        if not self._follows(table, lengths, None):
            rows = self._rows_before(table, lengths)
            if rows is None or not self._follows(table, lengths, rows):
                return None
            self._keep(rows)
            self._left = min(self._left, AFTER_LEAVING)
        self._lengths = lengths.copy()
        self._table = table
        self._high += self._ends
        self._limit += 1
        arrays = {**self._arrays, PAGES: table.ravel()}
        if PLANNED + FILLS[0] in arrays:
            arrays |= fills(lengths, np.ones_like(lengths), table.shape[1], self._page)
        return Lists(arrays, self._extents, self._apart, seconds=self._seconds, way=self._way)

    def _follows(self, table: np.ndarray, lengths: np.ndarray, rows: np.ndarray | None) -> bool:
        """Whether rows, those before by number or all, have a key more, and only such pages
        differ as this step begins."""
        before, had = self._lengths, self._table
        if rows is not None:
            before, had = before[rows], had[rows]
        if not np.array_equal(lengths, before + 1):
            return False
        differing, columns = np.nonzero(table != had)
        return bool((columns >= (lengths[differing] - 1) // self._page).all())

    def _rows_before(self, table: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """Return which row each was, by the page of the key before, which is no other's."""
        own = self._table[np.arange(len(self._lengths)), (self._lengths - 1) // self._page]
        page = table[np.arange(len(lengths)), np.maximum(lengths - 2, 0) // self._page]
        order = np.argsort(own)
        at = np.minimum(np.searchsorted(own, page, sorter=order), len(own) - 1)
        rows = order[at]
        same = len(rows) and np.array_equal(own[rows], page) and len(np.unique(own)) == len(own)
        return rows if same else None

    def _keep(self, rows: np.ndarray) -> None:
        """Leave out what was read for other rows than these, which get their new numbers."""
        arrays, width = self._arrays, self._table.shape[1]
        old = {name: arrays[PLANNED + name] for name in ("item_rows", "item_page", "row_query")}
        now = np.full(len(self._lengths), -1)
        now[rows] = np.arange(len(rows))
        query = now[old["row_query"]]
        there = query >= 0
        item = np.repeat(np.arange(len(old["item_rows"])), old["item_rows"])
        counts = np.bincount(item[there], minlength=len(old["item_rows"]))
        items, query = counts > 0, query[there]
        size = counts[items]
        first = np.cumsum(size) - size
        slot, merge_query, merge_start = slots_of(query, len(rows))
        made = {
            "item_row": first, "item_rows": size, "item_low": arrays[f"{PLANNED}item_low"][items],
            "item_page": query[first] * width + old["item_page"][items] % width,
            "item_high": self._high[items], "row_limit": self._limit[there], "row_query": query,
            "row_slot": slot, "merge_query": merge_query, "merge_start": merge_start,
        }  # fmt: skip
        many = np.flatnonzero(size > self._few)  # items that a launch of their own looks for
        extents = {"W": len(size), "R": len(query), "G": len(merge_query), "G1": len(merge_start),
                   "S": int((slot >= 0).sum()), "F": len(rows),
                   "M": int(many[-1]) + 1 if len(many) else min(1, len(size))}  # fmt: skip
        self._take(
            arrays | {PLANNED + name: np.ascontiguousarray(array, np.int32)
                      for name, array in made.items()},
            {**self._extents, **{PLANNED + name: count for name, count in extents.items()}},
            int(size.max(initial=0)) <= self._few,
        )  # fmt: skip
        self._ends = self._ends[items]
        if self._way == GROUPED and not singles(size, self._few):
            self._way = UNGROUPED
