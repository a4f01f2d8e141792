"""Runs of a mixture-of-experts model larger than the GPU, on weft's own executor."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from weft.cost_model.policy import Policy
from weft.frontend.checkpoint import open_checkpoint
from weft.offloading import Offloading
from weft.options import Options
from weft.runtime.step import StepInput

PAGE = 16
Chunk = tuple[int, Sequence[int]]
"""A sequence's number, and the tokens of it that a step takes."""


@dataclass(frozen=True)
class Setting:
    """One run: a model, its sequences, the GPU's cap in bytes, and how it is divided.

    `prompt` is the mean length and `longest` the longest, of a skewed draw; `new` tokens are
    generated for each of `batch` sequences. `skew` bends the routers of random weights.
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
    cpu_experts: int = 0
    page_format: str = ""
    host_memory: int = 0
    max_tokens: int = 4096
    skew: float = 0.0
    threads: int = 0
    policy: Policy | None = None
    cache: Any = None

    @property
    def name(self) -> str:
        """The setting in a line."""
        parts = [
            self.schedule, f"N = {self.batch} in {self.micro_batches}",
            f"{self.cpu_experts} experts a layer on the CPU", f"{self.prompt} + {self.new} tokens",
        ]  # fmt: skip
        return ", ".join(parts)


@dataclass(frozen=True)
class Measured:
    """What a run gave: seconds of each decode step and of the prefill, tokens, memory in bytes.

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
        """The median decode step in seconds."""
        return statistics.median(self.steps)

    @property
    def decode_rate(self) -> float:
        """Generated tokens a second of decode steps."""
        return self.setting.batch / self.step


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


def run(setting: Setting) -> Measured:
    """Load the model, prefill all prompts, decode greedily; the first two steps do not count."""
    from weft.runtime.offload.queues import busy

    made = offloading(setting)
    random_pages = {} if made.checkpoint.folder else {"pages": RepeatedPages}
    executor = made.executor(made.kernels([]), **random_pages)
    prompts = prompts_of(setting, executor.vocab_size)
    generation = Generation(prompts, setting.new, executor.page_size)
    start = time.perf_counter()
    generation.prefill(executor)
    prefill = time.perf_counter() - start
    steps = [generation.decode(executor) for _ in range(max(setting.new - 1, 1))]
    last = executor.last_run
    assert last is not None
    last.finish()
    spent = busy(last.spans, last.pipeline.tasks)
    executor.close()
    return Measured(
        setting, made.policy, steps[2:] or steps, prefill, generation.made,
        executor.device.memory.peak, executor.host_bytes, spent, executor.notes,
    )  # fmt: skip


def offloading(setting: Setting) -> Offloading:
    """Return the compilation of a setting's model; its keys have room for every sequence."""
    checkpoint = open_checkpoint(setting.model)
    c, element = checkpoint.config, 4
    pages = setting.batch * -(-(setting.longest + setting.new) // PAGE)
    page = c.layers * 2 * c.kv_heads * PAGE * c.head_dim * element
    options = Options.from_env().changed(
        target=setting.target, weights=setting.weights, gpu_memory=setting.gpu_memory,
        kv_memory=pages * page, max_batch=setting.batch,
        max_tokens=max(setting.max_tokens, setting.batch), threads=setting.threads,
        offload_schedule=setting.schedule, offload_micro_batches=setting.micro_batches,
        offload_cpu_experts=setting.cpu_experts, offload_host_memory=setting.host_memory,
        offload_page_format=setting.page_format,
        offload_policy=setting.policy,
        **({"cache": setting.cache} if setting.cache else {}),
    )  # fmt: skip
    made = Offloading(checkpoint, options)
    if setting.skew and checkpoint.folder is None:
        made.tensors = SkewedRouters(made.tensors, setting.skew)
    return made


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
        return found * (1 + self.skew * torch.arange(experts)[:, None] / experts)


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
    """Sequences under greedy decoding on an executor: the steps that the engine would make."""

    def __init__(self, prompts: Sequence[Sequence[int]], new: int, page: int) -> None:
        self.prompts, self._page = prompts, page
        self.made: list[list[int]] = [[] for _ in prompts]
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

    def decode(self, executor: Any) -> float:
        """Run one step of all sequences; return its seconds, the draw included."""
        chunk: list[Chunk] = [(s, [made[-1]]) for s, made in enumerate(self.made)]
        step = self._step(chunk, list(range(len(chunk))))
        start = time.perf_counter()
        best = executor.forward(step).argmax(-1).tolist()
        spent = time.perf_counter() - start
        for sequence, token in enumerate(best):
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
    """Return a setting under another schedule on equal terms: all else the same."""
    return replace(setting, schedule=schedule, policy=None)
