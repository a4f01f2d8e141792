"""An executor that knows its answers by heart: the same model again, on any schedule, at no cost.

Logits depend only on the tokens before them. What a first run has computed is kept by prefix, so
that other schedules of the same program can be counted, or priced by a virtual clock, without
running the model again, and without a batch's shape changing the last digits of an answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from weft.runtime.execution.step import ModelExecutor, StepInput

_MULTIPLIER, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


class Replay:
    """A ModelExecutor that remembers logits by prefix, and asks `inner` where it must.

    While every step has something new, `inner` runs each, and its KV memory is right. After
    `frozen` is set, known rows come from memory; a row that is not known raises UnknownPrefix.
    """

    takes_words = False
    """What is kept is the logits of all words."""

    def __init__(self, inner: ModelExecutor) -> None:
        self.frozen = False
        self._inner = inner
        self._prefix = np.zeros(inner.num_pages * inner.page_size, np.uint64)
        self._known: dict[int, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        """Return what the executor has."""
        return getattr(self._inner, name)

    def forward(self, step: StepInput) -> Tensor:
        """Return the logits of the wanted rows."""
        prefixes = self._advance(step)
        wanted = [prefixes[row] for row in step.logits_rows.tolist()]
        if self.frozen:
            return self._remembered(wanted)
        logits = self._inner.forward(step)
        for at, prefix in enumerate(wanted):
            self._known.setdefault(prefix, logits[at].clone())
        return logits

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page: its prefixes, and its keys and values where the model runs."""
        pages = self._prefix.reshape(-1, self._inner.page_size)
        pages[target] = pages[source]
        if not self.frozen:
            self._inner.copy_page(source, target)

    def _advance(self, step: StepInput) -> list[int]:
        """Note the step's tokens by slot; return the prefix that ends in each of them.

        Who reads what another computes in this step begins behind that one's begin.
        """
        tokens, positions = step.tokens.tolist(), step.positions.tolist()
        slots, starts = step.slots.tolist(), step.query_starts.tolist()
        size, found = self._inner.page_size, [0] * len(tokens)
        copied = {} if step.copies is None else dict(step.copies.flip(0).T.tolist())
        begins = [positions[start] for start in starts[:-1]]
        for row in sorted(range(len(begins)), key=begins.__getitem__):
            prefix, before = 1, begins[row] - 1
            if before >= 0:
                slot = int(step.page_table[row, before // size]) * size + before % size
                prefix = int(self._prefix[copied.get(slot, slot)])
            for at in range(starts[row], starts[row + 1]):
                found[at] = prefix = _next(prefix, tokens[at])
                self._prefix[slots[at]] = prefix
        for target, source in copied.items():
            self._prefix[target] = self._prefix[source]
        return found

    def _remembered(self, wanted: list[int]) -> Tensor:
        try:
            rows = [self._known[prefix] for prefix in wanted]
        except KeyError:
            raise UnknownPrefix("a schedule asks for logits that the first run did not") from None
        return torch.stack(rows) if rows else torch.empty(0, self._inner.vocab_size)


class UnknownPrefix(Exception):
    """Logits that no earlier run has computed."""


def _next(prefix: int, token: int) -> int:
    """Return the name of a prefix with one more token: a 64-bit mix of both."""
    mixed = ((prefix ^ (token + 1)) * _MULTIPLIER) & _MASK
    return (mixed ^ (mixed >> 29)) & _MASK
