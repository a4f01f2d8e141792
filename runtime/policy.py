"""Who goes first, and when waiting for another's prefill pays."""

from __future__ import annotations

from dataclasses import dataclass

from .request import Request


@dataclass(frozen=True)
class Policy:
    """What is farthest from its program's end goes first; a row that waits longer catches up.

    The longest path goes first (Hu, Operations Research 9, 1961: highest level first), so that no
    join waits for a branch that began late, and a batch does not end with one long row. A row that
    started n rows later goes first only if its path is more than n times `aging` tokens longer:
    so no request starves.

    A prompt whose beginning another row is just computing waits for it if that saves at least
    `least_gain` tokens; the others' steps go on meanwhile.
    """

    least_gain: int = 1
    aging: int = 1

    def key(self, request: Request) -> tuple[int, ...]:
        """Return the sort key in the waiting queue; smaller goes first."""
        row = request.order[0]
        return (self.aging * row - request.critical, *request.order)

    def waits(self, gain: int) -> bool:
        """Say whether a prompt should wait for `gain` tokens that another computes."""
        return gain >= self.least_gain
