"""Runs of a mixture-of-experts model larger than the GPU, on weft's own executor."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from weft.compiler.offloading import Offloading
from weft.cost_model.hrm.popularity import popularity
from weft.cost_model.policy import Policy
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.model import ModelConfig
from weft.ir.offload.routing import RoutingTrace
from weft.options import Options
from weft.runtime.execution.step import StepInput
from weft.runtime.execution.weights import RandomTensors
from weft.runtime.offload.routing import RoutingReplay
from weft.runtime.offload.store import HostStore

PAGE = 16
WARM = 2
"""Decode steps before those that count."""
LAST = 8
"""Decode steps that count: the last ones of a run."""
KEY_BYTES = {"f32": 4, "bf16": 2}
"""Bytes of an element of keys and values in a format."""
FEW_TOKENS = 4096
"""Tokens of a pass where there are few sequences: what a pass's buffers leave is for pages."""
Chunk = tuple[int, Sequence[int]]
"""A sequence's number, and the tokens of it that a step takes."""


@dataclass(frozen=True)
class Setting:
    """One run: a model, its sequences, the GPU's cap in bytes, and how it is divided.

    `prompt` is the mean length and `longest` the longest, of a skewed draw; `new` tokens are
    generated for each of `batch` sequences. `skew` bends the routers of random weights, and
    `routing` replays a trace in the place of what they choose (a file, or `zipf:EXPONENT`, drawn);
    keys and values are kept in the format `kv`.
    Decode steps are measured until there are `steps` or `seconds` have gone by (0: all steps). With
    `middle` they are those in the middle of a run, on keys that are made up: what a step does
    does not depend on their values. `prefill` says whether prompts are read first. Of the batch,
    `arriving` sequences have their prompts read in each step, beside the others' decode.
    """

    model: str
    batch: int
    prompt: int
    longest: int
    new: int
    gpu_memory: int
    target: str = "cpu"
    weights: str = "bf16"
    schedule: str = "ring"
    micro_batches: int = 4
    cpu_experts: float = 0
    page_format: str = ""
    host_memory: int = 0
    max_tokens: int = 4096
    skew: float = 0.0
    threads: int = 0
    cache: Any = None
    steps: int = 0
    seconds: float = 0.0
    middle: bool = False
    prefill: bool = True
    kv: str = "f32"
    routing: str = ""
    pages_per_expert: int = 1
    kv_gpu: float = 0.0
    arriving: int = 0

    @property
    def name(self) -> str:
        """The setting in a line."""
        parts = [
            self.schedule, f"N = {self.batch} in {self.micro_batches}",
            f"{self.cpu_experts:g} experts a layer on the CPU",
            f"{self.prompt} + {self.new} tokens",
            *([] if self.kv == "f32" else [f"keys of {self.kv}"]),
            *([f"pages of {self.page_format}"] if self.page_format else []),
            *([f"routing of {self.routing}"] if self.routing else []),
            *([f"{self.kv_gpu:.0%} of keys on the GPU"] if self.kv_gpu else []),
            *([f"{self.pages_per_expert} pages an expert"] if self.pages_per_expert > 1 else []),
            *([f"{self.arriving} prompts beside decode"] if self.arriving else []),
        ]  # fmt: skip
        return ", ".join(parts)


@dataclass(frozen=True)
class Measured:
    """What a run gave: seconds of each decode step and of the prefill (0: none), memory in bytes.

    `host_bytes` are those of pages and keys beside the CPU; `policy` is the one that ran, `busy`
    the seconds that each queue worked in the last step.
    """

    setting: Setting
    policy: Policy
    steps: list[float]
    prefill: float
    tokens: list[list[int]]
    gpu_peak: int
    host_bytes: int
    busy: dict[str, float]
    notes: list[str]

    @property
    def step(self) -> float:
        """The median decode step in seconds, of the last ones."""
        return statistics.median(self.steps[WARM:][-LAST:] or self.steps)

    @property
    def decode_rate(self) -> float:
        """Generated tokens a second of decode steps."""
        return (self.setting.batch - self.setting.arriving) / self.step


