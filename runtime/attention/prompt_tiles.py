"""Which rows of a step are prompts' own tiles, and in which order: the lists of
`passes/tile/attention/prompts.py`. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .cost import Batch, Shape

Array = np.ndarray

ALONE = 1024
"""Keys that a tile may have beyond what the others of its step take meanwhile: less than cutting
its run, and joining the parts, would save."""

PROGRAMS, LONG_PROGRAMS = 264, 132
"""Tiles that a device runs at a time: two on each of an H200's 132 processors, of long ones one."""

LONG_TILES, LONG_KEYS, LONG_TOKENS = "long", 768, 2048
"""The way of steps whose prompts' tiles have twice as many rows; keys that such a tile has in the
mean, from which it is taken, and tokens of a step above which it is: no such step is recorded.
Means of 512, 768, 1 K, 1.5 K, 2 K and 4 K keys took 1.03, .97, .92, .90, .89 and .85 of the usual
tiles' time."""


@dataclass(frozen=True)
class PromptTiles:
    """Tiles of consecutive rows of one sequence, i32: the first query of each, how many, its first
    entry in the page table, the keys that its first query sees; and the sequences [B] that all of
    whose rows stand in them."""

    query: Array
    rows: Array
    page: Array
    limit: Array
    taken: Array

    def without(self, batch: Batch) -> Batch:
        """Return a batch in which these sequences have no keys left to be read."""
        return Batch(batch.table, np.where(self.taken, 0, batch.lengths), batch.starts)

    def others(self, query: Array, start: Array, starts: Array) -> tuple[Array, Array]:
        """Return the queries that are joined and where each one's slots start, without those of
        tiles: each is finished in its own."""
        owner = np.repeat(self.taken, np.diff(starts))
        left = ~owner[query]
        return query[left], np.append(start[:-1][left], start[-1:])


def long_tiles(batch: Batch, shape: Shape) -> PromptTiles | None:
    """Return the tiles of a step's prompts if they are to be read as `LONG_TILES` says, and none of
    these would keep the device waiting."""
    counts = np.diff(batch.starts)
    some = np.where(counts >= 2 * shape.rows_many, counts, 0)
    keys = int((some * (batch.lengths - counts // 2)).sum())
    tokens = int(some.sum())
    if tokens <= LONG_TOKENS or keys < LONG_KEYS * tokens:
        return None
    tiles = prompt_tiles(batch, replace(shape, rows_many=2 * shape.rows_many), LONG_PROGRAMS)
    return tiles if len(tiles.query) else None


def prompt_tiles(batch: Batch, shape: Shape, programs: int = PROGRAMS) -> PromptTiles:
    """Return the tiles of all sequences that fill some, for a device that runs so many at a time.

    None are taken where one tile's keys would keep the device waiting: such runs are cut up.
    A sequence's tiles stand together, as they read the same keys, and longer ones first.
    """
    counts = np.diff(batch.starts)
    rows = shape.rows_many
    taken = counts >= rows
    cached = batch.lengths - counts
    shift = cached % rows  # tiles end where blocks of keys do, if that takes no tile more
    shift = np.where(-(-(counts + shift) // rows) == -(-counts // rows), shift, 0)
    chosen = np.flatnonzero(taken)
    chosen = chosen[np.argsort(-batch.lengths[chosen], kind="stable")]
    tiles = -(-(counts + shift) // rows)[chosen]
    of = np.repeat(chosen, tiles)
    within = np.repeat(tiles, tiles) - 1 - (np.arange(len(of)) - np.repeat(
        np.cumsum(tiles) - tiles, tiles))  # fmt: skip
    first = np.maximum(within * rows - shift[of], 0)
    last = np.minimum((within + 1) * rows - shift[of], counts[of])
    limit = cached[of] + first + 1
    longest, whole = int(batch.lengths[chosen].max(initial=0)), int((cached[of] + last).sum())
    if longest > ALONE + whole * shape.kv_heads // programs:
        return prompt_tiles(Batch(batch.table, batch.lengths, np.zeros_like(batch.starts)), shape)
    lists = (batch.starts[of] + first, last - first, of * batch.table.shape[1], limit)
    query, count, page, limit = (np.ascontiguousarray(each, np.int32) for each in lists)
    return PromptTiles(query, count, page, limit, taken)
