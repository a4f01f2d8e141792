"""Plans one launch of attention: which keys are read once for whom, and how they are cut up.

Pages that several sequences share are found in the page table. A cost model with two levels of
memory decides which of them are read once for all (cascade) and which by each sequence (flat);
then every run of keys is cut into items of one length, chosen from bytes and resident programs.
The lists are what `passes/tile/attention/parts.py` takes. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .cost import Batch, Cost, Rates, Run, Shape, Way, members_of, ranges, summed
from .sharing import Sharing, flat
from .ways import rates_of

Array = np.ndarray
WORTH = 0.05
"""The part of a step's time that sharing must save, by prediction, to be chosen."""


@dataclass(frozen=True)
class WorkList:
    """The kernel's lists (i32), the extents of its states, and the predicted seconds.

    `pages` are entries into the page table, row by row: an item's `item_page` is
    sequence * MAXP + page.
    """

    item_row: Array
    item_rows: Array
    item_page: Array
    item_low: Array
    item_high: Array
    row_query: Array
    row_limit: Array
    row_slot: Array
    merge_query: Array
    merge_start: Array
    slots: int
    seconds: float = 0.0
    runs: tuple[Run, ...] = field(default=(), compare=False)
    again: bool = False
    """Whether it is cut and shared as an earlier step's was, without weighing any other."""


def plan(
    batch: Batch, shape: Shape, rates: Rates, *, cascade: bool | None = None, chunk: int = 0,
    window: int = 0,
) -> WorkList:  # fmt: skip
    """Return the work list of a step: `cascade` True or False forces the choice, None leaves it
    to the cost model; `chunk` forces the keys of an item; with a window, only its pages are read.
    """
    if window:
        return cut(batch, Cost(batch, flat(batch, shape, window), shape, rates), chunk)
    return plan_among(batch, [Way("", shape, rates)], cascade=cascade, chunk=chunk)[1]


def plan_among(
    batch: Batch, ways: Sequence[Way], *, cascade: bool | None = None, chunk: int = 0,
    beside: bool = False,
) -> tuple[Way, WorkList]:  # fmt: skip
    """Return the way of least predicted time, and the work list for it (see `weigh`)."""
    way, cost = weigh(batch, ways, beside, cascade)
    return way, cut(batch, cost, chunk)


def weigh(
    batch: Batch, ways: Sequence[Way], beside: bool = False, cascade: bool | None = None,
    sharing: Sharing | None = None,
) -> tuple[Way, Cost]:  # fmt: skip
    """Return the way and the runs of least predicted time; of rows that are few `beside` prompts,
    what is read once is decided by roofs alone, which takes a third as long. `sharing`: what they
    may share, if it is known."""
    sharing = sharing or Sharing(batch, ways, none=cascade is False)
    if not beside or cascade is not None:
        return _least(batch, ways, _choices(sharing, cascade))
    *_, runs = _choices(sharing, None, alike=False)
    return _priced(batch, runs, ways[:1])[0]


