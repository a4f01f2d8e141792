"""Loops that Triton computes otherwise than they are written, which are refused.

A value that takes what another carried value was, and begins as that one does, is taken for a
constant by Triton 3.6 and 3.9 (a simplification of MLIR's loops): sums of the numbers that were
read a round before came out as the first of them times the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.core import Operation, Value, walk
from ...ir.diagnostics import KernelError


class MistakenLoop(KernelError):
    """A loop that a compiler takes for another."""

    template = (
        "@{kernel} has a loop that Triton mistakes: %{late} takes what %{early} was, "
        "and both begin as the same"
    )
    hint = "let them begin as different operations make them, or read the later one anew"


def check_loops(kernel: Operation) -> None:
    """Raise MistakenLoop if a kernel has one."""
    operations = list(walk(kernel.regions[0].operations))
    alike = _Alike(operations)
    for loop in operations:
        if loop.name != "tile.for":
            continue
        arguments = loop.regions[0].arguments[1:]
        begun = {argument.name: value for argument, value in zip(
            arguments, loop.operands[2:], strict=True)}  # fmt: skip
        for late, early in zip(arguments, loop.regions[0].operations[-1].operands, strict=True):
            if late.name == early.name or early.name not in begun:
                continue
            if alike.number(begun[late.name]) == alike.number(begun[early.name]):
                raise MistakenLoop(kernel=kernel["name"].name, late=late.name, early=early.name,
                                   span=loop.span)  # fmt: skip


class _Alike:
    """Numbers values by how they are made: compilers take those that are made alike for one."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._makers = {value.name: (operation, at) for operation in operations
                        for at, value in enumerate(operation.results)}  # fmt: skip
        self._numbers: dict[Any, int] = {}
        self._of: dict[str, int] = {}

    def number(self, value: Value) -> int:
        """Return the number of a value, each looked at once."""
        if value.name not in self._of:
            self._of[value.name] = self._numbers.setdefault(self._made(value), len(self._numbers))
        return self._of[value.name]

    def _made(self, value: Value) -> Any:
        maker, at = self._makers.get(value.name, (None, 0))
        if maker is None or maker.regions:
            return value.name
        return maker.name, maker.attributes, at, tuple(map(self.number, maker.operands))
