"""Which values of a kernel are never negative: the others are divided in another way.

`//` and `%` of the tile dialect round down, Triton's towards zero: -1 % 16 is 15 here and -1 there.
What is not known to be natural (0 or more) is divided by shifts and masks, or put right.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from ...ir.core import Operation, Region, Term, Value
from ...ir.dialects.tile_checks import WRITES
from ...ir.expression import read
from ...ir.types import dtype_of, shape_of
from .expressions import UNSIGNED, WIDE, TritonWriter, Typed, cast

_FACT = re.compile(r"0 <= (\w+)(?:\[(?:\*|i)\])?(?: <=? .*)?|(\w+)(?:\[(?:\*|i)\])? >=? 0")
_ALIKE = frozenset({"tile.reduce", "tile.scan", "tile.expand", "tile.transpose", "tile.reshape"})
_ALWAYS = frozenset({"tile.program_id", "tile.iota", "tile.argmax", "tile.last"})


def natural_values(kernel: Operation) -> frozenset[str]:
    """Return the names of a kernel's values that launch facts and arithmetic keep from being
    negative; of a buffer it is its elements. Overflow aside, as in proofs of bounds."""
    return frozenset(_Signs(kernel).natural)


class _Signs:
    """Walks a kernel; a loop is walked until what it carries is seen to stay what it was."""

    def __init__(self, kernel: Operation) -> None:
        self.natural: set[str] = set()
        arguments = kernel.regions[0].arguments
        facts = [_FACT.fullmatch(fact) for fact in kernel.attribute("requires", ())]
        known = {match[1] or match[2] for match in facts if match} - set(kernel["writes"])
        for value in arguments:
            dims = shape_of(value.type) if value.type.name == "buffer" else ()
            self.natural |= {dim.name for dim in dims if isinstance(dim, Term)}
            if value.name in known or dtype_of(value.type) in UNSIGNED:
                self.natural.add(value.name)
        self._region(kernel.regions[0])

    def _region(self, region: Region) -> None:
        for operation in region.operations:
            if operation.name == "tile.for":
                self._loop(operation)
            elif operation.name not in WRITES or operation.name in _ALWAYS:
                self._note(operation.results, self._is_natural(operation))

    def _note(self, values: Sequence[Value], natural: bool) -> None:
        self.natural |= {value.name for value in values
                         if natural or dtype_of(value.type) in UNSIGNED}  # fmt: skip

    def _loop(self, loop: Operation) -> None:
        (region,) = loop.regions
        index, *arguments = region.arguments
        low, _, *starts = loop.operands
        self._note([index], low.name in self.natural)
        stays = [start.name in self.natural for start in starts]
        outside = set(self.natural)
        while True:
            for argument, natural in zip(arguments, stays, strict=True):
                self._note([argument], natural)
            self._region(region)
            ends = [value.name in self.natural for value in region.operations[-1].operands]
            kept = [was and end for was, end in zip(stays, ends, strict=True)]
            if kept == stays:
                break
            stays, self.natural = kept, set(outside)
        for result, natural in zip(loop.results, stays, strict=True):
            self._note([result], natural)

    def _is_natural(self, operation: Operation) -> bool:
        if operation.name in _ALWAYS:
            return True
        if operation.name == "tile.full":
            return operation["value"] >= 0
        if operation.name in _ALIKE:
            return operation.operands[0].name in self.natural
        if operation.name == "tile.load":
            return (
                operation.operands[0].name in self.natural and operation.attribute("other", 0) >= 0
            )
        if operation.name != "tile.map" or dtype_of(operation.result.type) not in WIDE:
            return False
        letters = zip(string.ascii_lowercase, operation.operands, strict=False)
        variables = {letter: Typed(letter, dtype_of(value.type), value.name in self.natural)
                     for letter, value in letters}  # fmt: skip
        found = read(operation["expr"], TritonWriter(variables))
        return cast(found, dtype_of(operation.result.type)).natural
