"""A budgeted cache of rows that lie on the other side of a link: keys and values of chosen tokens.

A row is known by its slot (page * page size + offset). What a step wants is never evicted by the
step's own misses; of the rest the longest unused goes first. NumPy; the rows are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.diagnostics import CapacityError


class CacheTooSmall(CapacityError):
    """A selection of more rows than the cache of one key head holds."""

    template = "a selection reads {wanted} rows, and the cache of a key head holds {budget}"
    hint = "give the cache more rows, or the policy a smaller k, ratio or cap"


@dataclass(frozen=True)
class Fetch:
    """Where wanted rows lie in the cache [n], and which of them must first be copied there."""

    places: np.ndarray
    missing: np.ndarray


class RowCache:
    """Which slot's row lies in which of `budget` places."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._slot = np.full(budget, -1, np.int64)
        self._used = np.zeros(budget, np.int64)
        self._place: dict[int, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._place)

    def fetch(self, slots: np.ndarray) -> Fetch:
        """Return places for some slots, all different; raises CacheTooSmall, changing nothing.

        The caller copies the rows that are missing before it reads any.
        """
        if len(slots) > self.budget:
            raise CacheTooSmall(wanted=len(slots), budget=self.budget)
        self._clock += 1
        places = np.array([self._place.get(slot, -1) for slot in slots.tolist()], np.int64)
        missing = places < 0
        self._used[places[~missing]] = self._clock
        oldest = np.argsort(self._used, kind="stable")[: int(missing.sum())]
        for place, slot in zip(oldest.tolist(), slots[missing].tolist(), strict=True):
            self._place.pop(int(self._slot[place]), None)
            self._slot[place], self._place[slot] = slot, place
        self._used[oldest] = self._clock
        places[missing] = oldest
        return Fetch(places, missing)

    def forget(self, slots: np.ndarray) -> None:
        """Drop rows that have been written anew on the other side."""
        for slot in slots.tolist():
            place = self._place.pop(slot, None)
            if place is not None:
                self._slot[place], self._used[place] = -1, 0
