"""What each step did and how long it took; nothing is recorded unless a trace is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class StepRecord(NamedTuple):
    """One step: when, how much, and the seconds in the model, the sampler and the host."""

    start: float
    running: int
    prefill_tokens: int
    kv_tokens: int
    model_seconds: float
    sample_seconds: float
    host_seconds: float


@dataclass
class Trace:
    """The records of a run, in order."""

    steps: list[StepRecord] = field(default_factory=list)

    def decode_steps(self) -> list[StepRecord]:
        """Return the steps that did nothing but decode."""
        return [step for step in self.steps if step.running and not step.prefill_tokens]
