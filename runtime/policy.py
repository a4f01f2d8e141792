"""Who goes first, and when waiting for another's prefill pays."""

from __future__ import annotations

from dataclasses import dataclass

from .request import Request


@dataclass(frozen=True)
class Policy:
    """Oldest row first, and within a row the oldest branch: few rows are open at any time.

    A request whose prefix another is just computing waits for it if that saves at least
    `root_gain` tokens (a row's prompt) or `fork_gain` tokens (a branch: waiting delays the join).
    """

    root_gain: int = 1
    fork_gain: int = 16

    def key(self, request: Request) -> tuple[int, ...]:
        """Return the sort key in the waiting queue; smaller goes first."""
        return request.order

    def waits(self, request: Request, gain: int) -> bool:
        """Say whether `request` should wait for `gain` tokens that another computes."""
        forked = request.sequence.fresh_from > 0
        return gain >= (self.fork_gain if forked else self.root_gain)
