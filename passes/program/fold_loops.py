"""Unrolling: when rounds are few enough, and copies of a body with names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir.core import Names, Operation, Region, Value, walk
from ...ir.dialects.program import VALUE_NAMES
from ..manager import Context


@dataclass(frozen=True)
class Rounds:
    """The limits of unrolling: most rounds, most operations of all copies together."""

    most: int
    operations: int
    names: Names

    def few(self, loop: Operation, elements: Sequence[object], context: Context) -> bool:
        """Whether a loop over these elements is to be unrolled; says why not, where it is not."""
        body = sum(1 for _ in walk(loop.regions[0].operations))
        if not elements:
            return True
        known = not isinstance(elements[0], Value)
        if not known and not _touches_stream(loop):
            return False
        if len(elements) > self.most:
            reason = f"more than {self.most} rounds"
        elif len(elements) * body > self.operations:
            reason = f"{len(elements) * body} operations, more than {self.operations}"
        else:
            return True
        context.left(f"this loop over {len(elements)} known elements stays: {reason}", loop.span)
        return False

    def copy(self, region: Region, values: Sequence[Value]) -> tuple[Operation, ...]:
        """Return a region's operations on `values` for its arguments, all names new."""
        renamed = {
            argument.name: value for argument, value in zip(region.arguments, values, strict=True)
        }
        return self._copies(region.operations, renamed)

    def _copies(
        self, operations: tuple[Operation, ...], renamed: dict[str, Value]
    ) -> tuple[Operation, ...]:
        return tuple(self._copied(operation, renamed) for operation in operations)

    def _copied(self, operation: Operation, renamed: dict[str, Value]) -> Operation:
        operands = tuple(renamed.get(value.name, value) for value in operation.operands)
        regions = []
        for region in operation.regions:
            arguments = tuple(self._fresh(value, renamed) for value in region.arguments)
            regions.append(Region(arguments, self._copies(region.operations, renamed)))
        results = tuple(self._fresh(value, renamed) for value in operation.results)
        return replace(operation, operands=operands, regions=tuple(regions), results=results)

    def _fresh(self, value: Value, renamed: dict[str, Value]) -> Value:
        renamed[value.name] = self.names.value(value.name, value.type)
        return renamed[value.name]


def _touches_stream(loop: Operation) -> bool:
    return any(each.name not in VALUE_NAMES for each in walk(loop.regions[0].operations))
