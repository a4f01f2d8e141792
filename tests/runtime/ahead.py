"""A toy model with the manners of a GPU: steps are launched before the last draw is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from weft.runtime.flight import Landed
from weft.runtime.sampler import sample_rows
from weft.runtime.simulator import ToyExecutor


class AheadExecutor(ToyExecutor):
    """Takes the tokens that the host does not know from its own last draw."""

    asynchronous = True

    def __init__(self, *arguments: Any, **limits: Any) -> None:
        super().__init__(*arguments, **limits)
        self.drawn = np.zeros(self.max_batch, np.int32)
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

    def start(self, logits: torch.Tensor, *settings: Any) -> Landed:
        drawn = sample_rows(logits, *settings)
        self._executor.drawn[:] = -1  # what an older draw gave is gone
        self._executor.drawn[: len(logits)] = drawn[0].numpy()
        return Landed(drawn)
