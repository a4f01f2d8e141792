"""Rooms: what recorded launches are made for, and which steps and lists they take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..execution.recipe import PLANNED
from ..execution.slot_copies import COPIED
from .grown_lists import Lists
from .ways import EITHER

ITEMS = 16
"""Items that a room has at least where rows are cut: as many as a long row mostly has, so that few
rows keep their room while they grow. One of no keys costs 0.03 us of a layer on an H200."""

_NONE = ("row_slot", "merge_query", "item_list", "fill_before", "group_rows")
"""Lists in which -1 stands for nothing."""


@dataclass(frozen=True)
class Room:
    """What recorded launches are made for: rows, extents and sizes of the lists, page table last,
    and the way in which their kernels read them.

    It names the recording: steps with the same room share it. Of a step of prompts it has places
    for so many rows of `logits`; 0: for as many as rows, one each.
    """

    rows: int
    apart: bool
    extents: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    sparse: bool = False
    attended: bool = False
    way: str = ""
    logits: int = 0

    @property
    def places(self) -> int:
        """How much it holds, to compare rooms by."""
        return sum(size for _, size in self.sizes)

    @cached_property
    def items(self) -> int:
        """How many items of attention a step of prompts has places for."""
        wanted = f"{PLANNED}W", f"{PLANNED}M"
        return sum(count for name, count in self.extents if name in wanted) if self.logits else 0

    def holds(self, other: Room) -> bool:
        """Whether steps of another room fit, with nothing in what they leave."""
        if self.rows < other.rows or any(
            getattr(self, name) != getattr(other, name) for name in ("apart", "sparse", "attended")
        ):
            return False
        if not (self.apart or self.way == other.way or (self.way, other.way) == EITHER):
            return False
        if self.logits < other.logits or bool(self.logits) != bool(other.logits):
            return False
        mine, its = (dict((*room.extents, *room.sizes)) for room in (self, other))
        return mine.keys() == its.keys() and all(mine[name] >= its[name] for name in its)

    def takes(self, lists: Lists) -> bool:
        """Whether it has places enough for lists."""
        have = dict((*self.extents, *self.sizes))
        wanted = (*lists.extents.items(), *lists.sizes())
        return all(have.get(name, -1) >= count for name, count in wanted)

    def filling(self, name: str, given: np.ndarray) -> int:
        """Return what the rest of an array holds: items of no rows, joins of no row."""
        if name.startswith(f"{PLANNED}merge_start"):
            return int(given[-1]) if len(given) else 0
        nothing = ("slots", "source", *COPIED, *(PLANNED + name for name in _NONE))
        return -1 if name.startswith(nothing) else 0


def places_for(items: int, enough: int, least: int) -> int:
    """Return how many items to leave room for: `enough` if they suffice, else `least`, or as few
    steps more as hold them."""
    if items <= enough:
        return enough
    level = least
    while level < items:
        level += max(4, 1 << (level.bit_length() - 2))
    return level
