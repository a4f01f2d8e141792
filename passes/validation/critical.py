"""Critical paths hold: what is done before another call begins is farther from the end."""

from __future__ import annotations

from ...ir.core import Module, Operation, Region, walk
from ..program.batching import CALLS, WAITING, call_name, needs, waves

_LOOPS = frozenset({"plan.for", "plan.while"})


def check_critical(module: Module) -> list[str]:
    """Return what is wrong with the annotations of a plan, for the validation of `batching`.

    In every block an operation's `critical` is at least that of each one that needs its results, or
    that stands behind a condition that does, plus, for a gen, its token budget; a program's is that
    of its longest path at least; and no operation of a wave needs another of the same wave.
    """
    problems: list[str] = []
    for function in module.operations:
        if function.name != "plan.func":
            continue
        inside = list(walk(function.regions[0].operations))
        asking = [op for op in inside if op.name in CALLS]
        lacks = [op for op in (function, *asking) if op.attribute("critical") is None]
        problems += [f"{call_name(operation)} has no critical path" for operation in lacks]
        if not lacks:
            longest = max((op["critical"] for op in asking), default=0)
            if function["critical"] < longest:
                problems.append(f"{call_name(function)} is shorter than a path in it, of {longest}")
            for operation in (function, *inside):
                for region in operation.regions:
                    problems += _check_block(region)
            problems += _check_across(function.regions[0], {})
    return problems


Waited = dict[str, dict[int, Operation]]
"""Of each value, the calls that are done before it is there."""


def _check_across(region: Region, waited: Waited) -> list[str]:
    """Check each call of a region against calls of other blocks that are done before it begins:
    inside an if, a loop or a branch above it, or above one that it stands in."""
    problems: list[str] = []
    own = {id(operation) for operation in region.operations}
    for operation in region.operations:
        if operation.name in CALLS:
            done = {key: one for value in operation.operands for key, one in
                    waited.get(value.name, {}).items()}  # fmt: skip
            for key, one in done.items():
                problems += [] if key in own else _closer(one, operation)
        for inner in operation.regions:
            problems += _check_across(inner, waited)
        this = {id(operation): operation} if operation.name in CALLS else {}
        for position, value in enumerate(operation.results):
            found = waited[value.name] = dict(this)
            for name in _waits_for(operation, position):
                found |= waited.get(name, {})
    return problems


def _check_block(region: Region) -> list[str]:
    problems: list[str] = []
    sources: dict[str, set[int]] = {}
    waited: dict[str, set[int]] = {}
    before: set[int] = set()
    calls = list(waves(region.operations))
    number_of = {id(operation): number for number, (operation, _) in enumerate(calls)}
    for operation in region.operations:
        above = set().union(*(sources.get(name, set()) for name in needs(operation)))
        first = set().union(*(waited.get(value.name, set()) for value in operation.operands))
        number = number_of.get(id(operation))
        own = set() if number is None else {number}
        if number is not None:
            for earlier in above:
                problems += _compare(calls[earlier], calls[number], earlier in first | before)
            for earlier in before - above:
                problems += _closer(calls[earlier][0], operation)
        if operation.name in WAITING:
            before |= waited.get(operation.operands[0].name, set())
        for position, value in enumerate(operation.results):
            needed = (waited.get(name, set()) for name in _waits_for(operation, position))
            sources[value.name] = above | own
            waited[value.name] = own.union(*needed)
    return problems


def _waits_for(operation: Operation, position: int | None = None) -> set[str]:
    """Return the names that an operation's result waits for, or all of its results: of regions,
    what their ends need for it."""
    names = {value.name for value in operation.operands}
    if operation.name == "plan.fork":
        position = None
    leaves = operation.name == "plan.inline"
    for region in operation.regions:
        names |= _needed_in(region, _given(region, position, leaves), position, leaves)
    return names


def _passes(operation: Operation, position: int | None, leaves: bool) -> set[str]:
    """Return the names that are waited for until it is known whether what stands behind an
    operation runs; with `leaves` also what it leaves its inlined program with."""
    names = {value.name for value in operation.operands}
    for region in operation.regions:
        if region.operations[-1].name == "plan.leave":
            given = _given(region, position, leaves)
        else:  # the rounds of a loop wait for what the one before gave
            given = _given(region, None, leaves) if operation.name in _LOOPS else set()
        names |= _needed_in(region, given, position, leaves)
    return names


def _needed_in(region: Region, names: set[str], position: int | None, leaves: bool) -> set[str]:
    """Return names of a region's values with all that they wait for in it."""
    names = set(names)
    for each in reversed(region.operations[:-1]):
        if _may_exit(each):
            names |= _passes(each, position, leaves)
        for at, value in enumerate(each.results):
            if value.name in names:
                names |= _waits_for(each, at)
    return names


def _given(region: Region, position: int | None, leaves: bool) -> set[str]:
    """Return the names that a region's end gives for a result; what exits gives none here."""
    end = region.operations[-1]
    if end.name == "plan.return" or (end.name == "plan.leave" and not leaves):
        return set()
    given = end.operands
    if position is not None and end.name != "plan.condition":
        given = given[position : position + 1]
    return {value.name for value in given}


def _may_exit(operation: Operation) -> bool:
    """Whether what stands behind an operation may not run: an inlined program leaves itself."""
    if operation.name == "plan.inline":
        return any(inner.name == "plan.return" for inner in walk((operation,)))
    if operation.name in {"plan.return", "plan.leave"}:
        return True
    return any(_may_exit(inner) for region in operation.regions for inner in region.operations)


def _compare(first: tuple[Operation, int], second: tuple[Operation, int], whole: bool) -> list[str]:
    """Check two operations of which the second needs the first; `whole`: before it begins.

    What only a branch of it uses may be there later: then it may be closer to the end.
    """
    (one, wave), (other, later) = first, second
    problems = []
    if wave >= later:
        problems.append(
            f"{call_name(other)} needs {call_name(one)}, but is in wave {later} of {wave}"
        )
    return problems + (_closer(one, other) if whole else [])


def _closer(one: Operation, other: Operation) -> list[str]:
    """Check that an operation that is done before another begins is farther from the end."""
    budget = one["max_tokens"] if one.name == "plan.decode" else 0
    # Rounded to whole tokens, each by half a token at most.
    if one["critical"] + 1 >= other["critical"] + budget:
        return []
    return [
        f"{call_name(one)} ({one['critical']}) is before {call_name(other)} ({other['critical']}), "
        "but closer to the end"
    ]
