"""Recorded steps by their room; a room that few steps ask for borrows a larger one's.

When to record is the problem of renting or buying: a step that borrows loses something, and a
recording costs what it costs, be it used once more or a thousand times. Buying when the loss has
come to the cost is never worse than twice the best (Karlin et al., Algorithmica 3, 1988). All
constants are fixed, so that ranks decide alike: recorded steps exchange.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..attention.rooms import Room
from ..devices.staging import Layout

COST = 13e-3
"""Seconds that a recording takes, on an H200 with 32 layers."""

ROW, LENT = 2e-5, 2.5e-4
"""Seconds that a step loses in another's recording: for each row that does nothing, and besides,
as its lists are longer and its kernels those of more rows."""

LOGIT = 1.5e-6
"""The same for each row of logits that nothing asks for, of 128 K words."""

ITEM = 1e-6
"""The same for each item of attention that has no keys, in a step of prompts of 32 layers. Where
steps of few items were lent what many have, W2 took an H200 624.6 ms, not 620.6, and W3 641.4, not
639.3 (medians of seven, in turn)."""

LAUNCHED = 7e-3
"""Seconds lost where a step is launched kernel by kernel, as no recording holds it, or none that
loses less: half a recording, as it may be the only one of its kind."""


@dataclass(frozen=True)
class Recorded:
    """Steps of one room, recorded: where inputs lie, how to launch, where logits come."""

    room: Room
    layout: Layout
    replay: Callable[[], None]
    logits: Tensor


Fits = Callable[[Room], float | None]
"""Seconds that a step would lose, its lists cut in another way to fit a room; None: none fit."""


class Recordings:
    """What has been recorded, at most `most` rooms (0: all that are worth it), and what steps of
    rooms that have not been lost so far. What loses `lent` seconds or more is not lent."""

    def __init__(self, cost: float = COST, most: int = 0, lent: float = LAUNCHED) -> None:
        self.cost, self._most, self._lent_for = cost, most, lent
        self._known: dict[Room, Recorded] = {}
        self._lost: dict[Room, float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(
        self, room: Room, record: Callable[[Room], Recorded], fits: Fits = lambda room: None
    ) -> Recorded | None:  # fmt: skip
        """Return the recording of a room, or of the smallest one that holds it or into which the
        step `fits`, cut in another way; else record.

        None: not recorded, as nothing holds the step, and it is the first one of its kind.
        """
        known = self._known.get(room)
        if known is not None:
            return known
        found, loss = self._lent(room, fits)
        lost = self._lost.pop(room, 0.0) + loss
        if lost < self.cost or (self._most and len(self._known) >= self._most):
            self._lost[room] = lost
            return found
        known = self._known[room] = record(room)
        return known

    def keep(self, room: Room, record: Callable[[Room], Recorded]) -> None:
        """Record a room before any step asks for it."""
        if room not in self._known:
            self._known[room] = record(room)

    def _lent(self, room: Room, fits: Fits) -> tuple[Recorded | None, float]:
        """Return the smallest recording that a step of another room can be replayed by, and the
        seconds that it loses so."""
        larger = [(_empty(other, room), other) for other in self._known if other.rows >= room.rows]
        larger = sorted((pair for pair in larger if pair[0] < self._lent_for),
                        key=lambda pair: (pair[1].rows, pair[0], pair[1].places))  # fmt: skip
        for take in (lambda other: 0.0 if other.holds(room) else None, fits):
            for empty, other in larger:
                loss = take(other)
                if loss is not None and empty + loss < self._lent_for:
                    return self._known[other], empty + loss
        return None, LAUNCHED


def _empty(other: Room, room: Room) -> float:
    """Return the seconds that a step of a room loses by places of another that have nothing."""
    places = LOGIT * (other.logits - room.logits) + ITEM * (other.items - room.items)
    return LENT + ROW * (other.rows - room.rows) + places
