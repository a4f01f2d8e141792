"""Numbers of rows that a library's products come in: steps of prompts are filled up to them.

For each number of rows it may choose another kernel, and loads that when it first needs it, which
took 1 to 25 ms on an H200: prompts of all lengths would go on doing so for a long time. Between
two multiples of 128 rows a product takes as long as at the next one, so that filling costs little.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

FEW = (16, 32, 64, 128, 192)
STEP = 128
"""Behind the first ones, the rows between two numbers."""

LOGITS = (1, 16, 32, 64, 128, 256)
"""Rows behind which logits are computed: reading weights takes the time, whatever their number."""

MANY = 2048
"""Rows from which the library has few kernels: those of every eighth number are all of them."""


def token_counts(most: int) -> tuple[int, ...]:
    """Return the numbers of tokens up to `most`, which is the last."""
    counts = (*FEW, *range(2 * STEP, most, STEP))
    return (*(count for count in counts if count < most), most)


def logit_counts(most: int) -> tuple[int, ...]:
    """Return the numbers of rows of logits up to `most`, which is the last; first of all, none."""
    return (0, *(count for count in LOGITS if count < most), most)


def tried(counts: Sequence[int]) -> list[int]:
    """Return those of some numbers, of which a library is to load its kernels."""
    some = (count for count in counts if count)
    return [count for count in some if count <= MANY or count % (8 * STEP) == 0]


def filled(counts: Sequence[int], rows: int) -> int:
    """Return the least of the numbers that holds so many rows; these where none does."""
    at = bisect_left(counts, rows)
    return counts[at] if at < len(counts) else rows
