"""Keys and values in host memory, with their labels and a cache of some rows on a device.

Layers that select (`ir.sparse.policy`) have their pools in host memory, which the device's kernels
reach where they lie; of these it keeps labels of all tokens and a cache of rows, managed by kernels
(`passes/tile/sparse/key_cache.py`). Layers that stay dense have their pools on the device. All
memory of the device is asked for by a `Memory` with a cap that holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ir.display.units import bytes_text
from ...ir.model import ModelConfig
from ...ir.offload.pipeline import LaunchedTask, Pipeline
from .key_device import KeyDevice
from .key_room import KeyRoom
from .sparse_decode import Layers

COUNTERS = ("wanted", "held", "predicted", "guessed", "brought")
"""What kernels count (`passes.tile.sparse.key_cache.COUNTERS`)."""


@dataclass(frozen=True)
class KeyTraffic:
    """Rows (k and v of a token and key head) that sparse layers have read so far.

    Of those `wanted`, `held` were in the cache when the query itself had selected them, and
    `predicted` of these had come ahead for them; of those `guessed` by predictions, `brought` were
    not in the cache. `row_bytes` is what one is over the link.
    """

    wanted: int
    held: int
    predicted: int
    guessed: int
    brought: int
    row_bytes: int

    @property
    def late(self) -> int:
        """Rows that had to be waited for."""
        return self.wanted - self.held

    @property
    def bytes(self) -> int:
        """Bytes over the link, towards the device."""
        return (self.late + self.brought) * self.row_bytes

    def __str__(self) -> str:
        if not self.wanted:
            return "nothing: every step read all keys"

        def share(part: int, of: int) -> str:
            return f"{part / max(of, 1):.1%}"

        return (
            f"{self.wanted} rows read: {share(self.held - self.predicted, self.wanted)} were in "
            f"the cache, {share(self.predicted, self.wanted)} had come ahead, "
            f"{share(self.late, self.wanted)} came late; {share(self.predicted, self.brought)} of "
            f"the {self.brought} brought ahead were read at once; {bytes_text(self.bytes)} over "
            "the link"
        )


class HostKeys:
    """The memory of a model whose keys lie across a link, and what its steps need of it; `parts`
    programs share a key head's books."""

    def __init__(
        self, config: ModelConfig, sparse: Layers, room: KeyRoom, page: int, dtype: torch.dtype,
        device: KeyDevice, parts: int = 1,
    ) -> None:  # fmt: skip
        self.room, self.page, self.device = room, page, device
        self._heads, self._element = config.kv_heads, dtype.itemsize
        self._width = config.head_dim
        held = [pool is not None for pool in sparse["labels"]]
        shape = (config.kv_heads, page, config.head_dim)
        pool, cache = (room.pages, *shape), (room.rows // page, *shape)
        self.stacks = {across: tuple(self._stack((held.count(across), *pool), dtype, across)
                                     for _ in "kv") for across in sorted(set(held))}  # fmt: skip
        """k and v [layers, N, K, P, C] of layers by whether they lie in host memory."""
        places = [(across, held[:layer].count(across)) for layer, across in enumerate(held)]
        self.k, self.v = ([self.stacks[across][which][place] for across, place in places]
                          for which in range(2))  # fmt: skip
        books = {
            "held_k": (cache, dtype, 0), "held_v": (cache, dtype, 0),
            "row_of": ((config.kv_heads, room.pages * page), torch.int32, -1),
            "slot_of": ((config.kv_heads, room.rows), torch.int32, -1),
            "marks": ((config.kv_heads, room.rows), torch.int32, 0),
            "hand": ((config.kv_heads,), torch.int32, 0),
            "counters": ((len(COUNTERS),), torch.int32, 0),
        }  # fmt: skip
        self.layers: dict[str, list[Tensor | None]] = {
            name: [self._filled(name, *book) if across else None for across in held]
            for name, book in books.items()
        } | dict(sparse)
        self.tables: dict[str, Tensor] = {}
        for prefix in ("", "guess_"):
            for name in ("victims", "fresh_slot", "fresh_row"):
                self.tables[prefix + name] = self._filled(
                    name, (config.kv_heads, room.rows), torch.int32, 0
                )
            for name in ("spare", "asked"):
                self.tables[prefix + name] = self._filled(
                    name, (config.kv_heads, parts), torch.int32, 0
                )
            name = f"{prefix}fresh"
            self.tables[name] = self._filled(name, (config.kv_heads,), torch.int32, 0)
        self.extents = {"S": room.pages * page, "H": room.rows, "HP": room.rows // page}
        self._counted = dict.fromkeys(COUNTERS, 0)

    def _stack(self, shape: tuple[int, ...], dtype: torch.dtype, across: bool) -> Tensor:
        if not across:
            return self.device.memory.allocate("keys of dense layers", shape, dtype)
        size = torch.Size(shape).numel() * dtype.itemsize
        return self.device.reached(size).view(dtype).view(shape)

    def _filled(self, what: str, shape: tuple[int, ...], dtype: torch.dtype, value: int) -> Tensor:
        return self.device.memory.allocate(what, shape, dtype).fill_(value)

    def copy_page(self, source: int, target: int, forget: Callable[..., Any]) -> None:
        """Copy a page of keys and values in all layers; caches forget what the target was, by
        `forget`, the kernel of `keys_forget`."""
        for pool in (*self.k, *self.v):
            pool[target].copy_(pool[source])
        self.forget([target], forget)

    def forget(self, pages: Iterable[int], forget: Callable[..., Any]) -> None:
        """Let caches drop all rows of some pages."""
        slots = torch.cat([
            torch.arange(page * self.page, (page + 1) * self.page, dtype=torch.int32,
                         device=self.device.place) for page in pages
        ])  # fmt: skip
        for row_of, slot_of in zip(self.layers["row_of"], self.layers["slot_of"], strict=True):
            if row_of is not None and slot_of is not None:
                forget(len(slots), self.extents["S"], self.extents["H"], slots, row_of, slot_of)

    def groups(self, reads: np.ndarray) -> list[tuple[int, int]]:
        """Return runs [first, last) of decode rows whose lists the cache holds at once, if it does
        not hold all; `reads` is how many tokens each is to find there. A row that reads more than
        the cache holds, all of its keys, stands alone."""
        groups = list(self._groups(reads))
        return groups if len(groups) > 1 else []

    def _groups(self, reads: np.ndarray) -> Iterator[tuple[int, int]]:
        first, taken = 0, 0
        for row, wants in enumerate(reads.tolist()):
            if row > first and taken + wants > self.room.rows:
                yield first, row
                first, taken = row, 0
            taken += wants
        yield first, len(reads)

    def describe(self) -> list[tuple[str, str]]:
        """Return what lies where, and what has passed between."""
        memory, tokens = self.device.memory, self.room.pages * self.page
        place = (
            f"{tokens} tokens in host memory, {self.room.rows} rows of a key head in the cache; "
            f"{bytes_text(memory.used)} of {bytes_text(memory.cap)} of GPU memory"
        )
        return [("keys", place), ("fetched", str(self.traffic()))]

    def traffic(self) -> KeyTraffic:
        """Return what has been counted so far, of all layers; waits for the device."""
        for counters in self.layers["counters"]:
            if counters is not None:
                for name, count in zip(COUNTERS, counters.tolist(), strict=True):
                    self._counted[name] += count
                counters.zero_()
        return KeyTraffic(**self._counted, row_bytes=2 * self._width * self._element)


@dataclass(frozen=True)
class Staged:
    """The launches of a step as tasks on queues, and the pipeline that was proven of them."""

    pipeline: Pipeline
    tasks: tuple[LaunchedTask, ...]

    def run(self, launches: list[tuple[Callable[..., Any], tuple[Any, ...]]],
            device: KeyDevice) -> None:  # fmt: skip
        """Launch all tasks on their queues' streams, in order; the last is the main queue's."""
        events: dict[str, Any] = {}
        for task in self.tasks:
            stream = device.stream(task.queue)
            for name in task.waits:
                if events[name] is not None:
                    stream.wait(events[name])
            with stream():
                for function, arguments in launches[task.first : task.end]:
                    function(*arguments)
            events[task.name] = stream.record()
