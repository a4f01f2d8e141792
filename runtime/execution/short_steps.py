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
from .timing import BoundLaunch, once_seconds
from .token_rows import token_rows

if TYPE_CHECKING:
    from .compiled_executor import CompiledExecutor

MOST_PARTS = 4
"""With 8, two passes over the weights for 128 tokens, they took as long as the library by the
processor's clock, and looked faster by the host's on a machine with other work: records of 16 rows
took 1.07 to 1.17 times as long (tiny-dense, AMD, one thread)."""

MOST_KEYS = 768
"""Keys of the longest sequence of a step that runs as more than `far` parts: a row reads its keys
for itself, which is not timed. On an AMD machine, one thread, the library took 1.13 times as long
as parts for 64 tokens of one sequence behind 300 keys, 1.03 behind 600, 0.94 behind 1,000, 0.62
behind 3,000; for eight chunks of 8 tokens 1.26 behind 100, 0.92 behind 1,000."""

CHUNK = 4
"""Tokens of a chunk that is timed: a forced run, or the end of a prompt. Where a step has more than
so many for each sequence that it may have, its chunks are as long as that: of many short ones the
library's attention would look worse than it is."""

BEHIND = 288
"""Keys behind which chunks are timed, where there is room for them: as rows of decode steps tokens
read them each for itself. Behind 96 a Xeon took 64 tokens as such, and then 60 tokens behind 300,
as programs have them, took 1.1 to 1.25 times as long as by the library."""

LAYERS, WEIGHTS = 2, 1 << 25
"""Layers that are timed at least, as all do the same work, and the numbers of their weights: fewer
would stay in a cache from round to round, and two parts read them twice."""

TRIES, ROUNDS = 4, 2
"""Times that both are timed, in turn, and steps of each, after one that does not count. The
shortest of all count: another process may have the machine in most."""

GAIN = 0.1
"""Share by which parts must be faster than the library: less is noise."""


@dataclass(frozen=True)
class ShortSteps:
    """Steps of up to `parts` decode steps' tokens run as these, of up to `far` behind any number of
    keys; seconds of a step's first layers, as decode steps and by the library, say why (both 0
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
        tokens = parts * executor.decode_rows
        chunk = _chunk(executor, tokens)
        step = chunks(tokens, executor.page_size, chunk, pages_behind(executor, tokens // chunk))
        tries = [_both(executor, step) for _ in range(TRIES)]
        rows, library = (min(times) for times in zip(*tries, strict=True))
        if rows > library * (1 - GAIN):
            break
        best, parts = ShortSteps(parts, best.far, rows, library), 2 * parts
    return best


def _both(executor: CompiledExecutor, step: StepInput) -> tuple[float, float]:
    """Return the seconds of a step as decode steps, and by the library."""
    parts = token_rows(step, executor.short_rows)
    return sum(_seconds(executor, part) for part, _ in parts), _seconds(executor, step)


def chunks(tokens: int, page_size: int, chunk: int = CHUNK, behind: int = 0) -> StepInput:
    """Return a step of so many tokens in such chunks, each in a page of its own sequence, which has
    `behind` pages before it."""
    count, before = tokens // chunk, behind * page_size
    positions = before + torch.arange(chunk, dtype=torch.int32).repeat(count)
    pages = torch.arange(count * (behind + 1), dtype=torch.int32).view(count, behind + 1)
    return StepInput(
        tokens=torch.zeros(tokens, dtype=torch.int32),
        positions=positions,
        slots=pages[:, -1].repeat_interleave(chunk) * page_size + positions - before,
        query_starts=torch.arange(0, tokens + 1, chunk, dtype=torch.int32),
        kv_lengths=torch.full((count,), before + chunk, dtype=torch.int32),
        page_table=pages,
        logits_rows=torch.arange(chunk - 1, tokens, chunk, dtype=torch.int32),
    )


def _chunk(executor: CompiledExecutor, tokens: int) -> int:
    """Return how many tokens of a step each of its sequences has."""
    return max(CHUNK, tokens // executor.max_batch)


def pages_behind(executor: CompiledExecutor, sequences: int) -> int:
    """Return how many pages each sequence of a step that is timed has before its last."""
    room = min(executor.num_pages // sequences, executor.context_length // executor.page_size)
    return max(0, min(BEHIND // executor.page_size, room - 1))


def _fits(executor: CompiledExecutor, tokens: int) -> bool:
    chunk = _chunk(executor, tokens)
    fits = 0 < tokens <= executor.max_tokens and tokens // chunk <= executor.num_pages
    return (
        fits and tokens % chunk == 0 and chunk <= min(executor.page_size, executor.context_length)
    )


def _seconds(executor: CompiledExecutor, step: StepInput) -> float:
    """Return the seconds of a step's first layers, without the head."""
    launches, config = executor.dense_launches(step), executor.config
    timed = max(LAYERS, WEIGHTS * config.layers // config.parameters)
    some: list[BoundLaunch] = launches[: len(launches) * timed // max(timed, config.layers)]

    def run() -> None:
        for launch in some:
            launch.run()

    run()
    return min(once_seconds(run) for _ in range(ROUNDS))
