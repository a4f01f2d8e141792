"""Puts the parts of an offloading executor together, within the memory of its device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...ir.core import Module, Term
from ...ir.model import ModelConfig
from ...ir.offload.schedules import PipelineShape, build_pipeline
from ..attention.lists import AttentionLists
from ..attention.plan import Shape
from ..devices.memory import rounded
from ..devices.streams import OffloadDevice, mapped
from ..devices.zeros import zeros
from ..execution.compiled_executor import rope_tables, tvm_tensor
from ..execution.dtypes import TORCH
from ..execution.executor import PAGE_SIZE
from ..execution.weight_files import TensorSource
from ..execution.weights import Weight, load_weights
from .buffers import Buffer, Buffers, buffers_of
from .key_homes import KeyHomes
from .keys import DeviceKeys
from .packed import Packed
from .page_sources import PageSource
from .pages import PageShape, Pool, pool_bytes, pool_in
from .scratch import conversion_bytes, product_bytes
from .sections import Lowered, Section
from .store import HostStore
from .twelve_bits import Widen
from .work import Parts

SLOTS = 2048
"""States that the parts of a micro-batch's attention may leave to be joined."""


@dataclass(frozen=True)
class OffloadSettings:
    """How a partitioned model runs.

    `schedule` and `shape` are the pipeline's; `num_pages` of keys lie in host memory, and `kv_room`
    of them fit the device at a time, where attention is computed there; `key_format` is theirs.
    Of `num_pages`, `device_pages` lie on the device. An expert has `slices` pages. Every
    `adapt_every` steps the experts that the CPU computes are chosen again, the coldest first (0:
    never). `attention` is given where the device's attention runs over a work list: what the plan
    must know of it. `threads` of the host compute, divided among its queues (0: undivided).
    """

    schedule: str
    shape: PipelineShape
    num_pages: int
    max_batch: int
    max_tokens: int
    kv_room: int = 0
    adapt_every: int = 64
    attention: Shape | None = None
    key_format: str = "f32"
    threads: int = 0
    slices: int = 1
    device_pages: int = 0

    @property
    def gpu_attention(self) -> bool:
        """Whether attention is computed on the device."""
        return self.schedule == "s4"

    @property
    def micro_tokens(self) -> int:
        """The most rows of a micro-batch; sequences are cut where attention may see parts."""
        count = 1 if self.gpu_attention else self.shape.micro_batches
        return -(-self.max_tokens // count)

    def pairs(self, config: ModelConfig) -> int:
        """M: the most pairs of a row and a page that computes a part of what it needs."""
        return self.micro_tokens * config.experts_per_token * self.slices

    @property
    def extents(self) -> dict[str, int]:
        """Bounds of the symbols in the types of what sections pass on, but for M."""
        return {"T": self.micro_tokens, "R": self.max_batch, "B": self.max_batch}

    def all_extents(self, config: ModelConfig) -> dict[str, int]:
        """Return the same, and M."""
        return self.extents | {"M": self.pairs(config)}


@dataclass
class Build:
    """Puts an executor's parts together; device memory is asked for in the order of need."""

    config: ModelConfig
    options: OffloadSettings
    device: OffloadDevice
    sections: Sequence[Lowered]
    kernels: Mapping[str, Any]
    tensors: TensorSource
    store: HostStore | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def page(self) -> PageShape:
        """What a page is, as kernels read it."""
        return PageShape.of(next(s.weights for s in self.sections if s.kind == "experts"))

    def parts(self, source: PageSource, stored: PageShape, widen: Widen) -> Parts:
        """Return what all steps share."""
        shape, options, config = self.options.shape, self.options, self.config
        experts = config.experts * options.slices
        memory, relay = self.device.memory, shape.relay if any(shape.disk) or shape.staged else 0
        every = list(device_buffers(self.sections, options, config, True))
        buffers = Buffers(every, self.device)
        scratch = {
            queue: memory.allocate("conversions", (size,), torch.uint8)
            for queue, size in conversion_bytes(every).items()
        }
        ready = {place: self._sections(place) for place in ("device", "host")}
        resident = [(i, p) for i in range(config.layers) for p in shape.pages_of("resident", i)]
        parked = [
            (i, p) for i in range(config.layers)
            for p in (*shape.ringed[i], *shape.pages_of("cpu", i))
            if p not in shape.pages_of("disk", i)
        ]  # fmt: skip
        pool = self._device_pool(shape.ring + len(resident))
        if self.store is None:
            host, arena = self._host_pool(stored, len(parked), pin=True), None
        else:
            host, arena = self.store.pool, self.store.places
            self.notes += self.store.notes
        parts = Parts(
            self.device, ready["device"] | ready["host"], buffers, pool, host,
            self._host_pool(stored, relay, pin=True), {},
            arena or {key: n for n, key in enumerate(parked)},
            source, *self._keys(options.num_pages - options.device_pages),
            memory.allocate("logits", (options.max_batch, config.vocab_size), torch.float32),
            self._host_logits(),
            memory.allocate("popularity", (config.layers, experts), torch.int64),
            Packed(self.device, self._packed_rooms(stored), widen),
            experts, max(shape.ring, 1), PAGE_SIZE, options.num_pages,
            host_bytes=len(parked) * stored.bytes, scratch=scratch,
        )  # fmt: skip
        self._load(parts, resident, stored)
        if options.gpu_attention:
            parts.homes = KeyHomes((parts.k, parts.v), self._kept_keys())
            parts.keys = self._device_keys(parts.homes)
        self.device.settle()
        self.notes += [f"host memory stays pageable, copies are slower: {why}"
                       for why in self.device.refusals]  # fmt: skip
        return parts

    def _load(self, parts: Parts, resident: list[tuple[int, int]], stored: PageShape) -> None:
        if self.store is None:
            for key, place in parts.arena.items():
                parts.source.read(*key, parts.host_pool.page(place))
        spare = self._host_pool(stored, 1).page(0)
        places = {}
        for number, key in enumerate(resident):
            places[key] = self.options.shape.ring + number
            if self.store is None:
                parts.source.read(*key, spare)
            else:
                spare = parts.host_pool.page(parts.arena[key])
            parts.put(places[key], spare, self.device.copy)
        parts.resident = places

    def _device_pool(self, count: int) -> Pool:
        allocate = self.device.memory.allocate
        return Pool({
            part.role: allocate("pages", (max(count, 1), *part.shape), part.dtype)
            for part in self.page.parts
        })  # fmt: skip

    def _packed_rooms(self, stored: PageShape) -> dict[str, Tensor]:
        """Return room on the device for what is narrower in host memory than kernels read it."""
        wide = {part.role: part for part in self.page.parts}
        return {
            part.role: self.device.memory.allocate("packed page", part.shape, part.dtype)
            for part in stored.parts if part != wide.get(part.role)
        }  # fmt: skip

    def _host_pool(self, shape: PageShape, count: int, pin: bool = False) -> Pool:
        buffer = mapped(pool_bytes(shape, max(count, 1)))
        if pin and count:
            self.device.register(buffer)
        return pool_in(buffer, shape, max(count, 1))

    def _keys(self, pages: int) -> tuple[Tensor, Tensor]:
        if self.store is not None:
            return self.store.k[:, :pages], self.store.v[:, :pages]
        c = self.config
        shape = (c.layers, pages, c.kv_heads, PAGE_SIZE, c.head_dim)
        dtype = TORCH[self.options.key_format]
        take = self.device.host if self.options.gpu_attention else mapped
        size = torch.Size(shape).numel() * dtype.itemsize
        k, v = (take(size).view(dtype).view(shape) for _ in "kv")
        return k, v

    def _host_logits(self) -> Tensor:
        shape = (self.options.max_batch, self.config.vocab_size)
        return self.device.host(4 * shape[0] * shape[1]).view(torch.float32).view(shape)

    def _kept_keys(self) -> tuple[Tensor, Tensor] | None:
        """Return the pools of keys and values that lie on the device; None where none do."""
        c, pages, memory = self.config, self.options.device_pages, self.device.memory
        if not pages:
            return None
        shape = (c.layers, pages, c.kv_heads, PAGE_SIZE, c.head_dim)
        k, v = (memory.allocate("keys kept", shape, TORCH[self.options.key_format]) for _ in "kv")
        return k, v

    def _device_keys(self, homes: KeyHomes) -> DeviceKeys:
        c, memory = self.config, self.device.memory
        shape = (self.options.kv_room, c.kv_heads, PAGE_SIZE, c.head_dim)
        dtype = TORCH[self.options.key_format]
        k0, k1, v0, v1 = (memory.allocate("keys", shape, dtype) for _ in "abcd")
        return DeviceKeys((k0, k1), (v0, v1), PAGE_SIZE, homes, self._lists())

    def _lists(self) -> AttentionLists | None:
        shape, memory = self.options.attention, self.device.memory
        if shape is None:
            return None
        return AttentionLists(
            shape, self.config.windows, torch.device(self.device.place), SLOTS,
            zeros=lambda sizes: memory.allocate("attention", sizes, torch.float32),
        )  # fmt: skip

    def _sections(self, place: str) -> dict[tuple[str, int, str], Section]:
        """Make the sections of a place ready; those of one queue share an arena."""
        mine = [section for section in self.sections if section.place == place]
        weights = load_weights(Module(tuple(s.function for s in mine)), self.tensors)
        tables = self._tables(place)
        weights = self._held(weights) if place == "device" else _own(weights)
        scratch = self._product_scratch(mine) if place == "device" else None
        arenas: dict[str, Tensor] = {}
        ready = {}
        for section in mine:
            queue = _queue_of(section)
            if queue not in arenas:
                size = max(s.function["memory"]["bytes"] for s in mine if _queue_of(s) == queue)
                arenas[queue] = self._arena(place, size)
            tvm = place == "host" or not self.device.triton
            ready[section.kind, section.layer, place] = Section(
                section.function, section.results, self.kernels[place], weights, tables,
                arenas[queue], tvm_tensor() if tvm else _as_it_is, scratch,
            )  # fmt: skip
        return ready

    def _product_scratch(self, sections: Sequence[Lowered]) -> Tensor:
        functions = (section.function for section in sections)
        size = product_bytes(functions, self.options.all_extents(self.config))
        return self.device.memory.allocate("products", (size,), torch.uint8)

    def _held(self, weights: Mapping[str, Weight]) -> dict[str, Weight]:
        held: dict[int, Weight] = {}
        memory = self.device.memory
        for weight in weights.values():
            if id(weight) not in held:
                scale = None if weight.scale is None else memory.hold("weights", weight.scale)
                held[id(weight)] = Weight(memory.hold("weights", weight.data), scale)
        return {name: held[id(weight)] for name, weight in weights.items()}

    def _tables(self, place: str) -> dict[str, Tensor]:
        c = self.config
        cos, sin = rope_tables(c.rope, c.head_dim, c.context_length)
        tables = {"cos": cos, "sin": sin}
        if place == "device" and self.options.gpu_attention:
            return {name: self.device.memory.hold("rope", t) for name, t in tables.items()}
        return tables

    def _arena(self, place: str, size: int) -> Tensor:
        if place == "device":
            return self.device.memory.allocate("activations", (size,), torch.uint8)
        return zeros((size,), torch.uint8)


def state_bytes(shape: Shape) -> int:
    """Return the bytes of the states that attention's parts leave."""
    return rounded(4 * SLOTS * shape.heads * shape.head_dim) + 2 * rounded(4 * SLOTS * shape.heads)


def _queue_of(section: Lowered) -> str:
    """Return the queue that runs a section: one arena serves one queue."""
    if section.place == "device":
        return "gpu"
    return "cpu_experts" if section.kind == "experts" else "cpu"


def device_buffers(
    sections: Sequence[Lowered], options: OffloadSettings, config: ModelConfig, host: bool = False
) -> Iterator[Buffer]:
    """Yield the buffers that the pipeline's slots stand for; with `host`, those of the CPU too."""
    types: dict[str, dict[str, Term]] = {"device": {}, "host": {}}
    for section in sections:
        region = section.function.regions[0]
        returned = zip(section.results, region.operations[-1].operands, strict=True)
        types[section.place] |= {v.name: v.type for v in region.arguments}
        types[section.place] |= {role: v.type for role, v in returned}
    extents = options.all_extents(config)
    slots = build_pipeline(options.schedule, options.shape).slots
    for buffer in buffers_of(slots, types, extents):
        if host or not buffer.on_host:
            yield buffer


def _own(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """Return copies: a mapped file may be cut short while the model runs."""
    return {name: Weight(w.data.clone(), w.scale) for name, w in weights.items()}


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
