"""Recorded decode steps by their room; a room that few steps ask for borrows a larger one's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .lists import Room
from .staging import Layout

WORTH = 4
"""Steps of a room, near one another, after which it is recorded: that takes as long as some of
them, and while rows end every step is of another room."""

NEAR = 64
"""Steps between two of a room after which those before are not near any more."""

OFTEN = 16
"""Steps of a room, wherever they are, after which it is recorded all the same."""


@dataclass(frozen=True)
class Recorded:
    """Decode steps of one room, recorded: where inputs lie, how to launch, where logits come."""

    room: Room
    layout: Layout
    replay: Callable[[], None]
    logits: Tensor


class Recordings:
    """What has been recorded, and how often rooms were asked for that have not."""

    def __init__(self) -> None:
        self._known: dict[Room, Recorded] = {}
        self._asked: dict[Room, tuple[int, int, int]] = {}
        self._steps = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(
        self, room: Room, record: Callable[[Room], Recorded],
        fits: Callable[[Room], bool] = lambda room: False,
    ) -> Recorded | None:  # fmt: skip
        """Return the recording of a room, or of the smallest one that holds it or into which the
        step `fits`, cut in another way; else record.

        None: not recorded, as nothing holds the step, and it is the first one of its kind.
        """
        self._steps += 1
        known = self._known.get(room)
        if known is not None:
            return known
        near, total, last = self._asked.pop(room, (0, 0, 0))
        near, total = near + 1 if self._steps - last <= NEAR else 1, total + 1
        if near < WORTH and total < OFTEN:
            found = self._lent(room, fits)
            if found is not None or total == 1:
                self._asked[room] = near, total, self._steps
                return found
        known = self._known[room] = record(room)
        return known

    def _lent(self, room: Room, fits: Callable[[Room], bool]) -> Recorded | None:
        """Return the smallest recording that a step of another room can be replayed by."""
        larger = sorted((other for other in self._known if other.rows >= room.rows),
                        key=lambda other: (other.rows, other.places))  # fmt: skip
        held = next((other for other in larger if other.holds(room)), None)
        found = held or next((other for other in larger if fits(other)), None)
        return None if found is None else self._known[found]
