"""Gens that one answer of an endpoint holds: what stands between them is looked at again."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.core import Module, Operation, Region, Term
from ...ir.dialects.program import EFFECTS, SAMPLING, VALUE_NAMES, WHO
from ...ir.types import STR
from ..manager import Context
from .streams import only_annotated


def shared_calls_hold(before: Module, after: Module, context: Context) -> Iterator[str]:
    """Yield each gen whose `ahead` counts what one answer cannot hold."""
    yield from only_annotated(before, after, "ahead")
    for operation in after.walk():
        for region in operation.regions:
            yield from _region(region)


def _region(region: Region) -> Iterator[str]:
    for at, operation in enumerate(region.operations):
        ahead = operation.attribute("ahead")
        if ahead is not None:
            problem = _problem(region.operations[at:], ahead)
            if problem:
                yield f"gen {operation['name']} says ahead = {ahead}, but {problem}"


def _problem(operations: tuple[Operation, ...], ahead: int) -> str:
    """Return why one answer cannot hold a gen, the first operation, and so many after it."""
    gen, *following = operations
    stream, text, left = gen.results[0], "", ahead
    if gen["type"] != STR or gen.attribute("logprobs"):
        return "it is no free text"
    for operation in following:
        if not left:
            break
        if operation.name in VALUE_NAMES - EFFECTS:
            continue
        if operation.operands[:1] != (stream,) or operation.kind not in {"literal", "gen"}:
            return f"{operation.kind} stands between"
        if operation.kind == "literal":
            text, stream = text + operation["text"], operation.result
            continue
        stops = gen.attribute("stop") or ()
        ends = (stops,) if isinstance(stops, str) else () if isinstance(stops, Term) else stops
        if not text or not any(text.startswith(end) or end.startswith(text) for end in ends):
            return f"what stands before gen {operation['name']} does not end the gen before it"
        if any(operation.attribute(key) != gen.attribute(key) for key in (*SAMPLING, *WHO)):
            return f"gen {operation['name']} is sampled otherwise"
        if operation["type"] != STR or operation.attribute("logprobs"):
            return f"gen {operation['name']} is no free text"
        gen, stream, text, left = operation, operation.results[0], "", left - 1
    return f"only {ahead - left} follow" if left else ""
