"""Pages narrower on their way than kernels read them: where they arrive, and are widened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..devices.streams import OffloadDevice
from .narrow import unpack_into
from .twelve_bits import RARE, Widen, widen

QUEUE = "widen"
"""The stream that widens: copies go on meanwhile, a part's into the room of the other."""


@dataclass
class Packed:
    """Room on the device for each part of a page that is packed; `widen` makes bf16 of bf12.

    Pages come on one stream. A part's room is written again once what it held has been widened.
    """

    device: OffloadDevice
    rooms: Mapping[str, Tensor]
    widen: Widen = widen
    _ends: dict[str, Any] = field(default_factory=dict)

    def bring(
        self, role: str, target: Tensor, source: Mapping[str, Tensor],
        by: Callable[[Tensor, Tensor], None],
    ) -> Any:  # fmt: skip
        """Copy a part in the order of the current stream, and widen it beside; return the event of
        its end (None: it is done)."""
        self.device.hold_until(self._ends.get(role))
        words, rare = self.rooms[role], self.rooms.get(role + RARE)
        by(words, source[role])
        if rare is not None:
            by(rare, source[role + RARE])

        def wide() -> None:
            if rare is None:
                unpack_into(target, words)
            else:
                self.widen(target, words, rare)

        self._ends[role] = end = self.device.beside(QUEUE, wide)
        return end
