"""What a kernel holds beside counts: its buffers, the ranks of its accesses, shapes, meetings."""

from __future__ import annotations

import string
from collections.abc import Iterator
from math import prod

from ..core import Operation, walk
from ..expression import names, problem_of
from ..types import shape_of
from . import region_checks

WRITES = frozenset({"tile.store", "tile.atomic_add", "tile.meet", "tile.last"})
"""Operations that change the buffer that they name first."""


def kernel(operation: Operation) -> str | None:
    """Check that a kernel names buffers of its own, all that it writes among them, and meets in no
    loop."""
    (region,) = operation.regions
    buffers = {value.name for value in region.arguments if value.type.name == "buffer"}
    written, given = operation.attribute("writes", ()), operation.attribute("given", ())
    for name in (*written, *given):
        if name not in buffers:
            return f"{name!r} is no buffer of its own"
    for text in (*operation["grid"], *operation.attribute("requires", ())):
        if problem := problem_of(text):
            return problem
    for inner in walk(region.operations):
        if inner.name in WRITES and inner.operands[0].name not in written:
            return f"it writes to %{inner.operands[0].name}, which `writes` does not name"
        if inner.name == "tile.program_id" and inner["axis"] not in range(len(operation["grid"])):
            return f"its grid has no axis {inner['axis']}"
    return region_checks.returns(operation) or _meetings(operation)


def _meetings(kernel: Operation) -> str | None:
    """Check that programs meet at the kernel's top, and that nothing of before is used after."""
    (region,) = kernel.regions
    before: set[str] = set()
    known: set[str] = set()
    for operation in region.operations:
        for inner in walk((operation,)):
            if inner.name == "tile.meet" and inner is not operation:
                return "programs meet within a loop"
            for value in inner.operands:
                if value.name in before and operation.name != "tile.meet":
                    return f"%{value.name} is made before a meeting, and used after it"
        if operation.name == "tile.meet":
            before |= known
        known |= {value.name for value in operation.results}
    return None


def access(operation: Operation) -> str | None:
    """Check that an access is of a buffer, by one index a dimension."""
    buffer, *rest = operation.operands
    if buffer.type.name != "buffer":
        return f"%{buffer.name} is {buffer.type}, and no buffer"
    valued = operation.name in ("tile.store", "tile.atomic_add")
    indices = len(rest) - valued - bool(operation.attribute("masked"))
    rank = len(shape_of(buffer.type))
    return None if indices == rank else f"{indices} indices into {rank} dimensions"


def mapped(operation: Operation) -> str | None:
    """Check that an expression is of the operands."""
    if problem := problem_of(operation["expr"]):
        return problem
    letters = string.ascii_lowercase[: len(operation.operands)]
    unknown = [name for name in names(operation["expr"]) if name not in letters]
    return f"its expression names {unknown[0]!r}, which is no operand" if unknown else None


def reshaped(operation: Operation) -> str | None:
    """Check the shape of what gives the elements of its first operand in another one."""
    have = shape_of(operation.result.type)
    for wanted in _shapes(operation):
        if have != wanted:
            return f"it gives {list(have)}, where {list(wanted)} belongs"
    return None


def _shapes(operation: Operation) -> Iterator[tuple[object, ...]]:
    """Yield the shape that a result must have; nothing where no shape does."""
    shape, have = shape_of(operation.operands[0].type), shape_of(operation.result.type)
    axis = operation.attribute("axis", 0)
    match operation.name:
        case "tile.reduce" | "tile.argmax":
            yield (*shape[:axis], *shape[axis + 1 :])
        case "tile.expand":
            yield (*shape[:axis], 1, *shape[axis:])
        case "tile.transpose":
            yield shape[::-1]
        case "tile.reshape" if prod(map(int, shape)) != prod(map(int, have)):  # type: ignore[arg-type]
            yield shape


def product(operation: Operation) -> str | None:
    """Check the shapes of a product, and that it gives what it adds to."""
    a, b, acc = (shape_of(value.type) for value in operation.operands)
    n, k = b if operation.attribute("transpose_b") else b[::-1]
    if a[1] != k or acc != (a[0], n) or operation.result.type != operation.operands[2].type:
        types = ", ".join(str(value.type) for value in (*operation.operands, operation.result))
        return f"{types} are no product"
    return None
