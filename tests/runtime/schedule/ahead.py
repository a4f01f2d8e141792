"""A toy model with the manners of a GPU: steps are launched before the last draw is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.schedule.flight import Landed
from weft.runtime.schedule.held_rows import HeldRows
from weft.runtime.simulator import ToyExecutor


def constrain(rows: int, *arguments: Any) -> None:
    """What `passes.tile.rows.constrain` says, row by row."""
    values = [a.numpy() if isinstance(a, torch.Tensor) else a for a in arguments[5:]]
    source, start, left, drawn, before, spelled, letters, moves, *rest = values
    entry, most, masks_of, masks, states, allowed = rest
    for row in range(rows):
        state, at = start[row], source[row]
        if at >= 0:
            state = before[at]
            for letter in letters[spelled[drawn[at]] : spelled[drawn[at] + 1]]:
                state = moves[state, letter]
        states[row] = state
        allowed[row] = masks[masks_of[entry[state] + min(left[row], most[state])]]


class AheadExecutor(ToyExecutor):
    """Takes the tokens that the host does not know from its own last draw."""

    asynchronous = True

    def __init__(self, *arguments: Any, **limits: Any) -> None:
        super().__init__(*arguments, **limits)
        self.drawn = np.zeros(self.max_batch, np.int32)
        words = -(-self.vocab_size // 32)
        self.everything = torch.full((self.max_batch, words), -1, dtype=torch.int32)
        drawn = torch.from_numpy(self.drawn)
        self.held = HeldRows(self.vocab_size, drawn, self.everything, constrain)
        self.fed = 0

    def forward(self, step: Any, source: np.ndarray | None = None) -> torch.Tensor:
        if source is not None:
            unknown = source >= 0
            step.tokens.numpy()[unknown] = self.drawn[source[unknown]]
            self.fed += int(unknown.sum())
        return super().forward(step)


class AheadSampler:
    """Draws at once, on the "device", and tells the host when it waits."""

    def __init__(self, executor: AheadExecutor) -> None:
        self._executor = executor

    def start(self, logits: torch.Tensor, mask: Any, *settings: Any) -> Landed:
        mask = self._executor.everything[: len(logits)] if mask is None else mask
        drawn = sample_rows(logits, mask, *settings)
        self._executor.drawn[:] = -1  # what an older draw gave is gone
        self._executor.drawn[: len(logits)] = drawn[0].numpy()
        return Landed(drawn)
