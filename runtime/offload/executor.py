"""The executor of a partitioned model: a step is a pipeline over queues."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...ir.display.units import bytes_text
from ...ir.model import ModelConfig
from ...ir.offload.pipeline import Kind, Pipeline, Task
from ...ir.offload.schedules import PipelineShape, build_pipeline
from ..devices.streams import OffloadDevice
from ..devices.zeros import zeros
from ..execution.dtypes import TORCH
from ..execution.executor import PAGE_SIZE, check_step, page_bytes
from ..execution.step import StepInput
from ..execution.weight_files import TensorSource
from .build import Build, OffloadSettings
from .cores import divided, sleep_soon
from .key_homes import KeyHomes
from .page_sources import PageSource
from .pages import PageShape
from .placing import colder
from .queues import Queues, Run
from .routing import Routing
from .sections import Lowered
from .split import split_rows
from .store import HostStore
from .twelve_bits import Widen, widen
from .work import StepWork

HOST_QUEUES = ("cpu", "cpu_experts", "disk", "stage")
"""Queues whose work the host's cores do; the others are streams of the device."""


class OffloadExecutor:
    """Runs a model whose experts do not fit the device; see `step.ModelExecutor`.

    `sections` are lowered, `kernels` are those of each place, device and host; `tensors` gives
    their weights and `source` the pages of experts, which have the form `stored`: where that is
    narrower than what kernels read, they are widened on the device, bf16 by `widen`. With a `store`
    the pages are there already. `prove` is called with every pipeline before it first runs, and
    raises where it has a hazard; `delay` before every task, for tests. What could not be had, such
    as pinned memory, is said in `notes`.
    """

    def __init__(
        self, config: ModelConfig, options: OffloadSettings, sections: Sequence[Lowered],
        kernels: Mapping[str, Any], tensors: TensorSource, source: PageSource,
        device: OffloadDevice, *, prove: Callable[[Pipeline], Any] | None = None,
        delay: Callable[[Task], None] | None = None,
        stored: PageShape | None = None, store: HostStore | None = None, widen: Widen = widen,
    ) -> None:  # fmt: skip
        self.config, self.options, self.device = config, options, device
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.page_size, self.num_pages = PAGE_SIZE, options.num_pages
        self.page_bytes = page_bytes(config, TORCH[options.key_format].itemsize)
        self.max_batch, self.max_tokens = options.max_batch, options.max_tokens
        self.notes: list[str] = []
        self._prove, self._shape = prove, options.shape
        self._start, self._warm, self._steps = 0, False, 0
        self._pipelines: dict[tuple[PipelineShape, int, bool], Pipeline] = {}
        self._run: Run | None = None
        shape = options.shape
        cores = divided(options.threads, any(shape.cpu), shape.micro_batches)
        if cores:
            sleep_soon()
        self._queues = Queues(device, HOST_QUEUES, delay, cores)
        weakref.finalize(self, self._queues.close)
        self._logits = zeros((options.max_batch, config.vocab_size), torch.float32)
        built = Build(config, options, device, sections, kernels, tensors, store)
        self._parts = built.parts(source, stored or built.page, widen)
        self.notes += built.notes
        if built.page.narrow:
            bits = 4 if self._parts.packed.rooms else 8
            self.notes.append(f"pages of experts have {bits} bits: lossy, tokens may differ")

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of a step with as many micro-batches as there may be."""
        return self._pipeline(self.options.shape.micro_batches, True)

    @property
    def last_run(self) -> Run | None:
        """The pipeline that ran last, with the time of each task."""
        return self._run

    def describe(self) -> list[tuple[str, str]]:
        """Return what a person should know: the device, what lies where, what was not had."""
        memory, shape = self.device.memory, self._shape
        parts = {
            "resident": sum(map(len, shape.resident)), "streamed": sum(map(len, shape.ringed)),
            "on the CPU": sum(map(len, shape.cpu)), "of these from disk": sum(map(len, shape.disk)),
        }  # fmt: skip
        experts = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
        used = f"{bytes_text(memory.peak)} of {bytes_text(memory.cap)}"
        text = f"{self.device.name}, {used}; schedule {self.options.schedule}"
        return [("GPU memory", text), ("experts", experts), *(("note", n) for n in self.notes)]

    @property
    def host_bytes(self) -> int:
        """Bytes of pages, pages on their way and keys in host memory."""
        parts = self._parts
        others = (*parts.relay.tensors.values(), parts.k, parts.v)
        return parts.host_bytes + sum(tensor.nbytes for tensor in others)

    @property
    def routing(self) -> Routing | None:
        """What is shown each router's choice: a recorder, or a trace that takes its place."""
        return self._parts.routing

    @routing.setter
    def routing(self, routing: Routing | None) -> None:
        self._settle()
        self._parts.routing = routing

    def popularity(self) -> Tensor:
        """Return how many pairs each expert has had so far, [layers, E] i64."""
        return self._parts.taken[:, :: self.options.slices].cpu().clone()

    @torch.no_grad()
    def forward(self, step: StepInput) -> Tensor:
        """Return logits [R, V] f32, a view that the next call overwrites."""
        check_step(step, self.max_batch, self.max_tokens)
        self._settle()
        self._adapt()
        if self.routing is not None:
            self.routing.begin(step)
        batches = split_rows(step, self._shape.micro_batches, self.options.gpu_attention,
                             self.options.micro_tokens, PAGE_SIZE)  # fmt: skip
        pipeline = self._pipeline(len(batches), self._warm)
        work = StepWork(self._parts, batches, self.config.layers, self._start, self._shape.cpu,
                        self.config.experts_per_token * self.options.slices)  # fmt: skip
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
        rows = step.logits_rows
        if bool((rows.diff() > 0).all()):  # as they come: micro-batches follow one another
            return self._parts.logits_host[: len(rows)]
        found = self._logits[: len(rows)]
        for each in batches:
            end = each.first_logit + len(each.wanted)
            found[each.wanted] = self._parts.logits_host[each.first_logit : end]
        return found

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of keys and values in all layers."""
        self._settle()
        homes = self._parts.homes or KeyHomes((self._parts.k, self._parts.v))
        homes.copy(source, target)

    def close(self) -> None:
        """End the queues' threads, and let go of pinned memory, whatever the last step met."""
        try:
            self._settle()
        finally:
            self._queues.close()
            self._queues.join()
            self.device.close()

    def _settle(self) -> None:
        """Let what the last step has left under way end: pages for the next one."""
        if self._run is not None:
            try:
                self._run.finish()
            except BaseException:
                self._forget()
                raise

    def _forget(self) -> None:
        """After a failure nothing is known of the ring: the next step copies all pages, and begins
        once no queue and no stream is at what is left of this one."""
        if self._run is not None:
            self._run.abandon()
        self._run, self._warm = None, False
        with suppress(RuntimeError):  # a device that is lost says so again
            self.device.settle()

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
        changed = colder(self._shape, self._parts.taken.tolist())
        if changed is not None:
            self._shape, self._warm = changed, False
            self._pipelines.clear()  # nobody asks for those of the old shape
            self.notes.append(f"step {self._steps}: colder experts went to the CPU")
