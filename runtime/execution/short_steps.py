"""How many tokens a CPU's step of chunks may have to run as decode steps: the machine is asked.

Kernels for decode waste no rows of a query tile and read narrow weights as they are; the library
multiplies more rows at once, and must widen narrow weights first. Which of them does a short step
sooner depends on the processor, and on the library's kernels for it: of 64 tokens in f32, the one
or the other by a factor of up to two. So both are timed, once a machine and model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .step import StepInput
from .timing import BoundLaunch, host_seconds
from .token_rows import token_rows

if TYPE_CHECKING:
    from .compiled_executor import CompiledExecutor

MOST_PARTS = 8

MOST_KEYS = 768
"""Keys of the longest sequence of a step that runs as more than `far` parts: a row reads its keys
for itself, which is not timed. On an AMD machine, one thread, the library took 1.13 times as long
as parts for 64 tokens of one sequence behind 300 keys, 1.03 behind 600, 0.94 behind 1,000, 0.62
behind 3,000; for eight chunks of 8 tokens 1.26 behind 100, 0.92 behind 1,000."""

CHUNK = 4
"""Tokens of a chunk that is timed: a forced run, or the end of a prompt."""

LAYERS = 2
"""Layers that are timed: all do the same work."""

TRIES, ROUNDS = 5, 2
"""Times that both are timed, in turn, of which the shortest count: another process may have the
machine in some; and steps of each that give a median, after one that does not count."""

GAIN = 0.05
"""Share by which parts must be faster than the library: less is noise."""


@dataclass(frozen=True)
class ShortSteps:
    """Steps of up to `parts` decode steps' tokens run as these, of up to `far` behind any number of
    keys; seconds of LAYERS layers of a step, as decode steps and by the library, say why (both 0
    where nothing was timed)."""

    parts: int
    far: int = 1
    rows_seconds: float = 0.0
    library_seconds: float = 0.0

    def takes(self, step: StepInput, rows: int) -> bool:
        """Say whether a step runs as decode steps of at most so many rows."""
        tokens = step.tokens.shape[0]
        if step.is_decode or tokens > self.parts * rows:
            return False
        return tokens <= self.far * rows or int(step.kv_lengths.numpy().max()) <= MOST_KEYS

    def describe(self, tokens: int) -> str:
        """Return the choice in words, for steps of up to so many tokens."""
        told = f"steps of chunks of up to {tokens} tokens run as decode steps"
        if not self.rows_seconds:
            return told
        ratio = self.library_seconds / self.rows_seconds
        return f"{told}: the library takes {ratio:.2f} times as long for so many, as timed here"


def usual(exact: bool) -> ShortSteps:
    """Return what holds where nothing was timed; `exact`: all weights are f32."""
    return ShortSteps(1) if exact else ShortSteps(4, far=4)


def read(said: Mapping[str, Any]) -> ShortSteps:
    """Return a choice that was kept; raises ValueError or TypeError for what is none."""
    found = ShortSteps(**said)
    if not 1 <= found.parts <= MOST_PARTS:
        raise ValueError(said)
    return found


def measured(executor: CompiledExecutor) -> ShortSteps:
    """Return the most parts, a power of two, in which chunks are sooner done than by the library.

    Steps are timed over the first pages, which hold nothing yet: what they write there is never
    read, since a sequence writes what it reads."""
    best, parts = ShortSteps(1, executor.short.far), 2
    while parts <= MOST_PARTS and _fits(executor, parts * executor.decode_rows):
        step = chunks(parts * executor.decode_rows, executor.page_size)
        tries = [_both(executor, step) for _ in range(TRIES)]
        rows, library = (min(times) for times in zip(*tries, strict=True))
        if rows > library * (1 - GAIN):
            break
        best, parts = ShortSteps(parts, best.far, rows, library), 2 * parts
    return best


def _both(executor: CompiledExecutor, step: StepInput) -> tuple[float, float]:
    """Return the seconds of a step as decode steps, and by the library."""
    parts = token_rows(step, executor.decode_rows)
    return sum(_seconds(executor, part) for part, _ in parts), _seconds(executor, step)


def chunks(tokens: int, page_size: int) -> StepInput:
    """Return a step of so many tokens in chunks of CHUNK, each of a sequence with one page."""
    count = tokens // CHUNK
    positions = torch.arange(CHUNK, dtype=torch.int32).repeat(count)
    pages = torch.arange(count, dtype=torch.int32)
    return StepInput(
        tokens=torch.zeros(tokens, dtype=torch.int32),
        positions=positions,
        slots=pages.repeat_interleave(CHUNK) * page_size + positions,
        query_starts=torch.arange(0, tokens + 1, CHUNK, dtype=torch.int32),
        kv_lengths=torch.full((count,), CHUNK, dtype=torch.int32),
        page_table=pages[:, None],
        logits_rows=torch.arange(CHUNK - 1, tokens, CHUNK, dtype=torch.int32),
    )


def _fits(executor: CompiledExecutor, tokens: int) -> bool:
    sequences = tokens // CHUNK
    fits = 0 < tokens <= executor.max_tokens and sequences <= executor.num_pages
    return (
        fits and tokens % CHUNK == 0 and CHUNK <= min(executor.page_size, executor.context_length)
    )


def _seconds(executor: CompiledExecutor, step: StepInput) -> float:
    """Return the seconds of a step's first LAYERS layers, without the head."""
    launches = executor.launches(step)
    layers = max(LAYERS, executor.config.layers)
    some: list[BoundLaunch] = launches[: len(launches) * LAYERS // layers]

    def run() -> None:
        for launch in some:
            launch.run()

    return host_seconds(run, ROUNDS)
