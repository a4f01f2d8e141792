"""Who goes first, and when waiting for another's prefill pays."""

from __future__ import annotations

from dataclasses import dataclass

from .request import Request


@dataclass(frozen=True)
class Policy:
    """Oldest row first; within a row, what is farthest from the program's end.

    Few rows are open at any time, and no request starves: only its own row's and older rows' go
    before it. Within a row the longest path to the end goes first (Hu, Operations Research 9,
    1961: highest level first), so that no join waits for a branch that began late.

    A prompt whose beginning another row is just computing waits for it if that saves at least
    `least_gain` tokens; the others' steps go on meanwhile.
    """

    least_gain: int = 1

    def key(self, request: Request) -> tuple[int, ...]:
        """Return the sort key in the waiting queue; smaller goes first."""
        row, *spawned = request.order
        return (row, -request.critical, *spawned)

    def waits(self, gain: int) -> bool:
        """Say whether a prompt should wait for `gain` tokens that another computes."""
        return gain >= self.least_gain
