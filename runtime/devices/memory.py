"""A device's memory under a cap: every tensor is counted, and small ones share blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ir.diagnostics import CapacityError
from ...ir.display.units import sizes
from .zeros import zeros

MIB = 1 << 20
BLOCK, SMALL = 32 * MIB, 0.25
"""Bytes of the blocks that small tensors are cut from on a GPU, and the share of one from which on
a tensor has memory of its own."""


class DeviceMemoryExceeded(CapacityError):
    """An allocation beyond the cap of a device's memory."""

    template = (
        "{what}: {need} of GPU memory are needed, but of {cap} only {left} are left: {over} are "
        "missing"
    )
    hint = "raise --gpu-memory, or lower max_tokens or max_batch"


@dataclass
class Memory:
    """A device's memory: every tensor on it is asked for here, and none beyond the cap.

    `cap` is in bytes; `used` counts what is held, rounded up to 256 bytes a tensor. Small tensors
    are cut from blocks of `block` bytes (0: each has memory of its own): a GPU's allocator takes 20
    MiB for a tensor of 1, and cuts what is large from what it has kept, which is lost then.
    """

    place: str
    cap: int
    used: int = 0
    peak: int = 0
    held: dict[str, int] = field(default_factory=dict)
    block: int = 0
    _rest: Tensor | None = None

    def allocate(self, what: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a zeroed tensor on the device; raises DeviceMemoryExceeded."""
        size = rounded(torch.Size(shape).numel() * dtype.itemsize)
        left = self.cap - self.used
        if size > left:
            raise DeviceMemoryExceeded(
                what=what, **sizes(need=size, cap=self.cap, left=left, over=size - left)
            )
        self.used += size
        self.peak = max(self.peak, self.used)
        self.held[what] = self.held.get(what, 0) + size
        numbers = torch.Size(shape).numel() * dtype.itemsize
        return self._bytes(size)[:numbers].view(dtype).view(shape)

    def _bytes(self, size: int) -> Tensor:
        if size > self.block * SMALL:
            self._give_back()
            return zeros((size,), torch.uint8, self.place)
        if self._rest is None or self._rest.numel() < size:
            self._give_back()
            self._rest = zeros((self.block,), torch.uint8, self.place)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _give_back(self) -> None:
        """Give the device what nothing holds: a part of it could be taken, and the rest lost."""
        if self.place.startswith("cuda"):
            torch.cuda.empty_cache()

    def hold(self, what: str, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor on the device."""
        kept = self.allocate(what, tuple(tensor.shape), tensor.dtype)
        return kept.copy_(tensor)


def rounded(size: int) -> int:
    """Return the bytes that a tensor of so many takes: allocators give multiples of 256."""
    return -(-size // 256) * 256
