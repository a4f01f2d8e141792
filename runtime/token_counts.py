"""Numbers of tokens that steps of prompts are filled up to, so that a library meets no others.

For each number of rows it may choose another kernel, and loads it when it first does, which takes
milliseconds: prompts of all lengths would go on doing so for a long time.
"""

from __future__ import annotations

from bisect import bisect_left

FINEST = 64
"""The least step between two numbers: what a library's product takes at a time, or half of it."""

PART = 16
"""A number is this part of itself below the next one, at most: what filling up may cost."""


def token_counts(most: int) -> tuple[int, ...]:
    """Return the numbers up to `most`, which is the last."""
    counts, at = [], 0
    while at < most:
        at += max(FINEST, 1 << max(0, (at // PART).bit_length() - 1))
        counts.append(min(at, most))
    return tuple(counts)


def filled(counts: tuple[int, ...], tokens: int) -> int:
    """Return the least of the numbers that holds so many tokens; these where none does."""
    at = bisect_left(counts, tokens)
    return counts[at] if at < len(counts) else tokens
