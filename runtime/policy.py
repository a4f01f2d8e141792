"""Who goes first, and when waiting for another's prefill pays."""

from __future__ import annotations

from dataclasses import dataclass

from .request import Request


@dataclass(frozen=True)
class Policy:
    """Oldest row first, and within a row the oldest branch: few rows are open at any time.

    A prompt whose beginning another row is just computing waits for it if that saves at least
    `least_gain` tokens; the others' steps go on meanwhile.
    """

    least_gain: int = 1

    def key(self, request: Request) -> tuple[int, ...]:
        """Return the sort key in the waiting queue; smaller goes first."""
        return request.order

    def waits(self, gain: int) -> bool:
        """Say whether a prompt should wait for `gain` tokens that another computes."""
        return gain >= self.least_gain
