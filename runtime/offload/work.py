"""What each kind of task does: sections launched on its buffers, and copies between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...ir.offload.pipeline import Kind, Task
from ..devices.streams import OffloadDevice
from .buffers import Buffers
from .key_homes import KeyHomes
from .keys import DeviceKeys
from .packed import Packed
from .page_sources import PageSource
from .pages import Pool
from .routing import Routing
from .sections import OUT, Section
from .split import MicroBatch

MOST_PLACED = 8192
"""Tensors of places that are kept on the device: half a KiB each."""


@dataclass
class Parts:
    """What all steps of an executor share.

    `sections` by (kind, layer, place). `device_pool` is the ring, and behind it the resident pages;
    `resident` and `arena` are the places of pages (layer, expert) in the device's and the host's
    pool; `relay` has the host slots of pages on their way from disk. `taken` counts pairs by layer
    and page: `experts` is how many pages a layer has. `host_bytes` are those of the host's pages
    that this model needs: its pool may be shared and larger. `scratch` are bytes of the device, by
    the queue whose copies convert there; `routing` is shown what routers give. Pages of four
    or twelve bits come through `packed`.
    """

    device: OffloadDevice
    sections: Mapping[tuple[str, int, str], Section]
    buffers: Buffers
    device_pool: Pool
    host_pool: Pool
    relay: Pool
    resident: Mapping[tuple[int, int], int]
    arena: Mapping[tuple[int, int], int]
    source: PageSource
    k: Tensor
    v: Tensor
    logits: Tensor
    logits_host: Tensor
    taken: Tensor
    packed: Packed
    experts: int
    ring: int
    page_size: int
    num_pages: int
    host_bytes: int = 0
    keys: DeviceKeys | None = None
    homes: KeyHomes | None = None
    scratch: Mapping[str, Tensor] = field(default_factory=dict)
    routing: Routing | None = None
    _placed: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def put(
        self, place: int, source: Mapping[str, Tensor], by: Callable[[Tensor, Tensor], None]
    ) -> Any:
        """Copy a page to the device's pool, in the order of the current stream; return the event of
        its end where that is another stream's, else None."""
        tensors, rooms, end = self.device_pool.tensors, self.packed.rooms, None
        for role in sorted(tensors, key=lambda role: role in rooms):  # the event is of the last
            if role in rooms:
                end = self.packed.bring(role, tensors[role][place], source, by)
            else:
                by(tensors[role][place], source[role])
        return end

    def placed(self, places: tuple[int, ...]) -> Tensor:
        """Return each expert's place as a tensor on the device [E] i32; used on one stream alone.

        It is sent once: a copy in front of an expert's kernel would wait behind those of pages.
        """
        if places not in self._placed:
            if len(self._placed) >= MOST_PLACED:
                self._placed.clear()
            self._placed[places] = self.device.send(torch.tensor(places, dtype=torch.int32))
        return self._placed[places]


