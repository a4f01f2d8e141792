"""The executor of a partitioned model: a step is a pipeline over queues; see `step.ModelExecutor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...ir.core import Module, Term
from ...ir.model import ModelConfig
from ...ir.pipeline import Kind, Pipeline, Task
from ...ir.pipeline_schedules import PipelineShape, build_pipeline
from ..compiled_executor import _tvm_tensor, aligned, rope_tables
from ..executor import PAGE_SIZE, check_step, page_bytes
from ..step import StepInput
from ..weights import TensorSource, Weight, load_weights
from .buffers import Buffer, Buffers, buffers_of
from .device import OffloadDevice
from .keys import DeviceKeys
from .pages import PageShape, PageSource, Pool, pool_bytes, pool_in
from .placing import colder
from .queues import Queues, Run
from .sections import Lowered, Section
from .split import split_rows
from .work import Parts, StepWork

HOST_QUEUES = ("cpu", "cpu_experts", "disk", "stage")
"""Queues whose work the host's cores do; the others are streams of the device."""


@dataclass(frozen=True)
class OffloadOptions:
    """How a partitioned model runs.

    `schedule` and `shape` are the pipeline's; `num_pages` of keys lie in host memory and `kv_room`
    of them fit the device at a time, where attention is computed there. Every `adapt_every` steps
    the experts that the CPU computes are chosen again, the coldest first (0: never).
    """

    schedule: str
    shape: PipelineShape
    num_pages: int
    max_batch: int
    max_tokens: int
    kv_room: int = 0
    adapt_every: int = 64

    @property
    def gpu_attention(self) -> bool:
        """Whether attention is computed on the device."""
        return self.schedule == "s4"

    @property
    def micro_tokens(self) -> int:
        """The most rows of a micro-batch; sequences are cut where attention may see parts."""
        count = 1 if self.gpu_attention else self.shape.micro_batches
        return -(-self.max_tokens // count)

    @property
    def extents(self) -> dict[str, int]:
        """Bounds of the symbols in the types of what sections pass on, but for M."""
        return {"T": self.micro_tokens, "R": self.max_batch, "B": self.max_batch}


class OffloadExecutor:
    """Runs a model whose experts do not fit the device.

    `sections` are lowered, `tensors` gives their weights and `source` the pages of experts.
    `prove` is called with every pipeline before it first runs, and raises where it has a hazard.
    What could not be had, such as pinned memory, is said in `notes`.
    """

    def __init__(
        self, config: ModelConfig, options: OffloadOptions, sections: Sequence[Lowered],
        kernels: Mapping[str, Any], tensors: TensorSource, source: PageSource,
        device: OffloadDevice, *, prove: Callable[[Pipeline], Any] | None = None,
        delay: Callable[[Task], None] | None = None,
        unpack: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
        stored: PageShape | None = None,
    ) -> None:  # fmt: skip
        self.config, self.options, self.device = config, options, device
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.page_size, self.num_pages = PAGE_SIZE, options.num_pages
        self.page_bytes = page_bytes(config)
        self.max_batch, self.max_tokens = options.max_batch, options.max_tokens
        self.notes: list[str] = []
        self._prove, self._shape = prove, options.shape
        self._start, self._warm, self._steps = 0, False, 0
        self._pipelines: dict[tuple[PipelineShape, int, bool], Pipeline] = {}
        self._run: Run | None = None
        self._queues = Queues(device, HOST_QUEUES, delay)
        self._logits = torch.zeros(options.max_batch, config.vocab_size)
        built = _Build(config, options, device, sections, kernels, tensors)
        self._parts = built.parts(source, stored or built.page, unpack)
        self.notes += built.notes

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of a step with as many micro-batches as there may be."""
        return self._pipeline(self.options.shape.micro_batches, True)

    @property
    def last_run(self) -> Run | None:
        """The pipeline that ran last, with the time of each task."""
        return self._run

    def popularity(self) -> Tensor:
        """Return how many pairs each expert has had so far, [layers, E] i64."""
        return self._parts.taken.cpu().clone()

    @torch.no_grad()
    def forward(self, step: StepInput) -> Tensor:
        """Return logits [R, V] f32, a view that the next call overwrites."""
        check_step(step, self.max_batch, self.max_tokens)
        self._settle()
        self._adapt()
        batches = split_rows(step, self._shape.micro_batches, self.options.gpu_attention)
        pipeline = self._pipeline(len(batches), self._warm)
        work = StepWork(self._parts, batches, self.config.layers, self._start, self._shape.cpu,
                        self.config.experts_per_token)  # fmt: skip
        self._run = self._queues.start(pipeline, work)
        heads = [task.name for task in pipeline.of_kind(Kind.HEAD)]
        try:
            self._run.wait(heads)
        except BaseException:
            self._forget()
            raise
        self._start = replace(self._shape, start=self._start).after().start
        self._warm = True
        self._steps += 1
        found = self._logits[: step.logits_rows.shape[0]]
        for each in batches:
            end = each.first_logit + len(each.wanted)
            found[each.wanted] = self._parts.logits_host[each.first_logit : end]
        return found

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of keys and values in all layers."""
        self._settle()
        for pool in (self._parts.k, self._parts.v):
            pool.select(1, target).copy_(pool.select(1, source))

    def close(self) -> None:
        """End the queues' threads."""
        self._settle()
        self._queues.close()

    def _settle(self) -> None:
        """Let what the last step has left under way end: pages for the next one."""
        if self._run is not None:
            try:
                self._run.finish()
            except BaseException:
                self._forget()
                raise

    def _forget(self) -> None:
        """After a failure nothing is known of the ring: the next step copies all pages."""
        self._run, self._warm = None, False

    def _pipeline(self, count: int, warm: bool) -> Pipeline:
        """Return a step's pipeline, proven; the ring's slots are numbered from the step's first."""
        key = (self._shape, count, warm)
        if key not in self._pipelines:
            shape = replace(self._shape, micro_batches=count, warm=warm, start=0)
            pipeline = build_pipeline(self.options.schedule, shape)
            if self._prove is not None:
                self._prove(pipeline)
            self._pipelines[key] = pipeline
        return self._pipelines[key]

    def _adapt(self) -> None:
        """Choose the CPU's experts again, by what was taken; all lie in host memory already."""
        every = self.options.adapt_every
        if not every or self._steps == 0 or self._steps % every or not any(self._shape.cpu):
            return
        changed = colder(self._shape, self.popularity().tolist())
        if changed is not None:
            self._shape, self._warm = changed, False
            self.notes.append(f"step {self._steps}: colder experts went to the CPU")


@dataclass
class _Build:
    """Puts an executor's parts together; device memory is asked for in the order of need."""

    config: ModelConfig
    options: OffloadOptions
    device: OffloadDevice
    sections: Sequence[Lowered]
    kernels: Mapping[str, Any]
    tensors: TensorSource
    notes: list[str] = field(default_factory=list)

    @property
    def page(self) -> PageShape:
        """What a page is, as kernels read it."""
        return PageShape.of(next(s.weights for s in self.sections if s.kind == "experts"))

    def parts(self, source: PageSource, stored: PageShape, unpack: Any) -> Parts:
        """Return what all steps share."""
        shape, options, config = self.options.shape, self.options, self.config
        memory, relay = self.device.memory, shape.relay if any(shape.disk) or shape.staged else 0
        buffers = Buffers(device_buffers(self.sections, options, config, True), self.device)
        ready = {place: self._sections(place) for place in ("device", "host")}
        resident = [(i, p) for i in range(config.layers) for p in shape.pages_of("resident", i)]
        parked = [
            (i, p) for i in range(config.layers)
            for p in (*shape.ringed[i], *shape.pages_of("cpu", i))
            if p not in shape.pages_of("disk", i)
        ]  # fmt: skip
        pool = self._device_pool(shape.ring + len(resident))
        host = self._host_pool(stored, len(parked), pin=True)
        parts = Parts(
            self.device, ready["device"] | ready["host"], buffers, pool, host,
            self._host_pool(stored, relay), {}, {key: n for n, key in enumerate(parked)}, source,
            *self._keys(options.num_pages, "cpu"),
            memory.allocate("logits", (options.max_batch, config.vocab_size), torch.float32),
            torch.zeros(options.max_batch, config.vocab_size),
            memory.allocate("popularity", (config.layers, config.experts), torch.int64),
            config.experts, max(shape.ring, 1), PAGE_SIZE, options.num_pages, unpack=unpack,
        )  # fmt: skip
        self._load(parts, resident, stored)
        if options.gpu_attention:
            parts.keys = self._device_keys()
        return parts

    def _load(self, parts: Parts, resident: list[tuple[int, int]], stored: PageShape) -> None:
        for key, place in parts.arena.items():
            parts.source.read(*key, parts.host_pool.page(place))
        spare = self._host_pool(stored, 1).page(0)
        places = {}
        for number, key in enumerate(resident):
            parts.source.read(*key, spare)
            places[key] = self.options.shape.ring + number
            unpacked = spare if parts.unpack is None else parts.unpack(spare)
            parts.device_pool.copy(places[key], unpacked)
        parts.resident = places

    def _device_pool(self, count: int) -> Pool:
        return Pool({
            part.role: self.device.memory.allocate("pages", (max(count, 1), *part.shape), part.dtype)
            for part in self.page.parts
        })  # fmt: skip

    def _host_pool(self, shape: PageShape, count: int, pin: bool = False) -> Pool:
        buffer = aligned(pool_bytes(shape, max(count, 1)))
        refused = self.device.register(buffer) if pin and count else ""
        if refused:
            self.notes.append(f"host memory stays pageable, copies are slower: {refused}")
        return pool_in(buffer, shape, max(count, 1))

    def _keys(self, pages: int, place: str) -> tuple[Tensor, Tensor]:
        c = self.config
        shape = (c.layers, pages, c.kv_heads, PAGE_SIZE, c.head_dim)
        return torch.zeros(shape, device=place), torch.zeros(shape, device=place)

    def _device_keys(self) -> DeviceKeys:
        c, memory = self.config, self.device.memory
        shape = (self.options.kv_room, c.kv_heads, PAGE_SIZE, c.head_dim)
        k0, k1, v0, v1 = (memory.allocate("keys", shape, torch.float32) for _ in "abcd")
        return DeviceKeys((k0, k1), (v0, v1), PAGE_SIZE)

    def _sections(self, place: str) -> dict[tuple[str, int, str], Section]:
        """Make the sections of a place ready; those of one queue share an arena."""
        mine = [section for section in self.sections if section.place == place]
        weights = load_weights(Module(tuple(s.function for s in mine)), self.tensors)
        tables = self._tables(place)
        if place == "device":
            weights = self._held(weights)
        arenas: dict[str, Tensor] = {}
        ready = {}
        for section in mine:
            queue = _queue_of(section)
            if queue not in arenas:
                size = max(s.function["memory"]["bytes"] for s in mine if _queue_of(s) == queue)
                arenas[queue] = self._arena(place, size)
            ready[section.kind, section.layer, place] = Section(
                section.function, section.results, self.kernels, weights, tables, arenas[queue],
                _tvm_tensor() if self.device.place == "cpu" or place == "host" else _as_it_is,
            )  # fmt: skip
        return ready

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
        tables = dict(zip(("cos", "sin"), rope_tables(c.rope, c.head_dim, c.context_length),
                          strict=True))  # fmt: skip
        if place == "device" and self.options.gpu_attention:
            return {name: self.device.memory.hold("rope", t) for name, t in tables.items()}
        return tables

    def _arena(self, place: str, size: int) -> Tensor:
        if place == "device":
            return self.device.memory.allocate("activations", (size,), torch.uint8)
        return aligned(size)


def _queue_of(section: Lowered) -> str:
    """Return the queue that runs a section: one arena serves one queue."""
    if section.place == "device":
        return "gpu"
    return "cpu_experts" if section.kind == "experts" else "cpu"


def device_buffers(
    sections: Sequence[Lowered], options: OffloadOptions, config: ModelConfig, host: bool = False
) -> Iterator[Buffer]:
    """Yield the buffers that the pipeline's slots stand for; with `host`, those of the CPU too."""
    types: dict[str, Term] = {}
    for section in sections:
        returned = section.function.regions[0].operations[-1].operands
        types |= {role: v.type for role, v in zip(section.results, returned, strict=True)}
    extents = options.extents | {"M": options.micro_tokens * config.experts_per_token}
    slots = build_pipeline(options.schedule, options.shape).slots
    for buffer in buffers_of(slots, types, extents):
        if host or not buffer.on_host:
            yield buffer


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
