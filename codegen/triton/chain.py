"""Kernels that are launched while the one before still runs: where each waits, and where it lets
the next one come (programmatic dependent launch; PTX: griddepcontrol.wait, .launch_dependents).

Where a kernel lets the next one come changes no result: the next one's own wait ends when this
one has ended and its writes are seen, however early it came. As all kernels wait, what they saw
written is written for the next one, too. Only the wait's place matters: in front of it stand but
loads of what was `given` before the step, which nothing in it writes (passes/tile/given.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.core import Operation
from ...ir.schedule import Schedule

WAIT = "tl.extra.cuda.gdc_wait()"
COME = "tl.extra.cuda.gdc_launch_dependents()"
_WRITES = frozenset({"tile.store", "tile.atomic_add", "tile.last"})


def in_order(kernel: Operation, schedule: Schedule) -> Iterator[Operation | str]:
    """Return a kernel's operations, and between them the lines that its schedule asks for.

    One that is chained waits before all but its `early` operations; then it lets the next one come:
    sooner, if it `opens`, and later, just before the first write, was no faster. One beside the
    kernel before is there because all of that one's programs have waited, so that none such opens.
    One that is not chained needs no wait: the kernel before has ended.
    """
    operations = kernel.regions[0].operations
    if not schedule.chained:
        if schedule.opens:
            yield COME
        yield from operations
    elif schedule.beside:
        yield COME
        yield from operations
        yield f"if {_is_last(kernel)}:"
        yield f"    {WAIT}"
    else:
        first, rest = early(kernel)
        yield from [COME] * schedule.opens
        yield from first
        yield WAIT
        yield from [COME] * (not schedule.opens)
        yield from rest


def early(kernel: Operation) -> tuple[list[Operation], list[Operation]]:
    """Return what a kernel may do before it waits for the kernel before, and the rest: loads of
    `given` buffers before its first loop, and what those need."""
    region, given = kernel.regions[0], kernel.attribute("given") or ()
    makers: dict[str, Operation] = {}
    known = {argument.name for argument in region.arguments}
    found: list[str] = []
    for operation in region.operations:
        if operation.regions:
            break
        loads = operation.name == "tile.load"
        if operation.name in _WRITES or (loads and operation.operands[0].name not in given):
            continue
        if all(value.name in known for value in operation.operands):
            results = [value.name for value in operation.results]
            known.update(results)
            makers |= dict.fromkeys(results, operation)
            found += results if loads else []
    needed: set[int] = set()
    while found:
        maker = makers.get(found.pop())
        if maker is not None and id(maker) not in needed:
            needed.add(id(maker))
            found += [value.name for value in maker.operands]
    first = [operation for operation in region.operations if id(operation) in needed]
    return first, [operation for operation in region.operations if id(operation) not in needed]


def _is_last(kernel: Operation) -> str:
    """Return the text of whether a program is the last of the grid. How many there are is asked of
    the launch: a grid's own text is the host's, where -7 // 4 is -2, and -1 on a GPU."""
    return " & ".join(f"(tl.program_id({axis}) == tl.num_programs({axis}) - 1)"
                      for axis in range(len(kernel["grid"])))  # fmt: skip
