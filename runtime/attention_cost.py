"""What attention over runs of keys costs: roofs of memory, cache and products, the rounds of
programs that a device holds, and what joins them. Fitted to measurements; NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
ALONE = 0.75
"""How long a program computes with a multiprocessor to itself, of what it takes among others."""
NEARER = 0.35
"""The part of a program's own reading time that goes when everything comes from the cache."""


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

    def flops(self, rows: float) -> float:
        """Operations that a key costs with some query rows."""
        return 4.0 * rows * self.heads * self.head_dim


@dataclass(frozen=True)
class Rates:
    """A device and a kernel on it, measured (bench/gpu_kernels.py): bytes a second from memory,
    from the cache, into one program and into one multiprocessor, attention operations a second;
    multiprocessors, and programs resident at a time; seconds of a launch, before an item's first
    key arrives, of a join, and of joining one slot after another."""

    memory: float = 4.34e12
    cache: float = 6.8e12
    program: float = 2.9e10
    processor: float = 4.5e10
    flops: float = 3.8e14
    processors: int = 132
    resident: int = 264
    launch: float = 0.5e-6
    item: float = 2.2e-6
    join: float = 2.9e-6
    slot: float = 4.0e-8


@dataclass(frozen=True)
class Run:
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


def roofs_of(keys: float, rows: float, shape: Shape, rates: Rates) -> tuple[float, float, float]:
    """Return the seconds of a run at each roof: memory, cache (once a tile of rows), products."""
    tiles = np.ceil(rows / shape.rows_many)
    padded = np.where(rows <= shape.rows_few, shape.rows_few, tiles * shape.rows_many)
    total = keys * shape.key_bytes
    return (total / rates.memory, tiles * total / rates.cache,
            keys * shape.flops(padded) / rates.flops)  # fmt: skip


class Cost:
    """The predicted time of some runs, by the keys of an item.

    Programs stream at the device's rates while all places are taken, the last (and shortest) ones
    at their own; a launch, the way of the first keys of each round of programs, and the join are
    added. What several runs read of the same pages comes from the cache but once.
    """

    def __init__(self, batch: Batch, runs: Sequence[Run], shape: Shape, rates: Rates) -> None:
        counts = np.diff(batch.starts)
        self.shape, self.rates, self.queries = shape, rates, int(batch.starts[-1])
        self.keys = np.array([run.keys for run in runs], np.int64)
        self.rows = np.array([counts[list(run.members)].sum() for run in runs], np.int64)
        self.tiles = -(-self.rows // shape.rows_many)
        self.sizes = np.array([len(run.members) for run in runs], np.int64)
        self.members = np.array([m for run in runs for m in run.members], np.int64)
        self.read = float((self.keys * self.tiles).sum()) * shape.key_bytes
        if runs:
            roofs = np.array(roofs_of(self.keys, self.rows, shape, rates))
            again = _again(batch, runs, shape)
            self.stream = float(roofs.max(0).sum()) - again * (1 / rates.memory - 1 / rates.cache)
            self.cached = again / max(self.read, 1.0)

    def least(self) -> tuple[float, int]:
        """Return the least seconds, and the chunk that gives them."""
        granule = self.shape.granule
        if not len(self.keys):
            return 0.0, granule
        most = max(1, int(self.keys.max()) // granule)
        parts = np.unique(np.geomspace(1, most, 24).astype(int))
        sizes = np.unique(-(-int(self.keys.max()) // parts // granule) * granule)
        return min((self.seconds(int(size)), int(size)) for size in sizes)

    def seconds(self, chunk: int) -> float:
        """Return the seconds with items of at most `chunk` keys."""
        if not len(self.keys):
            return 0.0
        rates, parts = self.rates, -(-self.keys // chunk)
        programs = int((parts * self.tiles).sum()) * self.shape.kv_heads
        waves = -(-programs // rates.resident)
        share = (programs - (waves - 1) * rates.resident) / programs
        longest, last = self._ends(parts, chunk, programs - (waves - 1) * rates.resident)
        body = max(self.stream * (1 - share) + max(self.stream * share, last), longest)
        if programs <= rates.resident:
            loads = -(-programs // rates.processors)
            body = max(body, loads * self.read / programs / rates.processor)
        joined = int((self.rows * parts).sum())
        slots = np.bincount(self.members, np.repeat(parts, self.sizes)).max()
        join = rates.join + joined * self.shape.state_bytes / rates.memory + slots * rates.slot
        return rates.launch + rates.item * waves + body + join * (joined > self.queries)

    def _ends(self, parts: Array, chunk: int, left: int) -> tuple[float, float]:
        """Return the seconds, alone, of the longest item, and of the longest of the `left`
        shortest: items are launched by length, so these come last."""
        whole = self._alone(np.minimum(self.keys, chunk))
        rests = self._alone(self.keys - (parts - 1) * chunk)
        seconds = np.concatenate([whole, rests])
        count = np.concatenate([(parts - 1) * self.tiles, self.tiles]) * self.shape.kv_heads
        order = np.argsort(seconds)
        at = int(np.searchsorted(np.cumsum(count[order]), left))
        return float(seconds[count > 0].max()), float(seconds[order][at])

    def _alone(self, keys: Array) -> Array:
        """Return the seconds of an item of each run when its program has enough of the machine."""
        shape, rates = self.shape, self.rates
        taken = np.where(self.rows <= shape.rows_few, 0, shape.rows_many)
        read = keys * shape.key_bytes / shape.kv_heads / rates.program
        read = read * (1 - NEARER * self.cached)
        work = keys * shape.flops(taken) / shape.kv_heads / rates.flops * rates.resident * ALONE
        return np.maximum(read, work)


def _again(batch: Batch, runs: Sequence[Run], shape: Shape) -> float:
    """Return the bytes of keys that runs read after another run has read them."""
    page = shape.page
    entries = np.concatenate(
        [
            batch.table[run.of, run.start // page : -(-(run.start + run.keys) // page)]
            for run in runs
        ]
    )
    return (len(entries) - len(np.unique(entries))) * page * shape.key_bytes
