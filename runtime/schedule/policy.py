"""Who goes first, and when waiting for another's prefill pays."""

from __future__ import annotations

from dataclasses import dataclass

from .request import Request

Key = tuple[float, ...]
"""Where a request stands in the waiting queue; smaller goes first."""


@dataclass(frozen=True)
class Policy:
    """What is farthest from its program's end goes first; what waits longer catches up.

    With enough pages the longest path goes first (Hu, Operations Research 9, 1961: highest level
    first), so that no join waits for a branch that began late, and all rows end together instead of
    the last ones in a half-empty batch. Each step of waiting counts as `aging` tokens of path: so
    no request starves, and where paths are equally long, as in a loop, rows take turns. It is a
    part of a token, as whoever waits loses nothing while steps are full: where short gens that have
    waited go before a long one that comes late, that one runs alone at the end.

    A prompt that is only filled, for branches to go on from, yields no token yet: its path does not
    count, only its age. The first rows' branches run while other rows' prompts are to come.

    Where more than `scarce` of the pages are in use, and what all rows will hold at their ends is
    more than `nearly` of what there is, the oldest row goes first: it ends soonest and gives its
    pages back, and no younger one takes those that it will need. Gens mostly end before their
    budget, and rows one after another, so that somewhat more than all pages still fits. The same
    where the prefix tree has just had to forget what an open row is sure to read again.

    A prompt whose beginning another row is just computing waits for it if that saves at least
    `least_gain` tokens; the others' steps go on meanwhile. Branches of a fork always wait for the
    first of them to compute what stands before it.

    Rows that run may take turns with those that wait: see `turns`. One that has come `turn` tokens
    nearer to its end than one that waits gives it its place. Simulated, `adapters` took 34 steps
    so, and 37 with turns of 8.
    """

    least_gain: int = 1
    aging: float = 0.25
    turn: int = 4
    scarce: float = 0.7
    nearly: float = 1.2

    def key(self, request: Request, pressed: bool = False) -> Key:
        """Return where a request stands in the waiting queue."""
        if pressed:
            return request.order
        path = self.urgency(request, request.produced)
        return (path if request.needs_logits else self.aging * request.arrived, *request.order)

    def urgency(self, request: Request, produced: int) -> float:
        """Return where a model call with so many new tokens stands among others; smaller goes
        first."""
        return self.aging * request.arrived - max(0, request.critical - produced)

    def pressed(self, live: int, pages: int) -> bool:
        """Say whether pages are scarce, with so many live of all."""
        return live > self.scarce * pages

    def fits(self, expected: int, pages: int) -> bool:
        """Say whether all rows may go on side by side, of which so many pages are expected."""
        return expected <= self.nearly * pages

    def waits(self, gain: int) -> bool:
        """Say whether a prompt should wait for `gain` tokens that another computes."""
        return gain >= self.least_gain
