"""What each step did and how long it took; nothing is recorded unless a trace is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class StepRecord(NamedTuple):
    """One step: when, how much, and the seconds in the model, the sampler and the host."""

    start: float
    running: int
    prefill_tokens: int
    kv_tokens: int
    model_seconds: float
    sample_seconds: float
    host_seconds: float


class CallRecord(NamedTuple):
    """One entry of the log of model calls, as they began to be computed.

    kind `call`: it sent `tokens[:prompt]`, and needed logits from position `first_logits` on (more
    tokens than the prompt are those that its constraint forced). `fill`: tokens were made resident
    and nothing sent. `known`: what a generation had left when it ended.
    """

    kind: str
    tokens: np.ndarray
    prompt: int
    first_logits: int


@dataclass
class Trace:
    """The records of a run, in order."""

    steps: list[StepRecord] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)

    def decode_steps(self) -> list[StepRecord]:
        """Return the steps that did nothing but decode."""
        return [step for step in self.steps if step.running and not step.prefill_tokens]
