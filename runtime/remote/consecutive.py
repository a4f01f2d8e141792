"""Several gens in one answer: literals between them are looked for in what the model said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.core import Operation, Region
from ...ir.dialects.program import VALUE_NAMES


@dataclass(frozen=True)
class Step:
    """A gen in a row: what ends it, its budget, and the literal after it (last: empty)."""

    stops: tuple[str, ...]
    max_tokens: int
    literal: str = ""


@dataclass(frozen=True)
class Split:
    """The gens' texts that are known so far, and whether no more will be."""

    texts: tuple[str, ...]
    ended: bool


def split(text: str, steps: Sequence[Step], over: bool, cut: bool = False) -> Split:
    """Take an answer apart at stops and literals; a literal that is not there ends it.

    `over`: the model has said all of `text`; `cut`: because its budget was spent, so that the
    last gen is not known.
    """
    texts: list[str] = []
    at = 0
    for number, step in enumerate(steps):
        found = [place for stop in step.stops if (place := text.find(stop, at)) >= 0]
        if not found:
            if over and not cut:
                texts.append(text[at:])
            return Split(tuple(texts), over)
        place = min(found)
        texts.append(text[at:place])
        if number == len(steps) - 1:
            return Split(tuple(texts), True)
        seen = text[place : place + len(step.literal)]
        if seen != step.literal:
            waits = step.literal.startswith(seen) and not over
            return Split(tuple(texts), not waits)
        at = place + len(step.literal)
    return Split(tuple(texts), True)


def within_budget(text: str, step: Step, generated: int | None) -> bool:
    """Return whether a text surely has no more tokens than its gen may: a token has a byte."""
    if generated is not None and generated <= step.max_tokens:
        return True
    return len(text.encode()) <= step.max_tokens


def followers(region: Region, head: Operation) -> list[tuple[str, Operation]]:
    """Return the gens after `head` that its `ahead` counts, each with the literal before it."""
    found: list[tuple[str, Operation]] = []
    wanted = head.attribute("ahead") or 0
    stream, literal = head.results[0], ""
    start = region.operations.index(head) + 1
    for operation in region.operations[start:]:
        if len(found) == wanted:
            break
        if operation.name in VALUE_NAMES:
            continue
        if operation.name == "program.literal" and operation.operands[0] == stream:
            literal += operation["text"]
            stream = operation.result
        elif operation.name == "program.gen" and operation.operands[0] == stream:
            found.append((literal, operation))
            stream, literal = operation.results[0], ""
        else:
            break
    return found
