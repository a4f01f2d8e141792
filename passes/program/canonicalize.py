"""Canonical program IR: adjacent literals joined, constants folded, dead host values removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...ir.core import Module, Operation, Region, Value, make
from ...ir.program import EFFECTS, VALUE_NAMES
from ..manager import EVERYTHING, Context
from ..rewrite import substitute, uses

PURE = VALUE_NAMES - EFFECTS
"""Host operations without effects: they fold when constant and go when unused."""

_FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


@dataclass(frozen=True)
class Canonicalize:
    """Join literals that follow one another; fold constants; inline decided ifs; drop dead values.

    A literal joins the next only when nothing else uses the stream between them.
    """

    name: ClassVar[str] = "canonicalize"
    reads: ClassVar[tuple[str, ...]] = ("program",)
    writes: ClassVar[tuple[str, ...]] = ("program",)
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("canonical",)
    keeps: ClassVar[tuple[str, ...]] = EVERYTHING

    def run(self, module: Module, context: Context) -> Module:
        """Return the canonical module."""
        while True:
            after = _drop_dead(_Folder(module, context).module())
            if after == module:
                return after
            module = after


class _Folder:
    """One sweep: knows the constants and the single-use literals above each operation."""

    def __init__(self, module: Module, context: Context) -> None:
        self._module = module
        self._context = context
        self._uses = uses(module.operations)
        self._constants: dict[str, Any] = {}
        self._replaced: dict[str, Value] = {}

    def module(self) -> Module:
        return Module(self._list(self._module.operations))

    def _list(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        out: list[Operation] = []
        for operation in operations:
            operation = substitute(operation, self._replaced)
            regions = tuple(self._region(region) for region in operation.regions)
            self._place(replace(operation, regions=regions), out)
        return tuple(out)

    def _region(self, region: Region) -> Region:
        return replace(region, operations=self._list(region.operations))

    def _place(self, operation: Operation, out: list[Operation]) -> None:
        """Append an operation, or what it folds to."""
        operation = self._fold(operation)
        if operation.name == "program.if" and self._inline_if(operation, out):
            return
        if operation.name == "program.literal" and self._join(operation, out):
            return
        if operation.name == "program.constant":
            self._constants[operation.result.name] = operation["value"]
        out.append(operation)

    def _fold(self, operation: Operation) -> Operation:
        known = [self._constants.get(value.name, _UNKNOWN) for value in operation.operands]
        if operation.name == "program.append" and isinstance(known[1], str):
            return make(
                "program.literal", operation.operands[0], results=operation.results,
                span=operation.span, text=known[1],
            )  # fmt: skip
        if operation.name == "program.binary" and _UNKNOWN not in known:
            value = _fold_binary(operation["op"], *known)
            if value is not _UNKNOWN:
                self._context.did(f"folded {operation['op']} of constants", operation.span)
                return _constant(operation, value)
        return operation

    def _join(self, operation: Operation, out: list[Operation]) -> bool:
        before = out[-1] if out else None
        if before is None or before.name != "program.literal":
            return False
        stream = before.result
        if operation.operands[0] != stream or self._uses[stream.name] != 1:
            return False
        span = before.span.to(operation.span) if before.span and operation.span else before.span
        joined = before["text"] + operation["text"]
        out[-1] = replace(before.with_attributes(text=joined), results=operation.results, span=span)
        return True

    def _inline_if(self, operation: Operation, out: list[Operation]) -> bool:
        condition = self._constants.get(operation.operands[0].name, _UNKNOWN)
        if not isinstance(condition, bool):
            return False
        taken = operation.regions[0 if condition else 1].operations
        if taken and taken[-1].name != "program.yield":
            return False
        yielded = taken[-1].operands if taken else ()
        out.extend(taken[:-1])
        for result, value in zip(operation.results, yielded, strict=True):
            self._replaced[result.name] = self._replaced.get(value.name, value)
        self._context.did(f"this if is always {str(condition).lower()}", operation.span)
        return True


class _Unknown:
    """The mark of a value not known at compile time."""


_UNKNOWN = _Unknown()


def _constant(operation: Operation, value: Any) -> Operation:
    return make("program.constant", results=operation.results, span=operation.span, value=value)


def _fold_binary(op: str, left: Any, right: Any) -> Any:
    """Return the folded value, or _UNKNOWN when types or the operator stand against it."""
    plain = (bool, int, float, str)
    if op not in _FOLDS or not isinstance(left, plain) or not isinstance(right, plain):
        return _UNKNOWN
    if isinstance(left, str) != isinstance(right, str):
        return _UNKNOWN
    try:
        return _FOLDS[op](left, right)
    except TypeError:
        return _UNKNOWN


def _drop_dead(module: Module) -> Module:
    counted = uses(module.operations)

    def live(operation: Operation) -> bool:
        pure = operation.name in PURE
        return not pure or any(counted[value.name] for value in operation.results)

    def clean(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        return tuple(
            replace(
                operation,
                regions=tuple(
                    replace(region, operations=clean(region.operations))
                    for region in operation.regions
                ),
            )
            if operation.regions
            else operation
            for operation in operations
            if live(operation)
        )

    return Module(clean(module.operations))
