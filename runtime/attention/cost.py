"""What attention over runs of keys costs: roofs of memory, cache and products, the rounds of
programs that a device holds, two launches side by side, and what joins them. Fitted to
measurements; NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray

JOINED = 1024
"""Query heads of all rows of a step from which the join is that of many rows."""


@dataclass(frozen=True)
class Shape:
    """What the planner must know of a kernel: the heads, bytes a key of one layer and key head
    (keys and values), rows that its two tiles hold, and keys that cuts must be multiples of."""

    heads: int
    kv_heads: int
    head_dim: int
    page: int
    rows_few: int
    rows_many: int
    granule: int
    kv_bytes: int = 2

    @property
    def key_bytes(self) -> int:
        """Bytes of one key and its value in all key heads."""
        return 2 * self.kv_heads * self.head_dim * self.kv_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes that a row's state moves: written once and read once."""
        return 2 * 4 * self.heads * (self.head_dim + 2)

    def flops(self, rows: float | Array) -> Any:
        """Operations that a key costs with some query rows."""
        return 4.0 * rows * self.heads * self.head_dim


@dataclass(frozen=True)
class Rates:
    """A device and a kernel on it, measured (bench/gpu_kernels.py): bytes a second from memory,
    from the cache, into one program (of few rows, and of many) and into one multiprocessor,
    attention operations a second; multiprocessors, and programs resident at a time, of few rows and
    of many; seconds of a launch, before an item's first key arrives, of a join, and of joining one
    slot after another (by the join of few rows, and of many); the part of the shorter launch's
    time, of items of many rows and of few, that the other hides where all programs of few rows find
    room meanwhile, and of how many there is room beside one of many rows; what part of all this a
    list takes that is read in another way; and whether a single launch has the items of both."""

    memory: float = 4.2e12
    cache: float = 6.8e12
    program: float = 3.9e10
    processor: float = 4.5e10
    flops: float = 3.7e14
    processors: int = 132
    resident: int = 396
    resident_many: int = 132
    launch: float = 0.4e-6
    item: float = 2.2e-6
    program_many: float = 3.9e10
    join: float = 2.6e-6
    slot: float = 3.5e-8
    slot_of_many: float = 1.37e-7
    beside: float = 0.4
    room: float = 4.0
    part: float = 1.0
    single: bool = False


@dataclass(frozen=True)
class Way:
    """A kernel by the name that calls know it by: what the planner must know of it, what was
    measured of it, and whether it takes lists all of whose items the small tile holds (`few`), and
    lists some of whose items it does not (`many`), of runs of up to `most` rows. `alone`: what was
    measured of it where a step has a single row, if that differs; `grouped`: kernels can read items
    of one row several a program (`ways.grouped`)."""

    name: str
    shape: Shape
    rates: Rates
    few: bool = True
    many: bool = True
    alone: Rates | None = None
    grouped: bool = False
    most: int = 1 << 30

    def rates_of(self, queries: int) -> Rates:
        """Return the rates of a step of so many queries."""
        return self.alone if self.alone is not None and queries == 1 else self.rates

    def takes(self, rows: int) -> bool:
        """Whether it reads a list whose runs have so many rows at most."""
        return self.few if rows <= self.shape.rows_few else self.many and rows <= self.most


class Run(NamedTuple):
    """Keys [start, start + keys) of sequence `of`, read once for the sequences `members`."""

    of: int
    start: int
    keys: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """A step's sequences: page table [B, MAXP], keys of each [B], first query row of each
    [B + 1]; a sequence's last query is at its last key."""

    table: Array
    lengths: Array
    starts: Array

    @staticmethod
    def decode(table: Array, lengths: Array) -> Batch:
        """Return a batch of one query a sequence."""
        return Batch(table, lengths, np.arange(len(lengths) + 1))


