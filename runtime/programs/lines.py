"""A plan's regions as what interprets them needs them: looked at once, not for each row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ...ir.core import Operation, Region
from ...ir.dialects.program import VALUE_NAMES
from ...ir.evaluate import evaluate

AT_ONCE, ISSUED, ENDS, FLOW = range(4)
"""Kinds of lines: results come of the operands at once; a task gives them; the region ends; a
coroutine of its own runs the operation."""

TEXT = "str"
"""The type whose values give their text in any case: an int may have too many digits for one."""

TERMINATORS = frozenset({"return", "leave", "yield", "condition"})

Results = Callable[[Operation, Sequence[Any], int], tuple[Any, ...]]
"""Gives an operation's results from its operands, all there, for a row."""


class Line(NamedTuple):
    """One operation, with its operands' and results' names."""

    kind: int
    operation: Operation
    operands: tuple[str, ...]
    results: tuple[str, ...]
    run: Any
    """What gives the results (`Results`) or, as a name, the method; of an end, which one it is."""
    sure: bool = False
    """Whether that never fails, so that who gives the last operand may give the results, too."""


class Lines:
    """The lines of regions for one class of interpreters."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Region, list[Line]]] = {}

    def of(
        self, region: Region, interpreter: type, issued: Collection[str],
        at_once: Mapping[str, Results],
    ) -> list[Line]:  # fmt: skip
        """Return a region's lines; `at_once` gives the results of operations by their names."""
        known = self._known.get(id(region))
        if known is None:
            lines = [_line(each, interpreter, issued, at_once) for each in region.operations]
            known = self._known[id(region)] = region, lines
        return known[1]


def _line(
    operation: Operation, interpreter: type, issued: Collection[str], at_once: Mapping[str, Results]
) -> Line:  # fmt: skip
    name, kind = operation.name, operation.name.partition(".")[2]
    run: Any = f"_{kind}"
    if name in issued:
        own = f"_issued_{kind}"
        which, run = ISSUED, own if hasattr(interpreter, own) else run
    elif name in VALUE_NAMES:
        which, run = AT_ONCE, _value
    elif name in at_once:
        which, run = AT_ONCE, at_once[name]
    elif kind in TERMINATORS:
        which, run = ENDS, kind
    else:
        which = FLOW
    operands, results = (
        tuple(value.name for value in values) for values in (operation.operands, operation.results)
    )
    sure = name == "plan.extend" or (
        name == "plan.tokenize" and all(value.type.name == TEXT for value in operation.operands)
    )
    return Line(which, operation, operands, results, run, sure and which == AT_ONCE)


def _value(operation: Operation, operands: Sequence[Any], row: int) -> tuple[Any, ...]:
    return (evaluate(operation, operands, row),)
