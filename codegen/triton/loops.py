"""Loops that Triton computes otherwise than they are written, which are refused.

A value that takes what another carried value was, and begins as that one does, is taken for a
constant by Triton 3.6 and 3.9 (a simplification of MLIR's loops): sums of the numbers that were
read a round before came out as the first of them times the rounds.
"""

from __future__ import annotations

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
    makers = {value.name: operation for operation in operations for value in operation.results}
    for loop in operations:
        if loop.name != "tile.for":
            continue
        arguments = loop.regions[0].arguments[1:]
        begun = {argument.name: value for argument, value in zip(
            arguments, loop.operands[2:], strict=True)}  # fmt: skip
        for late, early in zip(arguments, loop.regions[0].operations[-1].operands, strict=True):
            if late.name == early.name or early.name not in begun:
                continue
            if _made(begun[late.name], makers) == _made(begun[early.name], makers):
                raise MistakenLoop(kernel=kernel["name"].name, late=late.name, early=early.name,
                                   span=loop.span)  # fmt: skip


def _made(value: Value, makers: dict[str, Operation]) -> Any:
    """Return how a value is made: compilers take values that are made alike for one."""
    maker = makers.get(value.name)
    if maker is None or maker.regions:
        return value.name
    return maker.name, maker.attributes, tuple(_made(operand, makers) for operand in maker.operands)