def roofs_of(
    keys: float | Array, rows: float | Array, shape: Shape, rates: Rates
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return the seconds of a run at each roof: memory, cache, and products, whose measured rate
    has in it that a run of many rows is read once a tile."""
    tiles = -(-rows // shape.rows_many)
    if isinstance(rows, int):  # one run: NumPy takes ten times as long for a single number
        padded = shape.rows_few if rows <= shape.rows_few else tiles * shape.rows_many
    else:
        padded = np.where(rows <= shape.rows_few, shape.rows_few, tiles * shape.rows_many)
    total = keys * shape.key_bytes
    return (total / rates.memory, total / rates.cache,
            keys * shape.flops(padded) / rates.flops)  # fmt: skip


class Cost:
    """The predicted time of some runs, by the keys of an item.

    Runs of many rows and of few are two launches side by side, which share the memory; a launch and
    the join are added.
    """

    def __init__(self, batch: Batch, runs: Sequence[Run], shape: Shape, rates: Rates) -> None:
        self.runs = runs
        self._least: tuple[float, Array] | None = None
        self.shape, self.rates, self.queries = shape, rates, int(batch.starts[-1])
        sizes, members = members_of(runs)
        rows = summed(np.diff(batch.starts)[members], sizes)
        self.large = (rows > shape.rows_few) | rates.single
        self.launches = [
            _Programs(batch, [runs[place] for place in np.flatnonzero(held).tolist()],
                      rows[held], sizes[held], members[np.repeat(held, sizes)],
                      shape, replace(rates, resident=resident, program=program))
            for held, resident, program in (
                (~self.large, rates.resident, rates.program),
                (self.large, rates.resident_many, rates.program_many),
            )
        ]  # fmt: skip

    def at(self, rates: Rates) -> Cost:
        """Return the same at the rates of another kernel of this shape, of as many launches."""
        assert rates.single == self.rates.single
        found = copy(self)
        found._least, found.rates = None, rates
        places = (rates.resident, rates.program), (rates.resident_many, rates.program_many)
        found.launches = [
            launch.at(replace(rates, resident=resident, program=program))
            for launch, (resident, program) in zip(self.launches, places, strict=True)
        ]
        return found

    def least(self) -> tuple[float, Array]:
        """Return the least seconds, and the keys of an item of each run that give them."""
        if self._least is None:
            few, many = (launch.choices() for launch in self.launches)
            times = self._times(few, many)
            best = np.unravel_index(int(times.argmin()), times.shape)
            sizes = np.where(self.large, many[best[1]], few[best[0]])
            self._least = float(times[best]), sizes
        return self._least

    def seconds(self, chunk: int) -> float:
        """Return the seconds with items of at most `chunk` keys."""
        return float(self._times(*(np.array([chunk]) for _ in self.launches))[0, 0])

    def _times(self, few: Array, many: Array) -> Array:
        """Return the seconds [F, M] with items of few rows of at most `few` [F] keys, and of many
        rows of at most `many` [M]."""
        if not self.runs:
            return np.zeros((1, 1))
        rates, sizes = self.rates, (few, many)
        found = [launch.seconds(s) for launch, s in zip(self.launches, sizes, strict=True)]
        (waits, ours), (wait, theirs) = found
        ours, theirs, waits = ours[:, None], theirs[None], np.maximum(waits[:, None], wait[None])
        seen = 1 - rates.beside * self._together(few, many)
        body = np.maximum(ours, theirs) + seen * np.minimum(ours, theirs)
        body = np.maximum(body, sum(launch.memory for launch in self.launches))
        joined, slots = (
            left[:, None] + right[None] for left, right in zip(*(
                launch.joined(s) for launch, s in zip(self.launches, sizes, strict=True)
            ), strict=True)
        )  # fmt: skip
        join = rates.join + joined * self.shape.state_bytes / rates.memory
        slot = rates.slot_of_many if self.queries * self.shape.heads > JOINED else rates.slot
        join = join + slots.max(2, initial=0) * slot
        return rates.part * (rates.launch + waits + body + join * (joined > self.queries))

    def _together(self, few: Array, many: Array) -> Array:
        """Return what part [F, M] of the programs of few rows that the device holds has room while
        those of many rows are there."""
        rates, (small, large) = self.rates, self.launches
        taken = np.minimum(large.programs(many), rates.processors)
        each = rates.resident / rates.processors
        room = (rates.processors - taken) * each + taken * min(rates.room, each)
        held = np.minimum(small.programs(few), rates.resident)
        return np.minimum(1.0, room[None] / np.maximum(held, 1)[:, None])


class _Programs:
    """The programs of one launch, by the keys of an item.

    They stream at the device's rates while all places are taken, the last (and shortest) ones at
    their own; the way of the first keys of each round of programs is added. What several runs read
    of the same pages comes from the cache but once. Runs of as many keys and rows are of one kind.
    """

    def __init__(
        self, batch: Batch, runs: Sequence[Run], rows: Array, sizes: Array, members: Array,
        shape: Shape, rates: Rates,
    ) -> None:  # fmt: skip
        self.shape, self.rates = shape, rates
        self.sizes, self.members, self.sequences = sizes, members, len(batch.lengths)
        keys = np.array([run.keys for run in runs], np.int64)
        kinds = keys * (int(rows.max(initial=0)) + 1) + rows
        _, first, self.kind, self.counts = np.unique(
            kinds, return_index=True, return_inverse=True, return_counts=True
        )
        self.keys, self.rows = keys[first], rows[first]
        self.tiles = -(-self.rows // shape.rows_many)
        self.read = float((self.keys * self.tiles * self.counts).sum()) * shape.key_bytes
        self.again = _again(batch, runs, keys, shape) if runs else 0.0
        self._roofs()

    def at(self, rates: Rates) -> _Programs:
        """Return the same programs at other rates."""
        found = copy(self)
        found.rates = rates
        found._roofs()
        return found

    def _roofs(self) -> None:
        """Set the seconds that memory, and the highest of all roofs, take for all keys."""
        rates = self.rates
        roofs = np.array(roofs_of(self.keys, self.rows, self.shape, rates))
        self.memory = float((roofs[0] * self.counts).sum()) - self.again / rates.memory
        self.stream = float((roofs.max(0) * self.counts).sum())
        self.stream -= self.again * (1 / rates.memory - 1 / rates.cache)

    def choices(self) -> Array:
        """Return keys of an item that are worth trying: a range of parts, and those that fill the
        places of the device once, twice or three times."""
        if not len(self.keys):
            return np.array([self.shape.granule])
        longest, rates = int(self.keys.max()), self.rates
        most = -(-longest // self.shape.granule)
        keys = float((self.keys * self.tiles * self.counts).sum())
        whole = self.shape.kv_heads * keys / longest
        places = np.outer((1, 2, 3), (rates.processors, rates.resident)).ravel() / whole
        parts = np.concatenate([np.geomspace(1, most, 24), places]).astype(int)
        return np.unique(-(-longest // np.unique(parts.clip(1, most))))

    def seconds(self, chunks: Array) -> tuple[Array, Array]:
        """Return the seconds before first keys, and of all else, with items of at most `chunks` [S]
        keys."""
        if not len(self.keys):
            return np.zeros(len(chunks)), np.zeros(len(chunks))
        rates, parts, programs = self.rates, self._parts(chunks), self.programs(chunks)
        waves = -(-programs // rates.resident)
        left = programs - (waves - 1) * rates.resident
        share = left / programs
        longest, last = self._ends(parts, left)
        rest = np.maximum(self.stream * share, last)
        body = np.maximum(self.stream * (1 - share) + rest, longest)
        alone = np.maximum(body, self._dealt(programs))
        return rates.item * waves, np.where(programs <= rates.resident, alone, body)

    def programs(self, chunks: Array) -> Array:
        """Return how many programs there are [S]."""
        return (self._parts(chunks) * self.tiles * self.counts).sum(1) * self.shape.kv_heads

    def _dealt(self, programs: Array) -> Array:
        """Return the seconds of so many programs, all resident: multiprocessors that were dealt one
        less than others are done sooner, and these then share the memory alone."""
        rates, own = self.rates, self.read / programs / self.rates.processor
        loads = -(-programs // rates.processors)
        fuller = programs - (loads - 1) * rates.processors
        together, left = (
            np.maximum(self.stream * count / programs, own) for count in (rates.processors, fuller)
        )
        return (loads - 1) * together + left

    def joined(self, chunks: Array) -> tuple[Array, Array]:
        """Return how many states of rows there are [S], and of each sequence's rows [S, B]."""
        parts = self._parts(chunks)
        places = self.members + self.sequences * np.arange(len(parts))[:, None]
        weights = np.repeat(parts[:, self.kind], self.sizes, 1)
        found = np.bincount(places.ravel(), weights.ravel(), self.sequences * len(parts))
        states = (self.rows * self.counts * parts).sum(1)
        return states, found.reshape(len(parts), self.sequences)

    def _parts(self, chunks: Array) -> Array:
        return -(-self.keys // chunks[:, None])

    def _ends(self, parts: Array, left: Array) -> tuple[Array, Array]:
        """Return the seconds, alone, of the longest item, and of the longest of the `left`
        shortest: items are launched by length, so these come last."""
        granule = self.shape.granule
        short, longer = np.divmod(-(-self.keys // granule), parts)
        seconds = np.concatenate([
            self._alone(np.minimum(self.keys, (short + more) * granule)) for more in (1, 0)
        ], 1)  # fmt: skip
        count = np.concatenate([longer, parts - longer], 1)
        count *= np.tile(self.tiles * self.counts, 2) * self.shape.kv_heads
        order = np.argsort(seconds, 1)
        before = np.cumsum(np.take_along_axis(count, order, 1), 1) < left[:, None]
        at = np.take_along_axis(order, before.sum(1)[:, None], 1)
        longest = np.where(count > 0, seconds, 0.0).max(1)
        return longest, np.take_along_axis(seconds, at, 1)[:, 0]

    def _alone(self, keys: Array) -> Array:
        """Return the seconds of an item of each run when its program has enough of the machine."""
        shape, rates = self.shape, self.rates
        taken = np.where(self.rows <= shape.rows_few, 0, shape.rows_many)
        a_key = shape.key_bytes / shape.kv_heads / rates.program
        work = shape.flops(taken) / shape.kv_heads / rates.flops * rates.resident
        return keys * np.maximum(a_key, work)


def members_of(runs: Sequence[Run]) -> tuple[Array, Array]:
    """Return how many members each run has, and all members, run by run."""
    sizes = np.array([len(run.members) for run in runs], np.int64)
    flat = chain.from_iterable(run.members for run in runs)
    return sizes, np.fromiter(flat, np.int64, int(sizes.sum()))


def summed(values: Array, sizes: Array) -> Array:
    """Return the sums of successive stretches of some sizes, none of which is empty."""
    if not len(sizes):
        return np.zeros(0, np.int64)
    return np.add.reduceat(values, np.cumsum(sizes) - sizes)


def ranges(starts: Array, sizes: Array) -> Array:
    """Return the numbers of the ranges that begin at `starts`, one after another."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(int(ends[-1]) if len(ends) else 0)


def _again(batch: Batch, runs: Sequence[Run], keys: Array, shape: Shape) -> float:
    """Return the bytes of keys that runs read after another run has read them."""
    page, width = shape.page, batch.table.shape[1]
    start = np.array([run.start for run in runs], np.int64)
    first, last = start // page, -(-(start + keys) // page)
    of = np.array([run.of for run in runs], np.int64)
    entries = batch.table.ravel()[ranges(of * width + first, last - first)]
    return (len(entries) - int(np.count_nonzero(np.bincount(entries)))) * page * shape.key_bytes
