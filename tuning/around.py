"""What the kernels around a model's step do on a GPU, as `weft kernels` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..cost_model.hardware import Level
from ..cost_model.roofline import op_time
from ..cost_model.scene import Work
from ..ir.constraints.vocabulary_parts import SEARCH_BITS, SEARCH_ROUNDS, part_count, part_words
from .lines import KernelLine, launch_mode, schedule_text

if TYPE_CHECKING:
    from ..compiler import Compilation
    from ..runtime.execution.timing import BoundLaunch

KEYS = (1 << SEARCH_BITS) - 1
"""Thresholds of a round of a search."""


def around_work(kernel: str, rows: int, vocab_size: int) -> Work:
    """Return what one launch of a kernel does to so many rows.

    Bytes are those of logits, masks, and of what parts hand to each other, each once. FLOPs are
    those of logits: a compare and an add a threshold, and six for an exponential and its sum.
    """
    words, part = -(-vocab_size // 32), part_words(vocab_size)
    parts = part_count(vocab_size, part)
    looked, part_looked = 4 * vocab_size + 4 * words, 132 * part
    round_looked = looked * SEARCH_ROUNDS / (SEARCH_ROUNDS + 1)  # the last one only narrows keys
    logits = vocab_size * SEARCH_ROUNDS / (SEARCH_ROUNDS + 1)
    known: dict[str, tuple[float, float]] = {  # bytes and FLOPs a row
        "feed_tokens": (12, 0),
        "constrain_rows": (8 * words, 0),
        "argmax_masked": (looked + 12, 10 * vocab_size),
        "survey_parts": (looked + 20 * parts, 10 * vocab_size),
        "argmax_join": (20 * parts + 16, 0),
        "count_round": (round_looked + 8 * (KEYS + 2) * parts, 2 * KEYS * logits),
        "mass_round": (round_looked + 8 * (KEYS + 4) * parts, (2 * KEYS + 6) * logits),
        "kept_parts": (looked + 16 * parts, 6 * vocab_size),
        "sample_join": (part_looked + 32 * parts, 6 * 32 * part),
    }
    moved, computed = known[kernel.removesuffix(f"_{vocab_size}")]
    return Work(flops=rows * computed, activation_bytes=rows * moved)


def around_lines(
    compilation: Compilation, rows: int, level: Level, measure: bool = True
) -> list[KernelLine]:
    """Return the kernels around a step of a GPU that draws so many rows, by what they are for.

    A step launches a greedy draw, or a sampled one of as many of its kernels as its settings need.
    """
    from ..runtime.execution.timing import launch_seconds
    from ..runtime.gpu.around_step import launches_around

    executor: Any = compilation.executor
    vocab_size = executor.vocab_size
    schedules = {op["name"].name: schedule for op, schedule in compilation.schedules}
    groups: dict[tuple[str, str], list[BoundLaunch]] = {}
    for each in launches_around(compilation.kernels, vocab_size, rows, executor.device):
        groups.setdefault((each.operation, each.kernel), []).append(each)
    lines = []
    for (operation, kernel), launches in groups.items():
        work, schedule = around_work(kernel, rows, vocab_size), schedules.get(kernel)
        start = level.launch_cost(launch_mode(level, schedule))
        seconds, memory, compute = op_time(work, level, start)
        measured = launch_seconds(launches, executor.seconds) if measure else None
        shape = f"{operation}, {rows} rows of {vocab_size}"
        lines.append(KernelLine(
            kernel, operation, shape, schedule_text(schedule), len(launches), work,
            max(memory, compute), seconds.expected, measured,
        ))  # fmt: skip
    return lines
