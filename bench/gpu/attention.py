"""Attention over paged keys on a GPU: pools, page tables, work lists, and timing under graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weft.codegen.triton.emit import emit
from weft.codegen.triton.load import load_launcher
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.attention.parts import ALL, Parts, attention_parts
from weft.passes.tile.attention.ways import (
    LARGEST,
    first_tiles,
    grouped_launches,
    join,
    launches,
    slim,
    tuned,
)
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.runtime.attention.plan import Batch, WorkList

COLD = 256 << 20
"""Bytes that rotating sets of pages must have together, so that none is found in the cache."""
LISTS = ("item_row", "item_rows", "item_page", "item_low", "item_high", "row_query", "row_limit",
         "row_slot")  # fmt: skip


@dataclass
class Pools:
    """Pages of keys and values, random bf16."""

    k: torch.Tensor
    v: torch.Tensor

    @staticmethod
    def random(pages: int, shape: Parts) -> Pools:
        """Return pools [N, K, P, C] of random values."""
        size = (pages, shape.kv_heads, shape.page, shape.head_dim)
        return Pools(*(torch.randn(size, dtype=torch.bfloat16, device="cuda") for _ in "kv"))


@dataclass(frozen=True)
class Sequences:
    """How many, how many tokens all share, how many each has of its own; and, where they stand in
    groups, how many the sequences of a group share after that."""

    count: int
    prefix: int
    own: int
    groups: int = 1
    middle: int = 0

    def pages(self, shape: Parts) -> int:
        """How many pages they have together."""
        shared = self.prefix // shape.page + self.groups * (self.middle // shape.page)
        return shared + self.count * -(-self.own // shape.page)

    def page_bytes(self, shape: Parts) -> int:
        """Bytes of all pages, shared ones once."""
        return self.pages(shape) * 4 * shape.kv_heads * shape.page * shape.head_dim

    @property
    def length(self) -> int:
        """Keys of a sequence."""
        return self.prefix + self.middle + self.own

    def flat_bytes(self, shape: Parts) -> int:
        """Bytes of keys and values that every sequence reads for itself."""
        return self.count * self.length * 4 * shape.kv_heads * shape.head_dim

    def batch(self, shape: Parts, ids: np.ndarray) -> Batch:
        """Return a decode batch over these page numbers."""
        cuts = np.cumsum([self.prefix // shape.page, self.groups * (self.middle // shape.page)])
        root, middle, own = np.split(ids, cuts)
        group = np.arange(self.count) * self.groups // max(self.count, 1)
        table = np.concatenate(
            [np.tile(root, (self.count, 1)), middle.reshape(self.groups, -1)[group],
             own.reshape(self.count, -1)], axis=1,
        )  # fmt: skip
        return Batch.decode(table.astype(np.int32), np.full(self.count, self.length))


Scheduled = tuple[Operation, Schedule]


def scheduled(
    shape: Parts, schedule: Schedule, rows: int, together: bool = False
) -> list[Scheduled]:
    """Return the kernels of a way's items, the first with its schedule, and the join, of steps of
    so many rows; `together`: items of one row are read several a program."""
    usual = tuned(shape, shared=bool(shape.many))
    _, *others = grouped_launches(usual) if together else launches(usual, rows)
    first, small = attention_parts(first_tiles(shape)), slim(usual)
    if shape.items == ALL:
        others = []
    elif shape.way == LARGEST and small is not None:
        others = [small]
    others.append(join(shape, rows))
    return [
        (first, schedule),
        *((kernel, gpu_schedule(kernel, chained=schedule.chained)) for kernel in others),
    ]


@dataclass
class Kernels:
    """Launchers of one shape and schedule: of its items, and of the join."""

    shape: Parts
    parts: list[Callable[..., Any]]
    join: Callable[..., Any]

    @staticmethod
    def of(
        shape: Parts, schedule: Schedule, folder: Path, rows: int, together: bool = False
    ) -> Kernels:
        """Return the launchers; files go to the folder."""
        kernels = scheduled(shape, schedule, rows, together)
        *parts, join = [load_launcher(emit(*each), folder) for each in kernels]
        return Kernels(shape, parts, join)


class Decode:
    """Decode steps of one batch shape, over several sets of pages in turn, which lie anywhere in
    the pools, or `in_order`."""

    def __init__(
        self, kernels: Kernels, sequences: Sequences, pools: Pools,
        plan: Callable[[Batch], WorkList], in_order: bool = False,
    ) -> None:  # fmt: skip
        shape = self.shape = kernels.shape
        self.schedule, self.way = Schedule(), ""
        self.kernels, self.pools, self.sequences = kernels, pools, sequences
        available, needed = pools.k.shape[0], sequences.pages(shape)
        sets = max(1, min(available // needed, -(-COLD // sequences.page_bytes(shape)), 64))
        order = np.arange(available)
        order = order if in_order else np.random.default_rng(0).permutation(order)
        ids = order[: sets * needed].reshape(sets, needed)
        self.batches = [sequences.batch(shape, row) for row in ids]
        self.work = plan(self.batches[0])
        self.lists = {name: _moved(getattr(self.work, name)) for name in LISTS}
        self.many = max(1, int((self.work.item_rows > shape.rows_few).sum()))
        self.merge = [_moved(self.work.merge_query), _moved(self.work.merge_start)]
        self.tables = [_moved(batch.table.ravel()) for batch in self.batches]
        width = shape.heads * shape.head_dim
        self.q = torch.randn(sequences.count, width, dtype=torch.bfloat16, device="cuda")
        self.out = torch.full_like(self.q, torch.nan)
        slots = max(self.work.slots, 1)
        self.m = torch.full((slots, shape.heads), torch.nan, device="cuda")
        self.l = torch.full((slots, shape.heads), torch.nan, device="cuda")
        self.acc = torch.full((slots, shape.heads, shape.head_dim), torch.nan, device="cuda")

    def run(self, number: int = 0) -> None:
        """Launch one step over set `number`."""
        pages = self.tables[number % len(self.tables)]
        states = (self.m, self.l, self.acc)
        slots, joined = self.m.shape[0], len(self.merge[0])
        tokens, pool = self.sequences.count, self.pools.k.shape[0]
        lists = list(self.lists.values())
        extents = (tokens, pool, len(lists[0]), len(lists[-1]), len(pages), slots)
        for place, launch in enumerate(self.kernels.parts):
            first = [self.many] if self.shape.many and place == 0 else []
            launch(*extents, *first, self.q, *lists, pages, self.pools.k, self.pools.v, self.out,
                   *states)  # fmt: skip
        if joined:
            self.kernels.join(tokens, joined, joined + 1, slots, *self.merge, *states, self.out)

    def error(self, number: int = 0, rows: int = 4) -> float:
        """Return |out - exact| / |exact| of some rows, exact in float64."""
        self.out.fill_(torch.nan)
        self.run(number)
        batch, shape = self.batches[number % len(self.batches)], self.shape
        chosen = np.unique(np.linspace(0, self.sequences.count - 1, rows).astype(int))
        exact = torch.stack([self._exact(batch, row) for row in chosen.tolist()])
        found = self.out[torch.from_numpy(chosen).cuda()].double()
        assert not self.out.isnan().any(), f"{shape.name}: an output was not written"
        return float((found - exact).norm() / exact.norm())

    def _exact(self, batch: Batch, row: int) -> torch.Tensor:
        s = self.shape
        length = int(batch.lengths[row])
        ids = torch.from_numpy(batch.table[row]).cuda().long()
        k, v = (
            pool[ids].transpose(0, 1).reshape(s.kv_heads, -1, s.head_dim)[:, :length].double()
            for pool in (self.pools.k, self.pools.v)
        )
        q = self.q[row].double().view(s.kv_heads, s.group, s.head_dim)
        weights = (q @ k.transpose(1, 2) / s.head_dim**0.5).softmax(-1)
        return (weights @ v).reshape(-1)

    def seconds(self, **options: Any) -> float:
        """Return the seconds of a step, under a graph."""
        return graph_seconds([lambda n=n: self.run(n) for n in range(len(self.tables))], **options)


def _moved(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int32)).cuda()


SETTLED = 0.25
"""Seconds in which a GPU's clock is what the same launches leave it at: products on tensor cores
lower it for a while (one row's sparse attention took 46 to 36 us of an H200 for 16 ms after some,
32.3 after 64 ms, and 31.5 from 128 ms on)."""


def graph_seconds(
    launches: Sequence[Callable[[], Any]], least: int = 8, replays: int = 12, settle: float = 0.0
) -> float:  # fmt: skip
    """Return the median seconds of a launch, of a graph that makes all of them in turn, once it has
    done so for `settle` seconds."""
    rounds = max(1, -(-least // len(launches)))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for launch in launches[:2]:
            launch()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(rounds):
                for launch in launches:
                    launch()
        graph.replay()
        begun = time.perf_counter()
        while time.perf_counter() - begun < settle:
            graph.replay()
            stream.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
        events[0].record(stream)
        for event in events[1:]:
            graph.replay()
            event.record(stream)
        stream.synchronize()
    pairs = zip(events, events[1:], strict=False)
    times = [before.elapsed_time(after) for before, after in pairs]
    return statistics.median(times) / 1e3 / (rounds * len(launches))


def copy_rate(size: int = 4 << 30) -> float:
    """Return bytes a second, read plus written, of a copy on the device."""
    source = torch.randint(0, 1 << 30, (size // 4,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(8):
        events = [torch.cuda.Event(enable_timing=True) for _ in "ab"]
        events[0].record()
        target.copy_(source)
        events[1].record()
        torch.cuda.synchronize()
        times.append(events[0].elapsed_time(events[1]) / 1e3)
    return 2 * size / statistics.median(times)
