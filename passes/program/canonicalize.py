"""Canonical program IR: adjacent literals joined, dead host values removed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...ir.core import Module, Operation, make, thaw
from ...ir.values import format_value
from ..manager import Context, ProgramPass
from ..rewrite import uses
from .dead import drop_values


@dataclass(frozen=True)
class Canonicalize(ProgramPass):
    """Write appended constants as literals; join literals that follow one another; drop values
    that nothing uses.

    A literal joins the next only when nothing else uses the stream between them; host values may
    stand between.
    """

    name: ClassVar[str] = "canonicalize"
    ensures: ClassVar[tuple[str, ...]] = ("canonical",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the canonical module."""
        constants = {
            op.result.name: op["value"] for op in module.walk() if op.name == "program.constant"
        }
        counted = uses(module.operations)
        joined = _joined(module.operations, constants, counted)
        return drop_values(Module(joined))


def _joined(
    operations: tuple[Operation, ...], constants: dict[str, Any], counted: dict[str, int]
) -> tuple[Operation, ...]:
    """Return operations with constant text as literals, each joined with the literal before it."""
    out: dict[int, Operation] = {}
    literals: dict[str, int] = {}
    for position, operation in enumerate(operations):
        regions = tuple(
            replace(region, operations=_joined(region.operations, constants, counted))
            for region in operation.regions
        )
        operation = _as_literal(replace(operation, regions=regions), constants)
        if operation.name == "program.literal":
            stream = operation.operands[0].name
            if stream in literals and counted[stream] == 1:
                operation = _join(out.pop(literals[stream]), operation)
            literals[operation.result.name] = position
        out[position] = operation
    return tuple(out.values())


def _as_literal(operation: Operation, constants: dict[str, Any]) -> Operation:
    if operation.name != "program.append" or operation.operands[1].name not in constants:
        return operation
    stream, value = operation.operands
    text = format_value(thaw(constants[value.name]))
    return make(
        "program.literal", stream, results=operation.results, span=operation.span, text=text
    )


def _join(before: Operation, operation: Operation) -> Operation:
    span = before.span.to(operation.span) if before.span and operation.span else before.span
    text = before["text"] + operation["text"]
    return replace(before.with_attributes(text=text), results=operation.results, span=span)
