"""What a fork's branches begin with, encoded side by side before the first of them asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.core import Operation
from ..ir.values import format_value
from ..ir.vocabulary import Tokenizer, split_heal
from .heal import join_texts
from .later import is_missing, present


@dataclass(frozen=True)
class Named:
    """A value that a branch sees, by its name in the plan."""

    name: str


@dataclass(frozen=True)
class Opening:
    """What a branch begins with: ids, texts and values; whether its last space goes to the
    generation behind it."""

    parts: tuple[int | str | Named, ...]
    heals: bool


PORTION = 32
"""Branches whose texts are encoded at once: a step begins with those that are there."""


class BranchTexts:
    """Lets a tokenizer that can encode many texts at once do so with those of a fork's branches.

    One by one they take it twice as long on one core, and there are more. Texts are only encoded
    ahead: a branch that asks for another, as its plan goes another way, has it encoded as always.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._prepare: Callable[[Iterator[str]], None] | None = getattr(tokenizer, "prepare", None)
        self._known: dict[int, tuple[Operation, Opening | None]] = {}

    def begin(
        self, fork: Operation, number: int, elements: Sequence[Any], values: Mapping[str, Any]
    ) -> None:  # fmt: skip
        """Branch `number` of a `plan.fork` over some elements begins, in order: encode what it and
        some behind it begin with, where that is known. `values` are those it sees, by name."""
        if self._prepare is None or number % PORTION or len(elements) < 2:
            return
        if id(fork) not in self._known:
            self._known[id(fork)] = fork, _opening(fork)
        opening = self._known[id(fork)][1]
        if opening is not None:
            self._prepare(_texts(fork, opening, elements[number : number + PORTION], values))


def _texts(
    fork: Operation, opening: Opening, elements: Sequence[Any], values: Mapping[str, Any]
) -> Iterator[str]:  # fmt: skip
    """Yield the texts that branches have encoded, each in one piece."""
    own = fork.regions[0].arguments[1].name
    for element in elements:
        filled: list[int | str] = []
        for part in opening.parts:
            if not isinstance(part, Named):
                filled.append(part)
                continue
            value = element if part.name == own else present(values.get(part.name))
            if value is None or is_missing(value):
                return
            filled.append(format_value(value))
        joined = join_texts(filled)
        if opening.heals:
            joined, _ = split_heal(joined)
        yield from (part for part in joined if isinstance(part, str))


def _opening(fork: Operation) -> Opening | None:
    """Return what the stream of a branch is first extended by, if one call reads just that."""
    region = fork.regions[0]
    made = {op.result.name: op for op in region.operations
            if op.name in {"plan.tokenize", "plan.tokens"}}  # fmt: skip
    stream, first, second = region.arguments[0].name, None, None
    for operation in region.operations:
        if operation.operands and operation.operands[0].name == stream:
            if first is not None:
                second = operation
                break
            first = operation
            if operation.name != "plan.extend":
                return None
            stream = operation.results[0].name
    if first is None or second is None or second.name not in {"plan.decode", "plan.select"}:
        return None
    parts: list[int | str | Named] = []
    for value in first.operands[1:]:
        segment = made.get(value.name)
        if segment is None:
            return None
        if segment.name == "plan.tokens":
            parts += segment["ids"]
            continue
        names = [operand.name for operand in segment.operands]
        parts += [part if isinstance(part, int | str) else Named(names[part["value"]])
                  for part in segment["parts"]]  # fmt: skip
    heals = not (second.attribute("heal") or second.attribute("forced"))
    return Opening(tuple(parts), heals)
