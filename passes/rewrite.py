"""Helpers of passes: rebuilding nested operations, substituting values, counting uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..ir.core import Module, Operation, Region, Value, walk

Rewrite = Callable[[Operation], Iterable[Operation] | None]
"""Returns the operations that stand for the given one; None keeps it."""


def substitute(operation: Operation, mapping: dict[str, Value]) -> Operation:
    """Return the operation with operands replaced by name, in its regions too."""
    if not mapping:
        return operation
    operands = tuple(mapping.get(value.name, value) for value in operation.operands)
    regions = tuple(substitute_region(region, mapping) for region in operation.regions)
    if operands == operation.operands and regions == operation.regions:
        return operation
    return replace(operation, operands=operands, regions=regions)


def substitute_region(region: Region, mapping: dict[str, Value]) -> Region:
    """Return the region with operands replaced by name."""
    return replace(
        region, operations=tuple(substitute(inner, mapping) for inner in region.operations)
    )


def rewrite(module: Module, rule: Rewrite) -> Module:
    """Return the module with `rule` applied to every operation, inner before outer."""
    return Module(rewrite_list(module.operations, rule))


def rewrite_list(operations: tuple[Operation, ...], rule: Rewrite) -> tuple[Operation, ...]:
    """Apply a rule to a list of operations and to their regions, inner before outer."""
    out: list[Operation] = []
    for operation in operations:
        if operation.regions:
            regions = tuple(
                replace(region, operations=rewrite_list(region.operations, rule))
                for region in operation.regions
            )
            operation = replace(operation, regions=regions)
        replacement = rule(operation)
        out.extend([operation] if replacement is None else replacement)
    return tuple(out)


def uses(operations: Iterable[Operation]) -> Counter[str]:
    """Return how often each value is an operand, in regions too."""
    counted: Counter[str] = Counter()
    for operation in walk(tuple(operations)):
        counted.update(value.name for value in operation.operands)
    return counted
