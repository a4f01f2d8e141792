"""KV liveness: a kv that nothing moves on is freed right after its last use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ....ir.core import Module, Operation, Region, Value, make, walk
from ....ir.types import KV
from ...manager import Context, PlanPass

BORROWS = {"plan.fork", "plan.score"}
"""Operations that read a kv and leave it as it is; all others move it into their result."""

EXITS = {"plan.return", "plan.leave"}
"""What ends more than its own region."""

LOOPS = frozenset({"plan.for", "plan.while"})


@dataclass(frozen=True)
class FreeKV(PlanPass):
    """Insert `plan.free` after the last use of each kv that is not moved into another value.

    A kv that only one region of an `if` moves is freed in the other, after its last use there.
    """

    name: ClassVar[str] = "free-kv"
    requires: ClassVar[tuple[str, ...]] = ("planned",)
    ensures: ClassVar[tuple[str, ...]] = ("freed",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with every kv moved or freed on every path."""
        return Module(tuple(self._operation(op, context) for op in module.operations))

    def _operation(self, operation: Operation, context: Context) -> Operation:
        regions = tuple(self._region(region, context) for region in operation.regions)
        operation = replace(operation, regions=regions)
        return _balance_if(operation) if operation.name == "plan.if" else operation

    def _region(self, region: Region, context: Context) -> Region:
        operations = [self._operation(op, context) for op in region.operations]
        if not operations:
            return region
        owned = [value for value in region.arguments if value.type == KV]
        owned += [value for op in operations for value in op.results if value.type == KV]
        moved = {name for operation in operations for name in _moved(operation)}
        for value in owned:
            if value.name not in moved:
                _insert_free(operations, value)
                span = next((op.span for op in operations if value in op.results), None)
                context.did(f"%{value.name} is used for the last time", span)
        return replace(region, operations=tuple(operations))


def _moved(operation: Operation) -> Iterator[str]:
    """Yield what the operation, or one inside it after which the region goes on, takes over."""
    for inner in _going_on(operation):
        if inner.name not in BORROWS:
            yield from (value.name for value in inner.operands)


def _going_on(operation: Operation) -> Iterator[Operation]:
    """Yield an operation and those inside it, without the one region of an if that exits, and
    without a loop's that does: what stands behind the loop runs where it had no round."""
    yield operation
    exits = [_exits(region) for region in operation.regions]
    split = (operation.name == "plan.if" and sum(exits) == 1) or operation.name in LOOPS
    for region, leaves in zip(operation.regions, exits, strict=True):
        if not (split and leaves):
            for inner in region.operations:
                yield from _going_on(inner)


def _exits(region: Region) -> bool:
    """Whether a region ends its program, or the inlined one, so that nothing after it runs."""
    last = region.operations[-1] if region.operations else None
    if last is None or last.name != "plan.if":
        return last is not None and last.name in EXITS
    return all(_exits(inner) for inner in last.regions)


def _insert_free(operations: list[Operation], value: Value) -> None:
    """Put a free after the last operation that defines or borrows the value."""
    last = -1
    for position, operation in enumerate(operations):
        touched = value in operation.results or any(
            value in inner.operands for inner in walk((operation,))
        )
        last = position if touched else last
    at = min(last + 1, len(operations) - 1)
    operations.insert(at, make("plan.free", value, span=operations[at].span))


def _balance_if(operation: Operation) -> Operation:
    """Free, in each region of an if, the outer kvs that only the other region moves on.

    Where one region exits, the other's kvs live on: they are freed after the if.
    """
    if sum(_exits(region) for region in operation.regions) == 1:
        return operation
    inside = [_outer_moves(region) for region in operation.regions]
    regions = []
    for region, other in zip(operation.regions, reversed(inside), strict=True):
        mine = _outer_moves(region)
        missing = [value for name, value in other.items() if name not in mine]
        operations = list(region.operations)
        for value in missing:
            _insert_free(operations, value)
        regions.append(replace(region, operations=tuple(operations)))
    return replace(operation, regions=tuple(regions))


def _outer_moves(region: Region) -> dict[str, Value]:
    """Return the kvs from outside a region that something in it takes over."""
    defined = {value.name for value in region.arguments}
    for operation in walk(region.operations):
        defined.update(value.name for value in operation.results)
        for inner in operation.regions:
            defined.update(value.name for value in inner.arguments)
    return {
        value.name: value
        for each in region.operations
        for operation in _going_on(each)
        if operation.name not in BORROWS
        for value in operation.operands
        if value.type == KV and value.name not in defined
    }
