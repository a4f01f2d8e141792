"""Numbers of rows that a library's products come in: those of prompts are filled up to them.

For each number of rows it may choose another kernel, and loads that when it first needs it. On an
H200 that took 2 to 13 ms for prompts, and up to 75 ms for few rows: prompts of all lengths would go
on doing so for a long time. A row that is filled up is computed in vain, which costs as much as any
other where products draw all the power that a device may: so the numbers are near one another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

STEP = 32
"""The rows between two numbers."""

LOGITS = (1, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Rows behind which logits are computed: reading weights takes the time, whatever their number."""

MANY, APART = 2048, 1024
"""Rows behind which the library has few kernels, and how far apart those are tried."""


def token_counts(most: int) -> tuple[int, ...]:
    """Return the numbers of tokens up to `most`, which is the last."""
    counts = (STEP // 2, *range(STEP, most, STEP))
    return (*(count for count in counts if count < most), most)


def logit_counts(most: int) -> tuple[int, ...]:
    """Return the numbers of rows of logits up to `most`, which is the last; first of all, none."""
    return (0, *(count for count in LOGITS if count < most), most)


def tried(counts: Sequence[int]) -> list[int]:
    """Return those of some numbers, of which a library is to load its kernels."""
    some = (count for count in counts if count)
    return [count for count in some if count <= MANY or count % APART == 0]


def filled(counts: Sequence[int], rows: int) -> int:
    """Return the least of the numbers that holds so many rows; these where none does."""
    at = bisect_left(counts, rows)
    return counts[at] if at < len(counts) else rows


def bucket_sizes(max_batch: int) -> tuple[int, ...]:
    """Return the batches that decode steps are recorded for: near enough to waste little."""
    sizes = [1, 2, 4, 8, *range(16, 129, 8), *range(144, 257, 16), *range(288, 4097, 32)]
    return (*(size for size in sizes if size < max_batch), max_batch)
