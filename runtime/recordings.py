"""Recorded decode steps by their room; a room that few steps ask for borrows a larger one's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .lists import Room
from .staging import Layout

WORTH = 3
"""Steps of a room that borrow a larger one's recording: to record takes as long as some steps."""


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
        self._asked: dict[Room, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, room: Room, record: Callable[[Room], Recorded]) -> Recorded:
        """Return the recording of a room, or of the smallest one that holds it; else record."""
        known = self._known.get(room)
        if known is not None:
            return known
        asked = self._asked[room] = self._asked.get(room, 0) + 1
        if asked < WORTH:
            larger = [other for other in self._known if other.holds(room)]
            if larger:
                return self._known[min(larger, key=lambda other: (other.rows, other.places))]
        del self._asked[room]
        known = self._known[room] = record(room)
        return known