@dataclass
class StepWork:
    """The work of one step: `__call__` does a task of its pipeline.

    `start` is the ring slot that the pipeline's slot 0 stands for; `cpu` the experts of each layer
    that the CPU computes.
    """

    parts: Parts
    micro_batches: list[MicroBatch]
    layers: int
    start: int
    cpu: tuple[tuple[int, ...], ...]
    top_k: int
    _pairs: dict[int, Tensor] = field(default_factory=dict)
    _ranges: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def __call__(self, task: Task) -> Any:
        """Do a task; return the event of its end where that is not its own stream's."""
        return _WORK[task.kind](self, task)

    @cached_property
    def device_inputs(self) -> list[dict[str, Tensor]]:
        """The inputs of each micro-batch that device sections take."""
        send = self.parts.device.send
        return [
            {"tokens": send(each.step.tokens), "logits_rows": send(each.step.logits_rows)}
            for each in self.micro_batches
        ]

    def extents(self, j: int, rows: int = 0) -> dict[str, int]:
        """Return the extents of a micro-batch's kernels."""
        each = self.micro_batches[j]
        return {
            "T": each.tokens, "B": each.sequences, "B1": each.sequences + 1, "R": rows,
            "M": each.tokens * self.top_k, "N": self.parts.num_pages,
            "MAXP": each.step.page_table.shape[1],
        }  # fmt: skip

    def slot(self, task: Task, name: str, writes: bool = False) -> dict[str, Tensor]:
        """Return the tensors of the slot of a kind that a task reads or writes."""
        accesses = task.writes if writes else task.reads
        slot = next(a.slot for a in accesses if a.slot.partition(".")[0] == name)
        tokens = self.micro_batches[task.micro_batch].tokens
        return self.parts.buffers.of(slot, tokens, tokens * self.top_k)

    def run(self, task: Task, place: str, inputs: Mapping[str, Any], outputs: Mapping[str, Tensor],
            extents: Mapping[str, int] | None = None) -> None:  # fmt: skip
        """Launch the section of a task."""
        layer = -1 if task.kind in {Kind.EMBED, Kind.HEAD} else task.layer
        kind = "experts" if task.kind == Kind.CPU_EXPERTS else task.kind.value
        section = self.parts.sections[kind, layer, place]
        given = {OUT + role: outputs[role] for role in section.roles}
        section({**inputs, **given}, extents or self.extents(task.micro_batch))

    def embed(self, task: Task) -> None:
        """Tokens to x."""
        j = task.micro_batch
        self.run(task, "device", self.device_inputs[j], self.slot(task, "x", writes=True))

    def pre(self, task: Task) -> None:
        """x to q, k, v."""
        self.run(task, "device", self.slot(task, "x"), self.slot(task, "qkv", writes=True))

    def append(self, task: Task) -> None:
        """New keys and values to their pages."""
        if task.queue == "gpu":
            self._keys.append(self, task)
            return
        step = self.micro_batches[task.micro_batch].step
        inputs = {**self.slot(task, "qkv_host"), "positions": step.positions, "slots": step.slots}
        self.run(task, "host", {**inputs, **self._kv(task)}, self.slot(task, "q_host", writes=True))

    def attend(self, task: Task) -> None:
        """Attention over pages."""
        if task.queue == "gpu":
            self._keys.attend(self, task)
            return
        step = self.micro_batches[task.micro_batch].step
        inputs = {**self.slot(task, "q_host"), **self._kv(task), "page_table": step.page_table,
                  "query_starts": step.query_starts, "kv_lengths": step.kv_lengths}  # fmt: skip
        self.run(task, "host", inputs, self.slot(task, "seen_host", writes=True))

    def route(self, task: Task) -> None:
        """Which experts a token takes; x goes on beside."""
        x, routed = self.slot(task, "x"), self.slot(task, "routed", writes=True)
        inputs = {**self.slot(task, "seen"), "x": x["x"]}
        self.run(task, "device", inputs, {**routed, "x": x["mid"]})
        if self.parts.routing is not None:
            first = sum(each.tokens for each in self.micro_batches[: task.micro_batch])
            self.parts.routing.routed(task.layer, first, routed)
        self.parts.taken[task.layer] += routed["starts"].diff()

    def experts(self, task: Task) -> None:
        """The device's experts whose pages the task lists; none where the CPU has them all."""
        if not task.pages:
            return
        places = [-1] * self.parts.experts
        for page in task.pages:
            if (task.layer, page) in self.parts.resident:
                places[page] = self.parts.resident[task.layer, page]
        for access in task.reads:
            if access.slot.startswith("page."):
                places[int(access.holds.rpartition(".")[2])] = self._ring_place(access.slot)
        inputs = {**self.slot(task, "routed"), **self.parts.device_pool.tensors,
                  "places": self.parts.placed(tuple(places))}  # fmt: skip
        extents = self.extents(task.micro_batch) | {"S": self.parts.device_pool.count}
        self.run(task, "device", inputs, self.slot(task, "rows", writes=True), extents)

    def cpu_experts(self, task: Task) -> None:
        """The CPU's experts, read where they lie."""
        places = torch.full((self.parts.experts,), -1, dtype=torch.int32)
        for expert in self.cpu[task.layer]:
            places[expert] = self.parts.arena[task.layer, expert]
        inputs = {**self.slot(task, "routed_host"), **self.parts.host_pool.tensors,
                  "places": places}  # fmt: skip
        extents = self.extents(task.micro_batch) | {"S": self.parts.host_pool.count}
        self.run(task, "host", inputs, self.slot(task, "rows_host", writes=True), extents)
        routed = self.slot(task, "routed_host")
        bounds = routed["starts"].tolist()
        self._ranges[task.micro_batch] = [(bounds[e], bounds[e + 1]) for e in self.cpu[task.layer]]
        self._pairs[task.micro_batch] = self._cpu_pairs(task, routed)

    def rows_up(self, task: Task) -> None:
        """The rows of the CPU's experts alone, one after another."""
        pairs = self._pairs[task.micro_batch]
        rows = self.slot(task, "rows_host")["rows"]
        target = self.slot(task, "rows_cpu", writes=True)["rows"][: len(pairs)]
        staged = self.parts.device.staging(tuple(target.shape), target.dtype)
        self.parts.device.copy(target, staged.copy_(rows[pairs]))

    def combine(self, task: Task) -> None:
        """Join the CPU's rows, and sum."""
        rows, x = self.slot(task, "rows")["rows"], self.slot(task, "x")
        if self.cpu[task.layer]:
            pairs = self._cpu_pairs(task, self.slot(task, "routed"))
            rows[pairs] = self.slot(task, "rows_cpu")["rows"][: len(pairs)]
        inputs = {**self.slot(task, "routed"), "rows": rows, "x": x["mid"]}
        self.run(task, "device", inputs, {"x": x["x"]})

    def _cpu_pairs(self, task: Task, routed: Mapping[str, Tensor]) -> Tensor:
        """Return the pairs of the CPU's experts, where `routed` lies: nothing is sent for it."""
        ranges = self._ranges[task.micro_batch]
        return torch.cat([routed["order"][first:last] for first, last in ranges]).long()

    def page(self, task: Task) -> Any:
        """Pages to the ring; those that are widened end on another stream, one after another."""
        end = None
        relays = {a.holds: int(a.slot.rpartition(".")[2]) for a in task.reads}
        for access in task.writes:
            expert = int(access.holds.rpartition(".")[2])
            if access.holds in relays:
                source: Mapping[str, Tensor] = self.parts.relay.page(relays[access.holds])
            else:
                source = self.parts.host_pool.page(self._arena(task, expert))
            device = self.parts.device
            by = device.trickle if task.queue == "pages" else device.copy
            end = self.parts.put(self._ring_place(access.slot), source, by)
        return end

    def read(self, task: Task) -> None:
        """Pages from disk to the relay."""
        for access in task.writes:
            expert = int(access.holds.rpartition(".")[2])
            into = self.parts.relay.page(int(access.slot.rpartition(".")[2]))
            self.parts.source.read(task.layer % self.layers, expert, into)

    def stage(self, task: Task) -> None:
        """Pages from the arena to the relay."""
        for access in task.writes:
            expert = int(access.holds.rpartition(".")[2])
            source = self.parts.host_pool.page(self._arena(task, expert))
            self.parts.relay.copy(int(access.slot.rpartition(".")[2]), source)

    def head(self, task: Task) -> None:
        """Logits of the wanted rows."""
        each = self.micro_batches[task.micro_batch]
        rows, first = len(each.wanted), each.first_logit
        if rows == 0:
            return
        inputs = {**self.device_inputs[task.micro_batch], "x": self.slot(task, "x")["x"]}
        logits = self.parts.logits[first : first + rows]
        self.run(task, "device", inputs, {"logits": logits},
                 self.extents(task.micro_batch, rows))  # fmt: skip
        self.parts.logits_host[first : first + rows].copy_(logits, non_blocking=True)

    def kv_up(self, task: Task) -> None:
        """Keys and values to the device."""
        self._keys.up(self, task)

    def kv_down(self, task: Task) -> None:
        """New keys and values to their pages."""
        self._keys.down(self, task)

    def moved(self, source: str, target: str) -> Callable[[Task], None]:
        """Return what copies the tensors of one slot to another, role by role."""

        def move(task: Task) -> None:
            given, scratch = self.slot(task, source), self.parts.scratch.get(task.queue)
            for role, tensor in self.slot(task, target, writes=True).items():
                self.parts.device.copy(tensor, given[role], scratch)

        return move

    @property
    def _keys(self) -> DeviceKeys:
        assert self.parts.keys is not None
        return self.parts.keys

    def _kv(self, task: Task) -> dict[str, Tensor]:
        return {"k": self.parts.k[task.layer], "v": self.parts.v[task.layer]}

    def _arena(self, task: Task, expert: int) -> int:
        return self.parts.arena[task.layer % self.layers, expert]

    def _ring_place(self, slot: str) -> int:
        return (int(slot.rpartition(".")[2]) + self.start) % self.parts.ring


def _copy(source: str, target: str) -> Callable[[StepWork, Task], None]:
    return lambda work, task: work.moved(source, target)(task)


_WORK: dict[Kind, Callable[[StepWork, Task], Any]] = {
    Kind.EMBED: StepWork.embed, Kind.PRE: StepWork.pre, Kind.APPEND: StepWork.append,
    Kind.QKV_DOWN: _copy("qkv", "qkv_host"), Kind.ATTEND: StepWork.attend,
    Kind.SEEN_UP: _copy("seen_host", "seen"), Kind.ROUTE: StepWork.route,
    Kind.EXPERTS: StepWork.experts, Kind.ROUTED_DOWN: _copy("routed", "routed_host"),
    Kind.CPU_EXPERTS: StepWork.cpu_experts, Kind.ROWS_UP: StepWork.rows_up,
    Kind.COMBINE: StepWork.combine, Kind.PAGE: StepWork.page, Kind.READ: StepWork.read,
    Kind.STAGE: StepWork.stage, Kind.HEAD: StepWork.head, Kind.KV_UP: StepWork.kv_up,
    Kind.KV_DOWN: StepWork.kv_down,
}  # fmt: skip
