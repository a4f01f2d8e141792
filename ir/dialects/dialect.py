"""What an operation must look like: one specification a name, a table of them a dialect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core import Operation, Term

Check = Callable[[Operation], str | None]
"""Looks at one operation and returns what is wrong with it, or None."""


@dataclass(frozen=True)
class OperationSpec:
    """The shape of one operation: how many operands, which attributes, regions and results.

    `operands` and `results` are exact counts, or `(least, None)` for "at least"; a region list of
    `regions` is exact. `required` and `optional` name the attributes; `terminator` operations may
    only stand last in a region. `first` is the type of the first operand, where only one will do;
    `check` looks at what counts cannot say.
    """

    name: str
    summary: str
    operands: int | tuple[int, int | None] = 0
    results: int | tuple[int, int | None] = 0
    regions: int = 0
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    terminator: bool = False
    first: Term | None = None
    check: Check | None = None


@dataclass(frozen=True)
class Dialect:
    """A named table of operation specifications."""

    name: str
    summary: str
    operations: tuple[OperationSpec, ...]

    def spec(self, name: str) -> OperationSpec | None:
        """Return the specification of `dialect.operation`, if the dialect has it."""
        return next((spec for spec in self.operations if spec.name == name), None)
