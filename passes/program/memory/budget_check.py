"""A second count of what plans surely may need, against their budgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....ir.budget import value_of
from ....ir.core import Module, Operation, Region
from ...manager import Context

_BESIDE = {"plan.fork", "plan.select", "plan.score", "program.call"}


def validate(before: Module, after: Module, context: Context) -> list[str]:
    """Return which budgets are less than what their plan surely may need.

    Counted apart from the pass: tokens that are known and the budgets of gens, on the longest way
    through each frame, against the budget where every size that rows bring is nothing.
    """
    problems: list[str] = []
    for function in after.operations:
        if function.name == "plan.func":
            name, budget = function["name"].name, function.attribute("budget")
            problems += _too_small(f"@{name}", function.regions[0], budget)
    return problems


def _too_small(what: str, region: Region, budget: Any) -> list[str]:
    least, beside = _least(region)
    if budget is None or budget.get("tokens") is None or budget.get("parts") is None:
        return [f"{what}: no budget"]
    allowed = value_of(budget["tokens"], lambda symbol: 0)
    problems = []
    if allowed < least:
        problems.append(f"{what}: a stream of {least} tokens, but its budget is {allowed}")
    parts = list(_parts_of(budget["parts"]))
    for operation in beside:
        name = _named(operation)
        found = [part for part in parts if part["what"] == name]
        if not found:
            problems.append(f"{what}: no part for {name}")
        elif operation.name == "plan.fork" and all(
            _too_small("", operation.regions[0], part.get("body")) for part in found
        ):
            problems += _too_small(name, operation.regions[0], found[0].get("body"))
    return problems


def _named(operation: Operation) -> str:
    """Return what the part of an operation that has sequences of its own is called."""
    name = operation.attribute("name", "")
    return f"{operation.kind} {getattr(name, 'name', name)}".rstrip()


def _parts_of(parts: Any) -> Iterator[Any]:
    for part in parts:
        sides = part.get("either")
        if sides is None:
            yield part
        else:
            for side in sides:
                yield from _parts_of(side)


def _least(region: Region) -> tuple[int, list[Operation]]:
    """Return the tokens of the longest way through a frame's region, and what in it has sequences
    of its own."""
    tokens, beside = 0, []
    for operation in region.operations:
        if operation.name == "plan.tokens":
            tokens += len(operation["ids"])
        elif operation.name == "plan.decode":
            tokens += operation["max_tokens"]
        elif operation.name in _BESIDE:
            beside.append(operation)
        elif operation.regions:
            inner = [_least(each) for each in operation.regions]
            longest = max(count for count, _ in inner)
            rounds = operation["limit"] if operation.name == "plan.while" else 1
            rounds = 0 if operation.name == "plan.for" else rounds  # its list may be empty
            tokens += rounds * longest
            beside += [each for _, found in inner for each in found]
    return tokens, beside
