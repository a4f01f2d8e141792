"""A step's attention lists under the names that launches take them by, and where states lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...ir.sparse.policy import READ_WHOLE
from ..devices.zeros import zeros as device_zeros
from ..execution.recipe import PLANNED
from ..execution.step import StepInput
from .cost import Way
from .grown_lists import LONG, PAGES, Growing, Lists
from .known_plans import KnownPlans
from .plan import Batch, Rates, Shape, SinglePlans, WorkList, plan, plan_among
from .prompt_tiles import LONG_TILES, long_tiles, prompt_tiles
from .rooms import ITEMS, Room, places_for
from .sparse_lists import FILLS, GROUP_ARRAYS, ROW_ARRAYS, SparseLists, SparseRows, fills
from .ways import EITHER, GROUPED, UNGROUPED, named

ARRAYS = (
    "item_row", "item_rows", "item_page", "item_low", "item_high", "row_query", "row_limit",
    "row_slot", "merge_query", "merge_start",
)  # fmt: skip
PROMPTS = ("prompt_query", "prompt_rows", "prompt_page", "prompt_limit")
"""The lists of prompts' tiles."""


def extent_of(name: str) -> str:
    """Return the extent of one of `ARRAYS`: of items W, their rows R, joined rows G and G + 1."""
    sized = {"item": "W", "row": "R"}.get(name.partition("_")[0])
    return sized or ("G" if name == "merge_query" else "G1")


