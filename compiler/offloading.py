"""A model larger than the GPU: from its graph and two memory bounds to an executor over pages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..frontend.checkpoints.checkpoint import Checkpoint
from ..ir.core import Module
from ..ir.diagnostics import PassError
from ..ir.offload.page_formats import ASKED
from ..ir.types import DTYPE_BYTES
from ..options import BadOption, Options
from ..passes.graph.moe_choice import Chosen, Open, Scene, as_it_fits, choose, usual
from ..passes.graph.moe_fit import Room, Wish, fit_policy
from ..passes.graph.moe_partition import MoePartition, pipeline_shape, schedule_of
from ..passes.manager import Context, PassRecord, run_passes
from .attention_ways import attention_shape
from .formats import PAGE_SIZE, kv_dtype, weight_dtype
from .loading import page_count, tensor_source

if TYPE_CHECKING:
    from ..cost_model.hrm.popularity import Popularity
    from ..cost_model.policy import Policy
    from ..passes.tile.sections import LoweredSections, Scheduled
    from ..runtime.devices.streams import OffloadDevice
    from ..runtime.execution.weight_files import TensorSource
    from ..runtime.offload.build import OffloadSettings
    from ..runtime.offload.executor import OffloadExecutor
    from ..runtime.offload.sections import Lowered


class NotOffloaded(PassError):
    """A request to offload what cannot be."""

    template = "--gpu-memory divides a model between GPU and CPU, but {problem}"
    hint = "run without --gpu-memory"


@dataclass
class Offloading:
    """The stages of a partitioned model: policy, graph in sections, kernels, executor."""

    checkpoint: Checkpoint
    options: Options
    records: list[PassRecord] = field(default_factory=list)
    _rooms: dict[Wish, Room] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.checkpoint.config.experts:
            raise NotOffloaded(problem=f"{self.checkpoint.name} has no experts to divide it by")
        self._check_given()
        if self.prompt_tokens:
            most = self.options.max_batch + self.prompt_tokens
            self.options = self.options.changed(max_tokens=min(self.options.max_tokens, most))

    def _check_given(self) -> None:
        """Raise BadOption for numbers that this model, or a step of it, does not have."""
        given, experts = self.options.offload, self.checkpoint.config.experts
        if given.cpu_experts > experts:
            problem = f"is {given.cpu_experts:g}, but {self.checkpoint.name} has {experts} a layer"
            raise BadOption(problem=f"offload_cpu_experts {problem}")
        if given.micro_batches > self.options.max_batch:
            problem = f"is {given.micro_batches}, but a step has at most {self.options.max_batch}"
            raise BadOption(problem=f"offload_micro_batches {problem} sequences (max_batch)")

    @property
    def prompt_tokens(self) -> int:
        """The most tokens of prompts that a step reads beside a full batch; 0: no bound."""
        given = self.options.offload
        if given.policy is not None and given.policy.overlap:
            return given.policy.prefill_tokens
        return given.prompt_tokens

    def require(self, dense: bool) -> None:
        """Raise NotOffloaded where the program asks for sparse attention; and NoGpu."""
        if self._on_gpu:
            self.device()
        if not dense:
            raise NotOffloaded(problem="the program asks for sparse attention, which reads labels")

    @cached_property
    def shared(self) -> Module:
        """The graph before it is partitioned."""
        from ..passes.tile.regimes import graph_passes

        format = weight_dtype(self.options)
        module, records = run_passes(graph_passes(format), self.checkpoint.graph, self._context())
        self.records += records
        return module

    @cached_property
    def tensors(self) -> TensorSource:
        """Where weights come from."""
        return tensor_source(self.checkpoint, self.options)

    @property
    def policy(self) -> Policy:
        """The policy that was asked for, or the one that was chosen."""
        return self.chosen.policy

    @cached_property
    def chosen(self) -> Chosen:
        """The policy, and how it came about."""
        given = self.options.offload
        if given.policy is not None:
            if not self._made_for_it(given.policy):  # the pass says what differs
                return Chosen(given.policy)
            return as_it_fits(given.policy, self._room)
        asked = Open(given.schedule, given.micro_batches, given.cpu_experts,
                     given.pages_per_expert, given.kv_gpu)  # fmt: skip
        wish = Wish(self.options.max_batch, page_format=given.page_format or self.options.weights)
        if asked.all_decided:
            return Chosen(self._fitted(asked.over(wish)))
        return choose(wish, asked, self._scene(asked.over(usual(wish))), self._fitted)

    def _made_for_it(self, policy: Policy) -> bool:
        config = self.checkpoint.config
        return (len(policy.layers), policy.experts) == (config.layers, config.experts)

    @cached_property
    def popularity(self) -> Popularity | None:
        """How often each expert is used, if the options name a file that says so."""
        from ..cost_model.hrm.popularity import read
        from ..cost_model.hrm.shape import MoeShape

        file = self.options.offload.routing
        return read(Path(file), MoeShape.of(self.checkpoint.config)) if file else None

    def _fitted(self, wish: Wish) -> Policy:
        config, known = self.checkpoint.config, self.popularity
        each = wish.pages_per_expert
        order = [[e * each + s for e in ranked for s in range(each)]
                 for ranked in (known.experts_of if known else ())]  # fmt: skip
        policy = fit_policy(config.layers, config.experts, self._room(wish), wish, order)
        if not self.prompt_tokens:
            return policy
        return replace(policy, overlap=True, prefill_tokens=self.prompt_tokens)

    def _scene(self, usual: Wish) -> Scene:
        """What policies are priced for: this machine's figures, and sequences that fill the keys,
        a quarter of each generated."""
        from ..cost_model.hardware_file import measured_or_shipped
        from ..cost_model.hrm.machine import HostedGpu
        from ..cost_model.hrm.shape import MoeShape, Workload

        config, options, room = self.checkpoint.config, self.options, self._room(usual)
        context = min(config.context_length, self._pages() * PAGE_SIZE // usual.batch)
        new = max(context // 4, 2)
        hardware = measured_or_shipped()
        return Scene(
            MoeShape.of(config, usual.page_format, self._key_bytes),
            Workload(max(context - new, 1), new, bool(self.prompt_tokens)),
            HostedGpu.of(hardware), hardware, max(room.left, 0),
            max(room.host - room.kv - room.buffers, 1) if room.host else 0, options.max_tokens,
            self.popularity,
        )  # fmt: skip

    @cached_property
    def module(self) -> Module:
        """The step in sections, and its pipeline."""
        step = MoePartition(self.policy, self.options.prove, self.chosen.remarks)
        facts = frozenset({"fused-rope-write"})
        module, records = run_passes((step,), self.shared, self._context(), facts)
        self.records += records
        return module

    @cached_property
    def lowered(self) -> LoweredSections:
        """The sections' kernels and functions."""
        lowered = self._lower(self.module, self._settings(self.policy))
        self.records += lowered.records
        return lowered

    @property
    def tile(self) -> Module:
        """Every kernel, once a place."""
        places = self.lowered.kernels.values()
        return Module(tuple({op["name"].name: op for found in places for op, _ in found}.values()))

    def kernels(self, more: list[Scheduled]) -> dict[str, Any]:
        """Return the compiled kernels of both places, and more of the host's."""
        from ..codegen.bounds.proofs import ensure_proven
        from ..codegen.build import compile_kernels

        places = self.lowered.kernels
        wanted = {op["name"].name: (op, schedule) for op, schedule in (*places["host"], *more)}
        if not self._on_gpu:
            wanted |= {op["name"].name: (op, schedule) for op, schedule in places["device"]}
        if self.options.prove:
            ensure_proven(
                [op for op, _ in (*wanted.values(), *places["device"])], self.options.cache
            )
        return compile_kernels(list(wanted.values()), "cpu", self.options.cache)

    def executor(self, kernels: Mapping[str, Any], **extra: Any) -> OffloadExecutor:
        """Return the executor, its pages loaded; raises CapacityError and ModelError.

        `device` and `pages` (takes the usual source of pages, gives another) may be others than
        the options say; the rest is the executor's.
        """
        from ..codegen.threads import share_cores
        from ..passes.graph.hazards import prove_hazards
        from ..runtime.offload.executor import OffloadExecutor
        from ..runtime.offload.file_pages import FilePages
        from ..runtime.offload.page_sources import TensorPages
        from ..runtime.offload.sections import Lowered

        device = extra.pop("device", None) or self.device()
        share_cores(self.options.thread_count)
        sections = [
            Lowered(s.kind, s.place, s.layer, s.function, s.results, s.weights)
            for s in self.lowered.sections
        ]
        tensors = self.tensors
        weights = _page_weights(sections)
        folder = self.checkpoint.folder
        source = FilePages(folder, weights) if folder else TensorPages(tensors, weights)
        stored = source.stored_as if isinstance(source, FilePages) else "BF16"
        source = extra.pop("pages", lambda usual: usual)(source)
        placed = {"host": kernels, "device": self._device_kernels(kernels)}
        executor = OffloadExecutor(
            self.checkpoint.config, self._settings(self.policy), sections, placed, tensors, source,
            device,
            prove=prove_hazards if self.options.prove else None,
            **self._narrow(sections), **extra,
        )  # fmt: skip
        made_for = self.policy.page_format
        if made_for == "bf12" and stored != "BF16":
            executor.notes.append(f"pages of bf12 hold bf16, exactly: {stored} is rounded to it")
        if made_for not in (*ASKED, self.options.weights):
            text = f"pages are {self.options.weights}, as the weights; the policy says {made_for}"
            executor.notes.append(text)
        return executor

    def _narrow(self, sections: list[Lowered]) -> dict[str, Any]:
        """Return how pages that are packed are kept, and made wider; nothing for other formats."""
        from ..runtime.offload.pages import PageShape
        from ..runtime.offload.stored import stored_shape

        page = PageShape.of(next(s.weights for s in sections if s.kind == "experts"))
        made: dict[str, Any] = {"stored": stored_shape(page, self.policy.page_format)}
        if self.policy.page_format == "bf12" and self._on_gpu:
            from ..codegen.build_cuda import load_kernels
            from ..passes.tile.products.twelve_bits import kernels
            from ..runtime.offload.twelve_bits import by_kernels

            loaded = load_kernels(kernels(), self.options.cache)
            made["widen"] = by_kernels({name: each.launch for name, each in loaded.items()})
        return made

    @property
    def _on_gpu(self) -> bool:
        return self.options.target == "cuda"

    def device(self) -> OffloadDevice:
        """Return a new device with the cap that the options say."""
        from ..runtime.devices.streams import CudaDevice, SimulatedDevice

        cap = self.options.gpu_memory
        return CudaDevice(cap) if self._on_gpu else SimulatedDevice.of(cap)

    def _device_kernels(self, kernels: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._on_gpu:
            return kernels
        from ..codegen.build_cuda import load_kernels

        return load_kernels(self.lowered.kernels["device"], self.options.cache)

    def _settings(self, policy: Policy) -> OffloadSettings:
        from ..runtime.offload.build import OffloadSettings
        from ..runtime.offload.key_homes import kept_on_device

        options, schedule, pages = self.options, schedule_of(policy), self._pages()
        shape = pipeline_shape(policy)
        longest = -(-self.checkpoint.config.context_length // PAGE_SIZE)
        room = min(pages, -(-pages // shape.micro_batches) + longest)  # see runtime.offload.split
        on_gpu = schedule == "s4"
        listed = on_gpu and self._on_gpu
        return OffloadSettings(
            schedule, shape, pages, options.max_batch, options.max_tokens,
            kv_room=room if on_gpu else 0,
            attention=attention_shape(self.checkpoint.config, PAGE_SIZE, self._key_bytes)
            if listed else None,
            key_format=kv_dtype(options), threads=options.thread_count,
            slices=policy.pages_per_expert, device_pages=kept_on_device(pages, policy.kv_gpu),
        )  # fmt: skip

    def _lower(self, module: Module, settings: OffloadSettings) -> LoweredSections:
        from ..passes.tile.sections import lower_sections

        device = "cuda" if self._on_gpu else "cpu"
        return lower_sections(
            module.symbol("step"), self.checkpoint.config, settings.extents, device,
            kv=settings.key_format,
        )  # fmt: skip

    def _room(self, wish: Wish) -> Room:
        """Return the memory that there is, and what all but pages takes of it."""
        if wish not in self._rooms:
            self._rooms[wish] = self._measured_room(wish)
        return self._rooms[wish]

    def _measured_room(self, wish: Wish) -> Room:
        from ..runtime.offload.build import device_buffers
        from ..runtime.offload.needs import held_bytes, key_page_bytes, working_bytes
        from ..runtime.offload.pages import PageShape
        from ..runtime.offload.stored import stored_shape

        config, options = self.checkpoint.config, self.options
        trial = fit_policy(config.layers, config.experts, Room(1 << 62, 0, 0, 1), wish)
        settings = self._settings(trial)
        module, _ = run_passes((MoePartition(trial, prove=False),), self.shared, Context(),
                               frozenset({"fused-rope-write"}))  # fmt: skip
        sections: Any = self._lower(module, settings).sections
        page = PageShape.of(next(s.weights for s in sections if s.kind == "experts"))
        stored = stored_shape(page, trial.page_format)
        buffers = device_buffers(sections, settings, config, True)
        kept = settings.num_pages - settings.device_pages
        return Room(
            options.gpu_memory, held_bytes(sections),
            working_bytes(sections, settings, config, page, stored),
            page.bytes, options.offload.host_memory, kept * key_page_bytes(settings, config),
            sum(b.bytes for b in buffers if b.on_host), LIBRARIES if self._on_gpu else 0,
            stored.bytes,
        )  # fmt: skip

    def _pages(self) -> int:
        """Return the pages of keys in host memory; 0 means a quarter of what there is."""
        options = self.options
        if not options.kv_memory:
            machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            options = options.changed(kv_memory=(options.offload.host_memory or machine) // 4)
        return page_count(self.checkpoint, options)

    @property
    def _key_bytes(self) -> int:
        """Bytes of an element of keys and values."""
        return DTYPE_BYTES[kv_dtype(self.options)]

    def _context(self) -> Context:
        return Context(model_name=self.checkpoint.name, target=self.options)


LIBRARIES = 512 << 20
"""Bytes of a GPU's cap that its libraries, kernels and the allocator's blocks take: 290 MiB of
modules that are loaded as they are first called, and 32 of the library's own, on an H200."""


def _page_weights(sections: list[Lowered]) -> list[tuple[Any, ...]]:
    """Return the weights of each layer's experts, from whichever place has them."""
    found = {s.layer: s.weights for s in sections if s.kind == "experts"}
    return [found[layer] for layer in sorted(found)]
