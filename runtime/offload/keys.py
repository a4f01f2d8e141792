"""Keys and values that visit the device: the pages of one micro-batch and layer at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...ir.diagnostics import CapacityError
from ...ir.offload.pipeline import Task
from ..attention.lists import AttentionLists
from ..devices.staging import Layout
from .key_homes import KeyHomes

if TYPE_CHECKING:
    from ..devices.streams import OffloadDevice
    from .split import MicroBatch
    from .work import StepWork


MOST_RUNS = 32
"""Copies that a micro-batch's keys are brought with at the most: each costs a launch."""


class KeysTooMany(CapacityError):
    """A micro-batch whose keys and values exceed their place on the device."""

    template = "a micro-batch's keys and values are {pages} pages, but {room} fit the GPU at a time"
    hint = "take more micro-batches, or attention on the CPU"


class DeviceKeys:
    """Two places of `room` pages [room, K, P, C] each, taken in turn.

    Pages that `homes` has on the device are copied there within it. `lists` plans attention where
    its kernels run over a work list: those of a GPU do.
    """

    def __init__(
        self, k: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor], page_size: int,
        homes: KeyHomes, lists: AttentionLists | None = None,
    ) -> None:  # fmt: skip
        self._k, self._v, self._page, self._lists = k, v, page_size, lists
        self._homes = homes
        self.room = k[0].shape[0]
        self._visits: dict[int, _Visit] = {}

    def up(self, work: StepWork, task: Task) -> None:
        """Copy the pages of a micro-batch's sequences to its place."""
        batch = work.micro_batches[task.micro_batch]
        visit = self._visits.get(task.micro_batch)
        if visit is None or visit.batch is not batch:  # a step's layers share it
            visit = self._visits[task.micro_batch] = _Visit.of(batch, self._page, self._homes)
        count, place, device = visit.count, self._place(task.writes), work.parts.device
        if count > self.room:
            raise KeysTooMany(pages=count, room=self.room)
        far = len(visit.pages)
        for target, source in zip((self._k, self._v), self._homes.host, strict=True):
            if far:
                fetch(device, target[place][:far], source[task.layer], visit.pages)
        if self._homes.device is not None and count > far:
            near = visit.kept_on(device)
            for target, source in zip((self._k, self._v), self._homes.device, strict=True):
                torch.index_select(source[task.layer], 0, near, out=target[place][far:count])

    def append(self, work: StepWork, task: Task) -> None:
        """Write new keys and values to the place."""
        step, visit = work.micro_batches[task.micro_batch].step, self._visits[task.micro_batch]
        send = work.parts.device.send
        inputs = {**work.slot(task, "qkv"), "positions": send(step.positions),
                  "slots": send(visit.slots), **self._kv(task)}  # fmt: skip
        work.run(
            task, "device", inputs, work.slot(task, "q", writes=True), self._extents(work, task)
        )

    def attend(self, work: StepWork, task: Task) -> None:
        """Attention over the place."""
        seen = self._visits[task.micro_batch].seen(work.parts.device, self._lists)
        inputs = {**work.slot(task, "q"), **self._kv(task), **seen}
        work.run(task, "device", inputs, work.slot(task, "seen", writes=True),
                 self._extents(work, task))  # fmt: skip

    def down(self, work: StepWork, task: Task) -> None:
        """Copy what is new back to where its pages lie."""
        step, visit = work.micro_batches[task.micro_batch].step, self._visits[task.micro_batch]
        place, size = self._place(task.reads), self._page
        here, there = visit.slots.long(), step.slots.long()
        near, pages = self._homes.find(there // size)
        ways = [(self._homes.host, ~near, torch.device("cpu"))]
        if self._homes.device is not None:
            ways.append((self._homes.device, near, self._homes.device[0].device))
        for pools, mine, memory in ways:
            if bool(mine.any()):
                at, to, rest = here[mine], pages[mine], there[mine] % size
                for source, pool in zip((self._k, self._v), pools, strict=True):
                    rows = source[place].transpose(1, 2)[at // size, at % size]  # [T, K, C]
                    pool[task.layer].transpose(1, 2)[to, rest] = rows.to(memory)

    def _extents(self, work: StepWork, task: Task) -> dict[str, int]:
        return work.extents(task.micro_batch) | {"N": self.room}

    def _kv(self, task: Task) -> dict[str, Tensor]:
        place = self._place(task.reads)
        return {"k": self._k[place], "v": self._v[place]}

    @staticmethod
    def _place(accesses: tuple[tuple[str, str], ...]) -> int:
        slot = next(slot for slot, _ in accesses if slot.startswith("kv_gpu."))
        return int(slot.rpartition(".")[2])


def fetch(device: OffloadDevice, target: Tensor, source: Tensor, pages: Tensor) -> None:
    """Copy pages [n] of source [N, ...] to target [n, ...]: runs of neighbours straight from where
    they lie, many short runs gathered in pinned memory first."""
    ends = torch.nonzero(pages.diff() != 1).flatten() + 1
    bounds = [0, *ends.tolist(), len(pages)]
    if len(bounds) > MOST_RUNS:
        staged = device.staging(tuple(target.shape), source.dtype)
        device.copy(target, torch.index_select(source, 0, pages, out=staged))
        return
    for begin, end in zip(bounds, bounds[1:], strict=False):
        first = int(pages[begin])
        target[begin:end].copy_(source[first : first + end - begin], non_blocking=True)


class _Visit:
    """A micro-batch's pages in order of the place, and its slots and page table there.

    First come those from host memory, `pages` of its pool, then the `kept` ones of the device's.
    """

    def __init__(
        self, batch: MicroBatch, pages: Tensor, kept: Tensor, slots: Tensor, table: Tensor
    ) -> None:
        self.batch, self.pages, self.kept, self.slots, self.table = batch, pages, kept, slots, table
        self._seen: Mapping[str, Tensor | int] | None = None
        self._near: Tensor | None = None

    @property
    def count(self) -> int:
        """All pages."""
        return len(self.pages) + len(self.kept)

    def kept_on(self, device: OffloadDevice) -> Tensor:
        """Return the pages of the device's pool as a tensor there, sent once a step."""
        if self._near is None:
            self._near = device.send(self.kept)
        return self._near

    @staticmethod
    def of(batch: MicroBatch, page_size: int, homes: KeyHomes) -> _Visit:
        """Return the visit of a micro-batch: every page that its sequences see, once."""
        step = batch.step
        counts = (step.kv_lengths.long() + page_size - 1) // page_size
        table = step.page_table.long()
        seen = torch.arange(table.shape[1])[None] < counts[:, None]
        pages, places = torch.unique(table[seen], return_inverse=True)
        near, found = homes.find(pages)
        order = torch.argsort(near, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        moved = torch.zeros_like(step.page_table)
        moved[seen] = rank[places].to(torch.int32)
        slots = step.slots.long()
        where = rank[torch.searchsorted(pages, slots // page_size)]
        place = (where * page_size + slots % page_size).to(torch.int32)
        return _Visit(batch, found[~near], found[near], place, moved)

    def seen(self, device: OffloadDevice, lists: AttentionLists | None
             ) -> Mapping[str, Tensor | int]:  # fmt: skip
        """Return what tells attention who sees what, sent to the device once a step."""
        if self._seen is None:
            step = replace(self.batch.step, page_table=self.table)
            told = {"page_table": step.page_table, "query_starts": step.query_starts,
                    "kv_lengths": step.kv_lengths}  # fmt: skip
            if lists is None:
                self._seen = {name: device.send(tensor) for name, tensor in told.items()}
            else:
                planned = lists.plan(step)
                layout = Layout.of(planned.sizes())
                packed = np.zeros(layout.end, np.int32)  # lists may grow in place: a copy
                for name, (at, size) in layout.places.items():
                    packed[at : at + size] = planned.arrays[name]
                sent = device.send(torch.from_numpy(packed))
                self._seen = lists.bind(layout.views(sent), planned.extents)
        return self._seen
