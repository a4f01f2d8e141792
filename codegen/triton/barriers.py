"""Where a program reads what other threads of it have written: a barrier stands in front.

The tile dialect has no threads: a program does one operation after another. A GPU's threads each
write a part of a tile, and may read another's; until all have written, what they read is old.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...ir.core import Operation, walk

BARRIER = "tl.debug_barrier()"
_WRITES = frozenset({"tile.store", "tile.atomic_add"})


def behind_barriers(kernel: Operation) -> set[int]:
    """Return the `id`s of the loads that need a barrier before them: of a buffer that the program
    has written since the last one, or may have in a round before of a loop around it. Meetings are
    barriers."""
    found: set[int] = set()
    _visit(kernel.regions[0].operations, set(), found)
    return found


def _visit(operations: Iterable[Operation], written: set[str], found: set[int]) -> set[str]:
    """Return what is written behind some operations, of which none has been waited for."""
    for operation in operations:
        if operation.name in _WRITES:
            written = written | {operation.operands[0].name}
        elif operation.name in ("tile.meet", "tile.last"):
            written = set()
        elif operation.name == "tile.load" and operation.operands[0].name in written:
            found.add(id(operation))
            written = set()
        for region in operation.regions:
            inside = {op.operands[0].name for op in walk(region.operations) if op.name in _WRITES}
            written = written | _visit(region.operations, written | inside, found)
    return written