class AttentionLists:
    """Plans attention for the windows of a model (0: none), and holds the states of its parts.

    `slots` states of f32 are kept; a step that would need more is cut into fewer parts. `zeros`
    gives the memory of these, if it is not to be the device's usual; `grouped`: kernels read items
    of one row together (`ways.GROUPED`); `long`: some read `LONG_TILES`. Without windows a
    decode step's list is planned for one of `ways`, which the kernels that read it must have; other
    lists for the usual one.
    """

    def __init__(
        self, shape: Shape, windows: Sequence[int], device: torch.device, slots: int,
        rates: Rates | None = None, sparse: SparseLists | None = None,
        zeros: Callable[[tuple[int, ...]], Tensor] | None = None, ways: Sequence[Way] = (),
        prompts: bool = False, grouped: bool = False, long: bool = False,
    ) -> None:  # fmt: skip
        zeros = zeros or partial(device_zeros, dtype=torch.float32, place=device)
        self._shape, self._rates = shape, rates or Rates()
        self._windows = tuple(sorted(set(windows)))
        self._beside = {str(window): window for window in self._windows if window}
        if sparse is not None and sparse.some_whole:
            self._beside[READ_WHOLE] = 0
        usual = Way("", shape, self._rates)
        self._choice = [*ways] if ways and self._windows == (0,) else [usual]
        self._choice = [replace(way, grouped=grouped and way.name == UNGROUPED)
                        for way in self._choice]  # fmt: skip
        self._ways = {way.name: way for way in (usual, *self._choice)}
        if grouped and UNGROUPED in self._ways:
            self._ways[GROUPED] = self._ways[UNGROUPED]
        self._slots, self.sparse = slots, sparse
        self._prompts = prompts and self._windows == (0,)
        self._long = long
        self._no_prompts = torch.zeros(0, dtype=torch.int32, device=device)
        self._arrived = torch.zeros(shape.kv_heads, dtype=torch.int32, device=device)
        self._single, self._known = SinglePlans(), KnownPlans()
        self._last: Growing | None = None
        self._before = 0  # tokens of the step before
        self._recorded: dict[bool, Way] = {}  # of decode steps: for few rows an item, for many
        self._m, self._l = (zeros((slots, shape.heads)) for _ in "ml")
        self._acc = zeros((slots, shape.heads, shape.head_dim))

    def plan(self, step: StepInput, recorded: bool = False) -> Lists:
        """Return the lists of a step's sequences; of one that `recorded` kernels of decode steps
        may run, without tiles of prompts.

        A decode step of rows of the last one, each a key longer, takes that one's lists with a key
        more: what is read for whom and how it is cut is decided anew now and then only, and while a
        device computes a step of many tokens.
        """
        before, self._before = self._before, step.tokens.shape[0]
        table, lengths = self._table(step), step.kv_lengths.numpy()
        rows = self.sparse.rows(step) if self.sparse else None
        if rows is not None and rows.chosen.any():
            self._last = None
            return self._selected(step, table, lengths, rows)
        if self._last is not None and step.is_decode:
            grown = self._last.grown(table, lengths)
            if grown is not None:
                return grown
        recorded = recorded or step.is_decode
        ways = list(self._choice) if recorded else []
        if ways and not step.is_decode:
            widest = _widest(step)
            kept = {many: way for many, way in self._recorded.items() if way.most >= widest}
            ways = [way for way in ways if kept.get(way.many, way) is way]
        over = self._last is not None and self._last.over
        anew = step.is_decode and (over or before >= LONG)
        lists = self._planned(step, table, lengths, 0, ways, recorded, anew=anew)
        if step.is_decode:
            way = self._ways[lists.way]
            self._recorded[way.many] = way
        steady = step.is_decode and self._windows == (0,)
        self._last = None
        if steady:
            few = self._shape.rows_few
            self._last = Growing(lists, table, lengths, self._shape.page, few)
        return lists

    def within(self, step: StepInput, lists: Lists, room: Room) -> Lists | None:
        """Return lists of a step that a room has places for, where `lists` have too many items:
        cut into longer ones, as short as fit. None: none fit, or they take much longer.

        Steps after it have lists of their own again, so that a room that lasts is recorded."""
        if lists.sparse or room.sparse or (room.apart and not lists.apart):
            return None
        table, lengths = self._table(step), step.kv_lengths.numpy()
        way = replace(self._ways[room.way], few=True, many=True)
        if not way.takes(_widest(step)):
            return None
        granule, whole = way.shape.granule, int(lengths.max(initial=1))
        low, high = (lists.arrays[f"{PLANNED}item_{end}{self._windows[0] or ''}"]
                     for end in ("low", "high"))  # fmt: skip
        parts = max(1, whole // max(granule, int((high - low).max(initial=1))))
        for halvings in range(parts.bit_length()):
            chunk = -(-whole // max(1, parts >> halvings) // granule) * granule
            found = self._planned(step, table, lengths, chunk, [way], recorded=True)
            if (room.way, found.way) == EITHER:
                found = replace(found, way=UNGROUPED)
            same = found.apart if room.apart else found.way == room.way
            if room.takes(found) and same:
                return found if found.seconds <= lists.seconds + LOSS else None
        return None

    def _fills(self, starts: np.ndarray, table: np.ndarray, lengths: np.ndarray
               ) -> dict[str, np.ndarray]:  # fmt: skip
        """Return which pages a step fills, where sums of v are kept."""
        if self.sparse is None or not self.sparse.tail:
            return {}
        return fills(lengths, np.diff(starts), table.shape[1], self._shape.page)

    def _table(self, step: StepInput) -> np.ndarray:
        """Return the columns of the page table that are in use, and some that will be."""
        pages = -(-int(step.kv_lengths.numpy().max(initial=1)) // self._shape.page)
        most = max(1, AHEAD // self._shape.page)
        columns = -(-pages // most) * most
        return step.page_table.numpy()[:, :columns].copy()  # the next step overwrites it

    def _planned(
        self, step: StepInput, table: np.ndarray, lengths: np.ndarray, chunk: int = 0,
        ways: Sequence[Way] = (), recorded: bool = False, anew: bool = False,
    ) -> Lists:  # fmt: skip
        """Return lists whose items have at most `chunk` keys; 0: as many as the model chooses, or
        as it chose for a step like this one, unless it is to choose `anew`."""
        starts = step.query_starts.numpy().astype(np.int64)
        batch = Batch(table, lengths.astype(np.int64), starts)
        arrays: dict[str, np.ndarray] = {}
        extents: dict[str, int] = {}
        apart, again, seconds, read = True, False, 0.0, self._choice[0].name
        tiles, long = None, False
        if self._prompts and not recorded:
            tiles = long_tiles(batch, self._shape) if self._long else None
            long = tiles is not None
            tiles = tiles or prompt_tiles(batch, self._shape)
        batch = batch if tiles is None else tiles.without(batch)
        beside = tiles is not None and len(tiles.query) > 0
        for window in self._windows:
            among = ways or [self._ways[""]]
            way, made = self._within(batch, window, chunk, among, beside, anew)
            if tiles is not None:
                joined = tiles.others(made.merge_query, made.merge_start, starts)
                made = replace(made, merge_query=joined[0], merge_start=joined[1])
            read = named(way, made.item_rows, made.item_high - made.item_low)
            seconds += made.seconds
            again = again or made.again
            apart = self._list(made, str(window or ""), arrays, extents) and apart
        if tiles is not None:
            arrays |= {
                PLANNED + name: getattr(tiles, name.removeprefix("prompt_")) for name in PROMPTS
            }
            extents[f"{PLANNED}P"] = len(tiles.query)
            read = LONG_TILES if long else read
        arrays |= self._fills(starts, table, lengths)
        extents[f"{PLANNED}F"] = len(lengths)
        arrays[PAGES] = table.ravel()
        return Lists(arrays, extents, apart, seconds=seconds, way=read, again=again)

    def _list(
        self, made: WorkList, tail: str, arrays: dict[str, np.ndarray], extents: dict[str, int]
    ) -> bool:
        """Put a work list's arrays and extents under its names; return whether the small tile holds
        the rows of each of its items."""
        for name in ARRAYS:
            arrays[f"{PLANNED}{name}{tail}"] = getattr(made, name)
        counts = {"W": len(made.item_row), "R": len(made.row_query), "G": len(made.merge_query),
                  "G1": len(made.merge_start), "S": made.slots,
                  "M": _first_items(made, self._shape)}  # fmt: skip
        extents |= {f"{PLANNED}{name}{tail}": count for name, count in counts.items()}
        return int(made.item_rows.max(initial=0)) <= self._shape.rows_few

    def _selected(
        self, step: StepInput, table: np.ndarray, lengths: np.ndarray, rows: SparseRows
    ) -> Lists:
        """Return lists in which sparse rows have runs of their own: what they may read at most; and
        beside them those of layers that select nothing."""
        assert self.sparse is not None
        starts = step.query_starts.numpy().astype(np.int64)
        batch = Batch(table, lengths.astype(np.int64), starts)
        made = self.sparse.plan(batch, rows, self._shape, self._rates)
        arrays: dict[str, np.ndarray] = {}
        extents: dict[str, int] = {}
        apart = self._list(made, "", arrays, extents)
        for tail, window in self._beside.items():
            _, whole = self._within(batch, window, 0, [self._ways[""]], beside=False)
            apart = self._list(whole, tail, arrays, extents) and apart
        arrays |= self.sparse.arrays(rows, made, table)
        arrays |= self._fills(starts, table, lengths)
        arrays[PAGES] = table.ravel()
        counts = {"B": len(rows.chosen), "F": len(lengths)} | _group_extents(arrays)
        extents |= {f"{PLANNED}{name}": count for name, count in counts.items()}
        return Lists(arrays, extents, apart, sparse=True, attended=self.sparse.attends(rows))

    def _tails(self, extents: Mapping[str, int]) -> Iterator[str]:
        """Yield what the names of a step's lists end in."""
        known = (*(str(window or "") for window in self._windows), READ_WHOLE)
        return (tail for tail in known if f"{PLANNED}W{tail}" in extents)

    def bind(self, views: Mapping[str, Tensor], extents: Mapping[str, int]
             ) -> dict[str, Tensor | int]:  # fmt: skip
        """Return what launches take: arrays, extents and states, by name."""
        bound: dict[str, Tensor | int] = {f"{PLANNED}P": 0}
        bound |= {PLANNED + name: self._no_prompts for name in PROMPTS}
        bound |= {f"{PLANNED}arrived": self._arrived, **views, **extents}
        for tail in self._tails(extents):
            slots = extents[f"{PLANNED}S{tail}"]
            bound[f"{PAGES}{tail}"] = views[PAGES]
            bound[f"{PLANNED}E{tail}"] = views[PAGES].shape[0]
            states = {"m": self._m, "l": self._l, "acc": self._acc}
            bound |= {f"{PLANNED}{name}{tail}": state[:slots] for name, state in states.items()}
        if self.sparse is not None:
            bound |= {f"{PLANNED}{name}": value for name, value in self.sparse.memory.items()}
        return bound

    def room(self, rows: int, lists: Lists, entries: int) -> Room:
        """Return the room for a step of up to `rows` rows that has such lists."""
        sizes, most, extents, shape = [], {}, lists.extents, self._ways[lists.way].shape
        for tail in self._tails(extents):
            some = extents[f"{PLANNED}W{tail}"]  # none where all rows are attended to elsewhere
            items = places_for(some, rows, ITEMS) if some else 0
            joined = rows if extents[f"{PLANNED}G{tail}"] else 0
            many = min(1 if lists.apart else places_for(extents[f"{PLANNED}M{tail}"], 4, 8), items)
            taken = items * shape.rows_few
            if not lists.apart:
                taken += many * (shape.rows_many - shape.rows_few)
            counts = {"W": items, "R": taken, "S": min(taken, self._slots), "G": joined,
                      "G1": joined + 1, "M": many}  # fmt: skip
            most |= {f"{PLANNED}{name}{tail}": count for name, count in counts.items()}
            for name in ARRAYS:
                sizes.append((f"{PLANNED}{name}{tail}", counts[extent_of(name)]))
        most[f"{PLANNED}F"] = rows
        sizes += [(f"{PLANNED}{name}", rows) for name in FILLS if PLANNED + name in lists.arrays]
        if lists.sparse:
            most[f"{PLANNED}B"] = rows
            given = (name for name in ROW_ARRAYS if PLANNED + name in lists.arrays)
            sizes += [(f"{PLANNED}{name}", rows) for name in given]
            sizes.append((f"{PLANNED}item_list", most[f"{PLANNED}W"]))
            groups = rows // 2 if extents.get(f"{PLANNED}Q") else 0
            counts = {name: groups * each for name, each in GROUP_ARRAYS.items()
                      if PLANNED + name in lists.arrays}  # fmt: skip
            sizes += [(PLANNED + name, count) for name, count in counts.items()]
            if counts:
                most |= {f"{PLANNED}Q": groups, f"{PLANNED}QM": counts["group_rows"]}
        return Room(
            rows, lists.apart, tuple(most.items()), (*sizes, (PAGES, entries)), lists.sparse,
            lists.attended, lists.way,
        )  # fmt: skip

    def _within(
        self, batch: Batch, window: int, chunk: int, ways: Sequence[Way], beside: bool,
        anew: bool = False,
    ) -> tuple[Way, WorkList]:  # fmt: skip
        """Return a way and a plan for it whose states have slots: if need be, one without any."""

        def made(chunk: int, cascade: bool | None = None) -> tuple[Way, WorkList]:
            if not (window or chunk or beside) and _is_short(batch):
                return self._single.plan(batch, ways)
            if not (window or chunk) and cascade is None:
                return self._known.plan(batch, ways, beside, anew)
            if not window:
                return plan_among(batch, ways, cascade=cascade, chunk=chunk, beside=beside)
            return ways[0], plan(batch, self._shape, self._rates, chunk=chunk, window=window)

        way, work = made(chunk)
        if work.slots > self._slots:
            way, work = made(int(batch.lengths.max()) + self._shape.granule, False)
        return way, work


def _widest(step: StepInput) -> int:
    """Return the most rows that a sequence of a step has: its own run has as many."""
    return int(np.diff(step.query_starts.numpy()).max(initial=0))


SHORT = 256
"""Tokens of a single sequence's step up to which how it is cut is kept."""


def _is_short(batch: Batch) -> bool:
    """Whether a step computes some tokens of one sequence."""
    return len(batch.lengths) == 1 and batch.lengths[0] > 0 and batch.starts[-1] <= SHORT


def _first_items(made: WorkList, shape: Shape) -> int:
    """Return how many items of a list the launch for those of many rows looks at: one at least, as
    the launch for the others runs beside it."""
    return min(max(1, int((made.item_rows > shape.rows_few).sum())), len(made.item_rows))


def _group_extents(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many groups of rows share labels, where labels are words."""
    names = zip(("Q", "QM"), GROUP_ARRAYS, strict=True)
    return {extent: len(arrays[PLANNED + name]) for extent, name in names
            if PLANNED + name in arrays}  # fmt: skip


class Fitting:
    """The lists of a step, which may be cut anew so that a recorded room has places for them."""

    def __init__(
        self, planner: AttentionLists, step: StepInput, lists: Lists, layers: float = 1.0
    ) -> None:  # fmt: skip
        self._planner, self._step, self.lists, self._layers = planner, step, lists, layers

    def into(self, room: Room) -> float | None:
        """Return the seconds that a step of so many layers loses where they are, as from then on
        they are; None: they cannot be."""
        found = self._planner.within(self._step, self.lists, room)
        if found is None:
            return None
        before, self.lists = self.lists, found
        return max(0.0, found.seconds - before.seconds) * self._layers


AHEAD = 512
"""The page table is sent in multiples of so many keys, so that lists hold for a while."""

LOSS = 5e-5
"""Seconds that a layer's attention may take longer so that a recorded step can be replayed: of 32
layers less than the host takes to launch a step one kernel after another."""