class SinglePlans:
    """How the keys of single sequences are cut, by how many granules they fill and how many queries
    a step has: to choose anew takes the host longer than a decode step leaves it, and the device
    waits for 2 ms; a short prompt begins a millisecond earlier. All keys of the last granule are
    planned for: they are there soon."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, tuple[str, ...]], tuple[Way, np.ndarray, float]] = {}

    def plan(self, batch: Batch, ways: Sequence[Way]) -> tuple[Way, WorkList]:
        """Return the way and the work list of a batch of one sequence."""
        granule, queries = min(way.shape.granule for way in ways), int(batch.starts[-1])
        granules = max(1, -(-int(batch.lengths[0]) // granule))
        key = granules, queries, tuple(way.name for way in ways)
        if key not in self._known:
            most = batch.table.shape[1] * ways[0].shape.page
            keys = np.array([min(granules * granule, most)])
            whole = Batch(batch.table, keys, batch.starts)
            way, cost = choose(whole, ways, False)
            seconds, sizes = cost.least()
            self._known[key] = way, sizes, seconds
        way, sizes, seconds = self._known[key]
        return way, build(batch, flat(batch, way.shape), way.shape, sizes, seconds)


def cut(batch: Batch, cost: Cost, chunk: int = 0) -> WorkList:
    """Return the work list of some runs in items of `chunk` keys; 0: of as many as cost least."""
    seconds, sizes = (cost.seconds(chunk), np.array(chunk)) if chunk else cost.least()
    return build(batch, cost.runs, cost.shape, sizes, seconds)


# Which keys are read for whom


def choose_runs(
    batch: Batch, shape: Shape, rates: Rates, cascade: bool | None = None
) -> list[Run]:  # fmt: skip
    """Return the runs of least predicted time; or all shared ones, or none."""
    return list(choose(batch, [Way("", shape, rates)], cascade)[1].runs)


def choose(
    batch: Batch, ways: Sequence[Way], cascade: bool | None = None
) -> tuple[Way, Cost]:  # fmt: skip
    """Return the way and the runs of least predicted time, each way with lists that it takes."""
    return weigh(batch, ways, cascade=cascade)


def _least(
    batch: Batch, ways: Sequence[Way], choices: Sequence[list[Run]]
) -> tuple[Way, Cost]:  # fmt: skip
    apart, *shared = choices
    best, *others = [min(found, key=lambda pair: pair[1].least()[0]) for found in (
        _priced(batch, runs, ways) for runs in (apart, *shared)) if found]  # fmt: skip
    for other in others:
        worth = 1 + WORTH if best[1].runs is apart else 1.0
        if other[1].least()[0] * worth < best[1].least()[0]:
            best = other
    return best


def _priced(batch: Batch, runs: list[Run], ways: Sequence[Way]) -> list[tuple[Way, Cost]]:
    """Return what some runs cost in each way that takes them."""
    counts = np.diff(batch.starts)
    sizes, members = members_of(runs)
    rows = summed(counts[members], sizes)
    keys = np.array([run.keys for run in runs], np.int64)
    queries, most = int(batch.starts[-1]), int(rows.max(initial=0))
    alike: dict[tuple[Shape, bool], Cost] = {}
    found = []
    for way in (way for way in ways if way.takes(most)):
        rates = rates_of(way, queries, rows, keys)
        known = alike.get((way.shape, rates.single))
        cost = known.at(rates) if known else Cost(batch, runs, way.shape, rates)
        alike.setdefault((way.shape, rates.single), cost)
        found.append((way, cost))
    return found


def _choices(
    sharing: Sharing, cascade: bool | None, alike: bool = True
) -> list[list[Run]]:  # fmt: skip
    """Return the runs that are worth pricing: each sequence's own, then those that share; without
    `alike`, the last are what roofs choose, and all that can be shared is none of them."""
    apart = sharing.runs(None)
    if not sharing.nodes:
        return [apart]
    if cascade:
        return [sharing.runs(True)]
    found = [apart]
    for forced in (False, True) if alike else (False,):
        runs = sharing.runs(forced)
        found += [runs] if runs not in found else []
    return found


# How runs are cut


def predict(
    batch: Batch, runs: Sequence[Run], shape: Shape, rates: Rates, chunk: int
) -> float:  # fmt: skip
    """Return the seconds of a list of runs cut into items of `chunk` keys."""
    return Cost(batch, runs, shape, rates).seconds(chunk)


# The lists


def build(
    batch: Batch, runs: Sequence[Run], shape: Shape, chunk: int | Array, seconds: float = 0.0
) -> WorkList:  # fmt: skip
    """Return the lists of some runs cut into equal items of at most `chunk` keys, each run or all:
    those of many rows stand first, and longer ones before shorter."""
    most = batch.table.shape[1]
    counts = np.diff(batch.starts)
    sizes, members = members_of(runs)
    query = ranges(batch.starts[members], counts[members])
    rows = summed(counts[members], sizes)
    run_row = np.cumsum(rows) - rows
    owner = np.repeat(np.arange(len(batch.lengths)), counts)
    limit_of = batch.lengths[owner] - (batch.starts[owner + 1] - 1 - np.arange(len(owner)))
    start = np.array([run.start for run in runs], np.int64)
    keys = np.array([run.keys for run in runs], np.int64)
    of = np.array([run.of for run in runs], np.int64)
    limit = np.maximum(limit_of[query] - np.repeat(start, rows), 0) if runs else query
    chunks = np.broadcast_to(np.asarray(chunk, np.int64), keys.shape)
    tiles, parts = -(-rows // shape.rows_many), -(-keys // chunks)
    run = np.repeat(np.arange(len(runs)), tiles * parts)
    within = np.arange(len(run)) - np.repeat(
        np.cumsum(tiles * parts) - tiles * parts, tiles * parts
    )
    tile, part = (within % tiles[run], within // tiles[run]) if runs else (within, within)
    first = run_row[run] + tile * shape.rows_many
    size = np.minimum(rows[run] - tile * shape.rows_many, shape.rows_many)
    blocks = -(-keys // shape.granule)[run]
    low, high = ((part + more) * blocks // parts[run] * shape.granule for more in (0, 1))
    high = np.minimum(np.minimum(high, keys[run]), _most(limit, first, size))
    seen = high > low
    run, first, size, low, high = (array[seen] for array in (run, first, size, low, high))
    order = np.lexsort((low - high, size <= shape.rows_few))
    run, first, size, low, high = (array[order] for array in (run, first, size, low, high))
    place = ranges(first, size)
    row_query, row_limit = query[place], limit[place]
    slot, merge_query, merge_start = slots_of(row_query, len(owner))
    return WorkList(
        *(np.ascontiguousarray(array, np.int32) for array in (
            np.cumsum(size) - size, size, of[run] * most + start[run] // shape.page, low, high,
            row_query, row_limit, slot, merge_query, merge_start,
        )),
        slots=int((slot >= 0).sum()), seconds=seconds, runs=tuple(runs),
    )  # fmt: skip


def _most(limit: Array, first: Array, size: Array) -> Array:
    """Return the largest limit of the rows of each item."""
    if not len(first):
        return first
    ends = np.column_stack([first, first + size]).ravel()
    padded = np.append(limit, 0)
    return np.maximum.reduceat(padded, ends)[::2]


def slots_of(query: Array, queries: int) -> tuple[Array, Array, Array]:
    """Return the slot of each item row (-1 for a query in one item only), the queries that are
    joined, and where each one's slots start; a query without keys joins none, to 0."""
    counts = np.bincount(query, minlength=queries)
    kept = np.flatnonzero(counts != 1)
    slot = np.full(len(query), -1, np.int64)
    order = np.argsort(query, kind="stable")
    order = order[counts[query[order]] > 1]
    slot[order] = np.arange(len(order))
    return slot, kept, np.concatenate([[0], np.cumsum(counts[kept])])
