"""What a run did and when; nothing is recorded unless a trace is given. Times are in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...ir.display.view import Shown, View
from ...ir.source import Span

if TYPE_CHECKING:
    from ..schedule.batch import Batch, Chunk


MOST_LAUNCHES = 200_000
"""Launches that a trace times; later steps are recorded without theirs."""

Times = tuple[float, float, float, float]
Pages = tuple[int, int]


class CallRecord(NamedTuple):
    """One entry of the log of model calls, as they began to be computed.

    kind `call`: it sent `tokens[:prompt]`, and needed logits from position `first_logits` on (more
    tokens than the prompt are those that its constraint forced). `fill`: tokens were made resident
    and nothing sent. `known`: what a generation had left when it ended.
    """

    kind: str
    tokens: np.ndarray
    prompt: int
    first_logits: int


class KernelRecord(NamedTuple):
    """One launch on the device, timed by the host: its kernel, and the operation it computes."""

    kernel: str
    operation: str
    start: float
    end: float


@dataclass(slots=True)
class StepRecord:
    """One step of the engine.

    The host schedules and packs from `start` to `packed`, hands the model to the device until
    `computed`, draws until `drawn`, takes in what was drawn until `ended`. `landed` is when the
    draw was there: on a device that runs ahead of the host, steps later.
    """

    number: int
    start: float
    packed: float
    computed: float
    drawn: float
    running: int
    prefill_tokens: int
    kv_tokens: int
    live_pages: int
    cached_pages: int
    hits_predicted: int
    hits_measured: int
    requests: tuple[tuple[int, int], ...]
    """(request number, tokens that the step computes for it)."""
    ended: float = 0.0
    landed: float = 0.0
    kernels: list[KernelRecord] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What it computes: `prefill 120 + decode 4`."""
        parts = [f"prefill {self.prefill_tokens}"] if self.prefill_tokens else []
        parts += [f"decode {self.running}"] if self.running else []
        return " + ".join(parts) or "empty"

    @property
    def model_seconds(self) -> float:
        """The model's time where it does not run ahead; else what the host took to launch it."""
        return self.computed - self.packed

    @property
    def sample_seconds(self) -> float:
        """The same of the draw."""
        return self.drawn - self.computed

    @property
    def host_seconds(self) -> float:
        """The host's own time: scheduling and packing before, taking in the draw after."""
        return self.packed - self.start + max(0.0, self.ended - self.drawn)


@dataclass(slots=True)
class WaitRecord:
    """What a program instance waited for: model work of a statement, or a tool.

    kind is gen, score, fill or tool. `end` is 0 while it goes on, and where it was given up.
    """

    number: int
    instance: int
    row: int
    kind: str
    name: str
    span: Span | None
    start: float
    end: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0


@dataclass(slots=True)
class InstanceRecord:
    """A row of a program, from its start to its end."""

    instance: int
    row: int
    start: float
    end: float = 0.0


@dataclass
class Trace(Shown):
    """The records of a run, in order.

    With `kernels` the host times every launch of the CPU's executor, which costs a step a few
    microseconds.
    """

    kernels: bool = True
    steps: list[StepRecord] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    waits: list[WaitRecord] = field(default_factory=list)
    instances: list[InstanceRecord] = field(default_factory=list)
    page_bytes: int = 0
    num_pages: int = 0
    ahead: bool = False
    """Steps are launched before the draw of the one before is there."""
    hits_predicted: int = 0
    hits_measured: int = 0
    _launched: int = 0
    _numbers: dict[Any, WaitRecord] = field(default_factory=dict, repr=False)
    _launches: list[KernelRecord] = field(default_factory=list, repr=False)

    def view(self) -> View:
        """Return its timeline, and its memory over time."""
        from .trace_view import trace_view

        return trace_view(self)

    # What the runtime tells.

    def watch(self, executor: Any, ahead: bool) -> None:
        """Take note of the executor's sizes; let it show its launches where it can."""
        self.page_bytes, self.num_pages = executor.page_bytes, executor.num_pages
        self.ahead = ahead
        if self.kernels and hasattr(executor, "watcher"):
            executor.watcher = self.launch

    def begins(self, instance: int, row: int) -> InstanceRecord:
        """An instance has started."""
        self.instances.append(InstanceRecord(instance, row, perf_counter()))
        return self.instances[-1]

    def asked(self, what: Any) -> None:
        """An instance waits for a `Request` or a `ToolCall`."""
        tool = getattr(what, "tool", None)
        if tool is not None:
            kind, name, instance, prompt = "tool", f"tool {tool}", what.instance, 0
        else:
            kind = "gen" if what.sampling else "score" if what.score_from is not None else "fill"
            name, instance, prompt = what.name, what.order[0], what.sequence.length
        record = WaitRecord(len(self.waits), instance, what.row, kind, name, what.span,
                            perf_counter(), prompt_tokens=prompt)  # fmt: skip
        self.waits.append(record)
        self._numbers[what] = record

    def answered(self, what: Any) -> None:
        """It is there."""
        record = self._numbers.pop(what, None)
        if record is not None:
            record.end = perf_counter()
            record.new_tokens = getattr(what, "flushed", 0)

    def step(
        self,
        times: Times,
        batch: Batch,
        running: int,
        chunks: Sequence[Chunk],
        pages: Pages,
    ) -> StepRecord:
        """A step was launched: (start, packed, computed, drawn), and pages (live, cached)."""
        served = [(request, 1) for request in batch.requests[:running]]
        served += [(chunk.request, chunk.count) for chunk in chunks]
        numbers = tuple((self._numbers[one].number, count) for one, count in served
                        if one in self._numbers)  # fmt: skip
        tokens = sum(chunk.count for chunk in chunks)
        kv_tokens = batch.kv_tokens(running + len(chunks))
        (start, packed, computed, drawn), (live, cached) = times, pages
        record = StepRecord(
            len(self.steps), start, packed, computed, drawn,
            running, tokens, kv_tokens, live, cached,
            self.hits_predicted, self.hits_measured, numbers, kernels=self._launches,
        )  # fmt: skip
        self._launches = []
        self.steps.append(record)
        return record

    def launch(self, kernels: Sequence[tuple[str, str]], launches: Sequence[Any]) -> None:
        """Run the launches of a step and note when each ran; `kernels`: (kernel, operation)."""
        self._launched += len(launches)
        if self._launched > MOST_LAUNCHES:
            for function, arguments in launches:
                function(*arguments)
            return
        for (kernel, operation), (function, arguments) in zip(kernels, launches, strict=True):
            start = perf_counter()
            function(*arguments)
            self._launches.append(KernelRecord(kernel, operation, start, perf_counter()))
