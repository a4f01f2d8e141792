"""What operations with regions hold, in programs, plans, graphs and kernels alike: a region takes
what its operation hands it, ends in what gives the results, and gives as many.

In programs and plans types of values must meet: a `str` may be a choice, or one that knows its
probabilities. Elsewhere they must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import eq

from ..core import Operation, Region, Value
from ..display.units import counted
from ..types import meet
from .dialect import Check

_LOOSE = ("program", "plan")


def loop(first: int) -> Check:
    """Return the check of a loop that carries its operands from the `first` on: its region takes an
    index or element, and these, and yields the next ones."""

    def check(operation: Operation) -> str | None:
        (region,), carried = operation.regions, operation.operands[first:]
        return (
            (None if region.arguments else "its region takes nothing, where an element belongs")
            or _fits("its region carries", region.arguments[1:], carried, operation)
            or _yields(region, carried, operation)
            or _fits("it gives", operation.results, carried, operation)
        )

    return check


def while_loop(operation: Operation) -> str | None:
    """Check that both regions take what is carried, and the first ends in a condition."""
    carried = operation.operands
    for region in operation.regions:
        if problem := _fits("its region carries", region.arguments, carried, operation):
            return problem
    test, body = operation.regions
    return (
        _ends(test, "condition")
        or _yields(body, carried, operation)
        or _fits("it gives", operation.results, carried, operation)
    )


def same_scope(operation: Operation) -> str | None:
    """Check that each region, of an `if` or a section, takes nothing and yields the results."""
    for region in operation.regions:
        problem = _fits("its region takes", region.arguments, (), operation)
        if problem or (problem := _yields(region, operation.results, operation)):
            return problem
    return None


def fork(operation: Operation) -> str | None:
    """Check that the region takes a stream and an element, and yields as many values as there are
    lists of them; nothing in it ends the program around it."""
    (region,) = operation.regions
    if len(region.arguments) != 2:
        return f"its region takes {counted(len(region.arguments), 'value')}, where 2 belong"
    for name in _leaving(region):
        return f"{name} in a branch would end the program around it"
    given = region.operations[-1].operands if region.operations else ()
    count, wanted = len(given), len(operation.results)
    problem = f"its region yields {counted(count, 'value')}, where {wanted} belong"
    return (
        _fits("its region takes", region.arguments[:1], operation.operands[:1], operation)
        or _ends(region, "yield")
        or (problem if count != wanted else None)
    )


def inlined(operation: Operation) -> str | None:
    """Check that the region takes the stream, and ends in what leaves it."""
    (region,) = operation.regions
    entering = operation.operands[:1]
    return _fits("its region takes", region.arguments, entering, operation) or _ends(
        region, "leave"
    )


def returns(operation: Operation) -> str | None:
    """Check that the region of a function or a kernel ends in a return."""
    return _ends(operation.regions[0], "return")


def leaves(region: Region) -> bool:
    """Return whether nothing that follows a region is reached from it."""
    if not region.operations:
        return False
    last = region.operations[-1]
    if last.kind == "if":
        return all(map(leaves, last.regions))
    return last.kind in ("leave", "return")


def _leaving(region: Region, inlined: bool = False) -> Iterator[str]:
    """Yield what in a region ends more than the region: not what leaves a program inlined in it."""
    for operation in region.operations:
        if operation.kind == "return" or (operation.kind == "leave" and not inlined):
            yield operation.name
        for inner in operation.regions:
            yield from _leaving(inner, inlined or operation.kind == "inline")


def _ends(region: Region, own: str) -> str | None:
    """Check that a region ends in an operation of its own kind, or leaves."""
    last = region.operations[-1] if region.operations else None
    if leaves(region) or (last is not None and last.kind == own):
        return None
    article = "a yield or a return" if own == "yield" else f"a {own}"
    return f"its region ends in {last.name if last else 'nothing'}, where {article} belongs"


def _yields(region: Region, wanted: Sequence[Value], operation: Operation) -> str | None:
    """Check that a region yields values like those wanted, or leaves."""
    problem = _ends(region, "yield")
    if problem or region.operations[-1].kind != "yield":
        return problem
    return _fits("its region yields", region.operations[-1].operands, wanted, operation)


def _fits(
    what: str, have: Sequence[Value], want: Sequence[Value], operation: Operation
) -> str | None:
    """Check that values are as many as those wanted, and of such types."""
    if len(have) != len(want):
        return f"{what} {counted(len(have), 'value')}, where {len(want)} belong"
    for one, other in zip(have, want, strict=True):
        same = meet if operation.dialect in _LOOSE else eq
        if not same(one.type, other.type):
            return f"{what} {one.type}, where {other.type} belongs"
    return None
