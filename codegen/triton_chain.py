"""Kernels that are launched while the one before still runs: where each waits, and where it lets
the next one come (programmatic dependent launch; PTX: griddepcontrol.wait, .launch_dependents).

Where a kernel lets the next one come changes no result: the next one's own wait ends when this one
has ended and its writes are seen, however early it came. As all kernels wait, what they saw written
is written for the next one, too. So only the wait's place is one of what may be read: in front of
it stand but loads of what was `given` before the step, which no kernel of it writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.core import Operation
from ..ir.expression import read
from ..ir.schedule import Schedule
from .triton_expressions import HostWriter

WAIT = "tl.extra.cuda.gdc_wait()"
COME = "tl.extra.cuda.gdc_launch_dependents()"
_WRITES = frozenset({"tile.store", "tile.atomic_add"})


def in_order(kernel: Operation, schedule: Schedule) -> Iterator[Operation | str]:
    """Return a kernel's operations, and between them the lines that its schedule asks for.

    One that is chained waits, and but for what was `given` before it loads nothing first. Then it
    lets the next one come, or just before its first write of all where that is its `last` act: a
    kernel of a program a row has the device nearly to itself, and thousands of programs that came
    to wait would share the few multiprocessors with it. One beside the kernel before is there
    because all of that one's programs have waited.
    """
    operations = kernel.regions[0].operations
    if not schedule.chained:
        yield from operations
    elif schedule.beside:
        yield COME
        yield from operations
        yield f"if {_is_last(kernel)}:"
        yield f"    {WAIT}"
    else:
        waits = waits_from(kernel)
        comes = max(waits, first_write(kernel)) if schedule.late else waits
        yield from operations[:waits]
        yield WAIT
        yield from operations[waits:comes]
        yield COME
        yield from operations[comes:]


def waits_from(kernel: Operation) -> int:
    """Return the first operation of a kernel that must wait for the kernel before: of one that has
    `given` buffers, a loop or what touches another; else the first of all."""
    given = kernel.attribute("given") or ()
    operations = kernel.regions[0].operations
    for place, operation in enumerate(operations):
        touches = operation.name in _WRITES or (
            operation.name == "tile.load" and operation.operands[0].name not in given
        )
        if not given or touches or operation.regions:
            return place
    return len(operations)


def first_write(kernel: Operation) -> int:
    """Return the first operation of a kernel, outside of loops, that writes; their number if none
    does."""
    operations = kernel.regions[0].operations
    places = (at for at, operation in enumerate(operations) if operation.name in _WRITES)
    return next(places, len(operations))


def _is_last(kernel: Operation) -> str:
    """Return the text of whether a program is the last of the grid."""
    extents = [read(extent, HostWriter()) for extent in kernel["grid"]]
    return " & ".join(f"(tl.program_id({axis}) == {extent} - 1)"
                      for axis, extent in enumerate(extents))  # fmt: skip
