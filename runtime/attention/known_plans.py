"""Lists of steps that are like earlier ones: cut and shared as these were.

To weigh all ways anew takes an H200's host 2.5 ms of the 5 that a step of few tokens takes the
device, and it does nothing meanwhile where rows have just joined. Decode steps that go on for long
are weighed anew while the device computes (`grown_lists.AFTER_LIKE`), once for all that are alike:
with it the host launches 96 rows in 11 ms, whose step takes 5.6, and 60 steps of six programs were
cut no better for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2

import numpy as np

from .cost import Batch, Way, members_of, summed
from .plan import WorkList, build, weigh
from .sharing import Node, Sharing

Array = np.ndarray
Likeness = tuple[tuple[str, ...], bool, tuple[int, ...]]

MOST = 1 << 12
"""Kinds of steps that are remembered."""


@dataclass(frozen=True)
class Known:
    """How a step was planned: in which way, what it shared (see `Sharing.runs`), the parts that the
    longest run of few rows was cut into, and of many (0: there was none), and the seconds; whether
    that was weighed twice."""

    way: Way
    forced: bool | None
    parts: tuple[int, int]
    seconds: float
    twice: bool = False


class KnownPlans:
    """Plans steps; those are alike that have about as many sequences, queries, keys and shared
    keys, and about as long a sequence."""

    def __init__(self) -> None:
        self._known: dict[Likeness, Known] = {}

    def plan(
        self, batch: Batch, ways: Sequence[Way], beside: bool = False, anew: bool = False
    ) -> tuple[Way, WorkList]:  # fmt: skip
        """Return a way and the work list of a step, as `plan.plan_among` does; with `anew`, of one
        that is weighed though one like it was, if but once, and remembered."""
        sharing = Sharing(batch, ways)
        key = tuple(way.name for way in ways), beside, likeness(batch, sharing.nodes)
        known = self._known.get(key)
        if known is not None and (known.twice or not anew):
            if (made := _again(batch, sharing, known)) is not None:
                return known.way, replace(made, again=not known.twice)
        way, cost = weigh(batch, ways, beside, sharing=sharing)
        seconds, sizes = cost.least()
        runs = cost.runs
        keys = np.array([run.keys for run in runs], np.int64)
        if len(self._known) >= MOST:
            self._known.clear()
        parts = (
            _parts(keys[~cost.large], sizes[~cost.large]),
            _parts(keys[cost.large], sizes[cost.large]),
        )
        self._known[key] = Known(way, sharing.forced(runs), parts, seconds, twice=anew)
        return way, build(batch, runs, way.shape, sizes, seconds)


def likeness(batch: Batch, nodes: Sequence[Node]) -> tuple[int, ...]:
    """Return what steps have in common that are planned alike."""
    used = np.diff(batch.starts) > 0
    lengths = batch.lengths[used]
    shared = sum(map(_shared, nodes))
    numbers = (len(lengths), batch.starts[-1], lengths.max(initial=0), lengths.sum(), shared)
    return tuple(_level(int(number)) for number in numbers)


def _shared(node: Node) -> int:
    """Return how many pages need not be read again where all that can be shared is."""
    own = (node.last - node.first) * (len(node.members) - 1)
    return own + sum(map(_shared, node.children))


def _level(number: int) -> int:
    """Return the same for numbers that differ by less than a fifth or so."""
    return number if number < 4 else round(2 * log2(number))


def _parts(keys: Array, sizes: Array) -> int:
    """Return into how many items the longest run is cut; all runs have one size of an item."""
    return -(-int(keys.max()) // int(sizes[0])) if len(keys) else 0


def _again(batch: Batch, sharing: Sharing, known: Known) -> WorkList | None:
    """Return a step's list as a step like it was planned; None: it cannot be."""
    runs, shape = sharing.runs(known.forced), known.way.shape
    sizes, members = members_of(runs)
    rows = summed(np.diff(batch.starts)[members], sizes)
    keys = np.array([run.keys for run in runs], np.int64)
    large = rows > shape.rows_few
    if not len(runs) or not known.way.takes(int(rows.max())):
        return None
    items = np.zeros(len(runs), np.int64)
    for parts, held in zip(known.parts, (~large, large), strict=True):
        if held.any():
            if not parts:
                return None
            items[held] = -(-int(keys[held].max()) // parts)
    return build(batch, runs, shape, items, known.seconds)