def prompts_of(setting: Setting, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Return prompts whose lengths have the mean and the longest asked for, exponentially drawn."""
    draw = random.Random(seed)
    lengths = [
        min(setting.longest, max(1, round(draw.expovariate(1 / setting.prompt))))
        for _ in range(setting.batch)
    ]
    if setting.longest == setting.prompt:
        lengths = [setting.prompt] * setting.batch
    return [[draw.randrange(3, vocabulary) for _ in range(length)] for length in lengths]


def run(setting: Setting, store: HostStore | None = None) -> Measured:
    """Load the model or take its pages from a store, prefill, decode greedily."""
    from weft.runtime.offload.queues import busy

    made = offloading(setting)
    more: dict[str, Any] = {} if made.checkpoint.folder else {"pages": RepeatedPages}
    executor = made.executor(made.kernels([]), store=store, **more)
    if setting.routing:
        trace = routing_of(setting.routing, made.checkpoint.config)
        executor.routing = RoutingReplay(trace, executor.device.place)
    try:
        prompts = prompts_of(setting, executor.vocab_size)
        generation = Generation(prompts, setting.new, executor.page_size, setting.arriving)
        start = time.perf_counter()
        if setting.prefill:
            generation.prefill(executor)
        prefill = time.perf_counter() - start if setting.prefill else 0.0
        steps = decode(setting, generation, executor)
        last = executor.last_run
        assert last is not None
        last.finish()
        return Measured(
            setting, made.policy, steps, prefill, generation.made, executor.device.memory.peak,
            executor.host_bytes, busy(last.spans, last.pipeline.tasks), executor.notes,
        )  # fmt: skip
    finally:
        executor.close()
        del executor
        release()


def routing_of(text: str, config: ModelConfig) -> RoutingTrace:
    """Return the trace of a file, or a drawn one: `zipf:1.0`; raises BadRouting."""
    sizes = (config.layers, config.experts, config.experts_per_token)
    if text.startswith("zipf:"):
        return RoutingTrace.drawn(*sizes, tokens=4096, exponent=float(text.removeprefix("zipf:")))
    return RoutingTrace.load(text).check(text, *sizes)


def release() -> None:
    """Give back what nothing holds: after a failure, once its error is dropped too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()  # of streams and handles of runs that have ended
            torch.cuda.empty_cache()


def decode(setting: Setting, generation: Generation, executor: Any) -> list[float]:
    """Return the seconds of decode steps, as many as a setting wants."""
    wanted = min(setting.steps or setting.new, max(setting.new - 1, 1))
    if setting.middle:
        generation.jump((setting.new - wanted) // 2)
    steps: list[float] = []
    while len(steps) < wanted:
        steps.append(generation.decode(executor))
        if setting.seconds and len(steps) > WARM + 1 and sum(steps) > setting.seconds:
            break
    return steps


def offloading(setting: Setting) -> Offloading:
    """Return the compilation of a setting's model; its keys have room for every sequence."""
    checkpoint = open_checkpoint(setting.model)
    c, element = checkpoint.config, KEY_BYTES[setting.kv]
    page = c.layers * 2 * c.kv_heads * PAGE * c.head_dim * element
    options = Options.from_env().changed(
        target=setting.target, weights=setting.weights, kv=setting.kv,
        gpu_memory=setting.gpu_memory, kv_memory=key_pages(setting) * page, max_batch=setting.batch,
        max_tokens=max(setting.max_tokens, setting.batch), threads=setting.threads,
        offload_schedule=setting.schedule, offload_micro_batches=setting.micro_batches,
        offload_cpu_experts=setting.cpu_experts, offload_host_memory=setting.host_memory,
        offload_page_format=setting.page_format,
        offload_pages_per_expert=setting.pages_per_expert, offload_kv_gpu=setting.kv_gpu,
        offload_prompt_tokens=arriving_tokens(setting),
        prove=find_spec("z3") is not None,
        **({"cache": setting.cache} if setting.cache else {}),
    )  # fmt: skip
    made = Offloading(checkpoint, options)
    if setting.routing:
        counts = routing_of(setting.routing, c).counts()
        made.popularity = popularity(counts, c.layers, c.experts)
    if checkpoint.folder is None:
        if setting.target == "cuda" and torch.cuda.is_available():
            made.tensors = RandomTensors(options.seed, "cuda")
        if setting.skew:
            made.tensors = SkewedRouters(made.tensors, setting.skew)
    return made


def key_pages(setting: Setting) -> int:
    """Return the pages of keys of all sequences, each at its full length."""
    lengths = (len(prompt) + setting.new for prompt in prompts_of(setting, 32000))
    return sum(-(-length // PAGE) for length in lengths)


def arriving_tokens(setting: Setting) -> int:
    """Return the tokens of prompts that each step reads beside decode."""
    if not setting.arriving:
        return 0
    return sum(map(len, prompts_of(setting, 32000)[-setting.arriving :]))


@dataclass(frozen=True)
class SkewedRouters:
    """A source of tensors whose routers prefer some experts: row e is scaled by 1 + skew e / E."""

    source: Any
    skew: float

    def read(self, name: str, shape: tuple[int, ...], shard: Any = None) -> Tensor:
        """Return a tensor of the source; routers bent."""
        found = self.source.read(name, shape, shard)
        if not name.endswith("gate.weight"):
            return found
        experts = shape[0]
        rank = torch.arange(experts, device=found.device)[:, None]
        return found * (1 + self.skew * rank / experts)


class RepeatedPages:
    """Random pages drawn for the first layer and copied to all: 40 GiB are there in seconds."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._drawn: dict[int, dict[str, Tensor]] = {}

    def read(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
        """Fill a page's parts."""
        if expert not in self._drawn:
            self._source.read(0, expert, into)
            self._drawn[expert] = {role: part.clone() for role, part in into.items()}
        for role, part in self._drawn[expert].items():
            into[role].copy_(part)


class Generation:
    """Sequences under greedy decoding on an executor: the steps that the engine would make.

    The last `arriving` ones have their prompts read in each step, always the same ones: what that
    costs does not depend on which.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], new: int, page: int, arriving: int = 0
    ) -> None:
        self.prompts, self._page, self._decoding = prompts, page, len(prompts) - arriving
        self.made: list[list[int]] = [[] for _ in prompts]
        """New tokens of each sequence."""
        self._before = [0] * len(prompts)
        self._pages: list[list[int]] = []
        first = 0
        for prompt in prompts:
            count = -(-(len(prompt) + new) // page)
            self._pages.append(list(range(first, first + count)))
            first += count

    def prefill(self, executor: Any) -> None:
        """Run all prompts, as many tokens a step as the executor takes; then the first draw."""
        for chunk in self._chunks(executor.max_tokens, executor.max_batch):
            ends = [n for n, (s, tokens) in enumerate(chunk)
                    if self._before[s] + len(tokens) == len(self.prompts[s])]  # fmt: skip
            logits = executor.forward(self._step(chunk, ends))
            for row, number in enumerate(ends):
                self.made[chunk[number][0]].append(int(logits[row].argmax()))
            for sequence, tokens in chunk:
                self._before[sequence] += len(tokens)

    def jump(self, generated: int) -> None:
        """Go on as if so many tokens had been generated of each sequence."""
        for number, prompt in enumerate(self.prompts[: self._decoding]):
            self._before[number] = len(prompt) + generated
            self.made[number] = self.made[number][-1:] or [prompt[-1]]

    def decode(self, executor: Any) -> float:
        """Run one step of all sequences; return its seconds, the draw included."""
        decoding = self._decoding
        chunk: list[Chunk] = [(s, [made[-1]]) for s, made in enumerate(self.made[:decoding])]
        chunk += [(s, prompt) for s, prompt in enumerate(self.prompts[decoding:], start=decoding)]
        step = self._step(chunk, list(range(len(chunk))))
        start = time.perf_counter()
        best = executor.forward(step).argmax(-1).tolist()
        spent = time.perf_counter() - start
        for sequence, token in enumerate(best[:decoding]):
            self.made[sequence].append(token)
            self._before[sequence] += 1
        return spent

    def _chunks(self, rows: int, sequences: int) -> Iterator[list[Chunk]]:
        chunk: list[Chunk] = []
        left = rows
        for number, prompt in enumerate(self.prompts):
            at = 0
            while at < len(prompt):
                part = prompt[at : at + left]
                chunk.append((number, part))
                at, left = at + len(part), left - len(part)
                if left == 0 or len(chunk) == sequences:
                    yield chunk
                    chunk, left = [], rows
        if chunk:
            yield chunk

    def _step(self, chunk: list[Chunk], ends: list[int]) -> StepInput:
        tokens, positions, slots, starts, lengths = [], [], [], [0], []
        widest = max(len(self._pages[sequence]) for sequence, _ in chunk)
        table = torch.zeros(len(chunk), widest, dtype=torch.int32)
        for row, (sequence, part) in enumerate(chunk):
            pages, before = self._pages[sequence], self._before[sequence]
            places = range(before, before + len(part))
            tokens += part
            positions += places
            slots += [pages[at // self._page] * self._page + at % self._page for at in places]
            starts.append(len(tokens))
            lengths.append(before + len(part))
            table[row, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
        wanted = [starts[number + 1] - 1 for number in ends]
        lists = (tokens, positions, slots, starts, lengths)
        ids, at, places, bounds, seen = (torch.tensor(v, dtype=torch.int32) for v in lists)
        rows = torch.tensor(wanted, dtype=torch.int32)
        return StepInput(ids, at, places, bounds, seen, table, rows)


def with_schedule(setting: Setting, schedule: str) -> Setting:
    """Return a setting under another schedule on equal terms: all else the same.

    Attention on the GPU takes whole prompts, so that its buffers are those of a pass: without a
    prefill they are those of a step, and leave more room for pages.
    """
    other = lean(replace(setting, schedule=schedule))
    small = schedule == "s4" and not other.prefill
    return replace(other, max_tokens=other.batch) if small else other


def lean(setting: Setting) -> Setting:
    """Return a setting without its prefill, where its steps do not need it."""
    return replace(setting, prefill=not setting.middle)
