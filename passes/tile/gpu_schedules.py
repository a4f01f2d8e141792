"""How kernels are scheduled on a GPU: warps and stages by what they compute and how wide it is."""

from __future__ import annotations

from ...ir.core import Operation, walk
from ...ir.schedule import Schedule
from ...ir.tile import extents_of

WIDE = 2048
"""A row of this many elements is shared by eight warps: sixteen bytes a thread and more."""


def gpu_schedule(kernel: Operation) -> Schedule:
    """Return the schedule of a kernel; products stream through three stages of shared memory."""
    if any(operation.name == "tile.dot" for operation in walk(kernel.regions[0].operations)):
        return Schedule(num_warps=4, num_stages=3)
    return Schedule(num_warps=8 if _widest(kernel) >= WIDE else 4)


def _widest(kernel: Operation) -> int:
    """Return the elements of the kernel's largest tile."""
    widest = 1
    for operation in walk(kernel.regions[0].operations):
        for value in operation.results:
            count = 1
            for extent in extents_of(value.type):
                count *= extent
            widest = max(widest, count)
    return widest
