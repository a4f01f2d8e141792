"""A step's integers on their way to a device: filled in pinned memory, sent in one piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ir.diagnostics import CapacityError
from .pinned import staged

ALIGNMENT = 64
"""Integers at whose multiples arrays begin: 256 bytes, so that kernels may read them in blocks."""

DEPTH = 3
"""Steps that may be on their way at once: one runs, one waits behind it, one is being filled."""


CARRIED = 1 << 14
"""Integers up to which a kernel takes them across the link: 64 KB. More are copied by an engine,
which a device begins with 5 us late, and goes on from as late. Between two recorded steps of a row,
of 1,000 integers, an H200 did nothing for 18 us so, and does for 7."""

Carry = Callable[[int, Tensor, Tensor], Any]
"""Launches the kernel that takes so many integers from one tensor to another:
`passes/tile/rows/feed.py`."""


class ListsTooLong(CapacityError):
    """A step whose lists are longer than the buffers on their way to the device."""

    template = "a step's lists of {wanted} integers exceed the {capacity} that are sent at once"
    hint = "lower max_tokens or max_batch"


@dataclass(frozen=True)
class Layout:
    """Where arrays of int32 lie in a buffer: name -> (offset, size); `end` is behind the last."""

    places: dict[str, tuple[int, int]]
    end: int

    @staticmethod
    def of(sizes: Iterable[tuple[str, int]]) -> Layout:
        """Return the layout of arrays in the given order."""
        places, at = {}, 0
        for name, size in sizes:
            places[name] = (at, size)
            at += -(-size // ALIGNMENT) * ALIGNMENT
        return Layout(places, at)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Return the arrays of a buffer."""
        return {name: buffer[at : at + size] for name, (at, size) in self.places.items()}


class Staging:
    """Buffers of int32: `DEPTH` on the host, taken in turn, and one on the device.

    A host buffer is filled again only after its copy to the device has ended. The device's buffer
    is overwritten in stream order: after the step that read it. Without `carry` all is copied.
    """

    def __init__(
        self, capacity: int, device: torch.device, carry: Carry | None = None
    ) -> None:  # fmt: skip
        self.capacity, self._carry = capacity, carry
        self.device = torch.zeros(capacity, dtype=torch.int32, device=device)
        self._on_gpu = device.type == "cuda"
        self._host = [staged((capacity,), torch.int32, self._on_gpu) for _ in range(DEPTH)]
        self._arrays = [tensor.numpy() for tensor in self._host]
        self._sent = [torch.cuda.Event() if self._on_gpu else None for _ in range(DEPTH)]
        self._turn = 0

    def open(self) -> np.ndarray:
        """Return the next host buffer, free to be filled."""
        self._turn = (self._turn + 1) % DEPTH
        event = self._sent[self._turn]
        if event is not None:
            event.synchronize()
        return self._arrays[self._turn]

    def fill(
        self, layout: Layout, given: Mapping[str, np.ndarray],
        filling: Callable[[str, np.ndarray], int],
    ) -> None:  # fmt: skip
        """Send the arrays of a layout. Where a place is larger than its array, `filling` says what
        the rest holds; of the last place it is not sent."""
        last, (at, _) = [*layout.places.items()][-1]
        end = at + len(given[last])
        if end > self.capacity:
            raise ListsTooLong(wanted=end, capacity=self.capacity)
        buffer = self.open()
        for name, (at, size) in layout.places.items():
            array = given[name]
            count = len(array)
            buffer[at : at + count] = array
            if count < size and name != last:
                buffer[at + count : at + size] = filling(name, array)
        self.send(end)

    def send(self, count: int) -> None:
        """Copy the first `count` integers of the opened buffer to the device, without waiting."""
        source, target = self._host[self._turn][:count], self.device[:count]
        if self._carry is not None and count <= CARRIED:
            self._carry(count, source, target)
        else:
            target.copy_(source, non_blocking=True)
        event = self._sent[self._turn]
        if event is not None:
            event.record()
