"""Counts what rows cost: tokens, first-token time, and prefix hits predicted without the cache."""

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter

import numpy as np

from .frame import Frame
from .prefix_tree import common_prefix
from .request import Request
from .sequence import Sequence

MOST_PROMPTS = 1 << 16


class PromptLog:
    """The prompts of earlier rows, as a cache that never forgets would know them."""

    def __init__(self) -> None:
        self._known: list[bytes] = []

    def add(self, tokens: np.ndarray) -> int:
        """Remember a prompt; return the longest prefix that it shares with an earlier one."""
        if len(self._known) >= MOST_PROMPTS:
            self._known.clear()
        key = tokens.astype(">i4").tobytes()
        at = bisect_left(self._known, key)
        near = self._known[max(0, at - 1) : at + 1]
        shared = [common_prefix(np.frombuffer(other, ">i4"), tokens) for other in near]
        self._known.insert(at, key)
        return max(shared, default=0)


class Meter:
    """One row's counters, and the sequences that it has."""

    def __init__(self, prompts: PromptLog) -> None:
        self.started = perf_counter()
        self.first_token: float | None = None
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.predicted_hits = 0
        self.margin = float("inf")
        self.sequences: dict[Sequence, Frame] = {}
        self._prompts = prompts
        self._seen: dict[Sequence, int] = {}

    def begin(self, sequence: Sequence, scoring: bool) -> None:
        """Take note of a model call; `scoring` calls need the last token's logits computed."""
        before = self._seen.get(sequence)
        if before is None:
            before = self._start(sequence, sequence.length - scoring)
        self.prompt_tokens += sequence.length - before
        self._seen[sequence] = sequence.length

    def generated(self, request: Request) -> None:
        """Take note of a finished generation."""
        self.generated_tokens += request.flushed
        self._seen[request.sequence] = request.sequence.length
        self.margin = min(self.margin, request.margin)
        if request.first_token_time and self.first_token is None:
            self.first_token = request.first_token_time

    def forget(self, sequence: Sequence) -> None:
        """A sequence was freed."""
        self._seen.pop(sequence, None)

    def _start(self, sequence: Sequence, reusable: int) -> int:
        """Predict the new sequence's hits; return how many of its tokens are someone's prompt."""
        if sequence.fresh_from:
            self.predicted_hits += min(sequence.fresh_from, reusable)
            return sequence.fresh_from
        known = self._prompts.add(sequence.tokens[: sequence.length])
        self.predicted_hits += min(known, reusable)
        return 0
