"""Texts and model calls of a plan that is walked without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ....ir.core import Operation
from ....ir.source import Span
from ....ir.vocabulary import Part, Tokenizer, split_heal
from .values import Encoder, Known, Text, Unknown, as_part, is_known

Path = tuple[tuple[str, int, int | str], ...]


@dataclass(frozen=True)
class Call:
    """One model call: its prompt, and the first position whose logits it needs."""

    row: int
    path: Path
    name: str
    prompt: Text
    first_logits: int
    sure: bool
    span: Span | None
    left: Text | None = None
    """What it leaves on its stream: the prompt and what was generated."""


@dataclass
class Frame:
    """One branch: its values, its place among forks, and how often each name has run."""

    known: Known
    path: Path = ()
    sure: bool = True
    seen: Counter[str] = field(default_factory=Counter)
    left: list[tuple[Any, ...]] = field(default_factory=list)
    """What a condition that is not known may have returned before: then nothing here is sure."""

    def occurrence(self, name: str) -> int:
        """Return how often `name` has run in this frame before."""
        self.seen[name] += 1
        return self.seen[name] - 1

    def branch(self, name: str, occurrence: int, number: int | str, sure: bool) -> Frame:
        """Return the frame of a fork's branch: it sees the values, its changes stay in it."""
        path = (*self.path, (name, occurrence, number))
        return Frame(Known(self.known.values), path, sure)


class Enough(Exception):
    """A row ends here: it fails, or nothing that is left can begin with other known text."""


class CallWalk:
    """Follows texts, and notes a call where the model reads one."""

    _first_unknown_ends = False
    """Whether a row is left where its own stream has a text that is not known."""
    _closes = False
    """Whether a stream's text is closed there: only how calls begin is wanted."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encoder = Encoder(tokenizer)
        self._calls: list[Call] = []
        self._row = 0

    def _tokens(self, operation: Operation, frame: Frame) -> None:
        frame.known.bind(operation.results, ((list(operation["ids"]), operation),))

    def _tokenize(self, operation: Operation, frame: Frame) -> None:
        parts: list[Part | Unknown] = []
        for part in operation["parts"]:
            if isinstance(part, int | str):
                parts.append(part)
            else:
                parts.append(as_part(frame.known.get(operation.operands[part["value"]])))
        frame.known.bind(operation.results, ((parts, operation),))

    def _extend(self, operation: Operation, frame: Frame) -> None:
        text, *segments = (frame.known.get(value) for value in operation.operands)
        for parts, segment in () if text.closed else segments:
            text = text.waiting(parts, segment.span)
        frame.known.bind(operation.results, (text,))

    def _settle(self, operation: Operation, frame: Frame) -> Text:
        value = operation.operands[0]
        settle = self._encoder.settle_plain if self._closes else self._encoder.settle
        settled = settle(frame.known.get(value))
        frame.known.bind((value,), (settled,))
        return settled

    def _settle_healed(self, operation: Operation, frame: Frame) -> tuple[Text, str]:
        """Settle a generation's kv; the space at its end goes to the generation."""
        value, heal = operation.operands[0], operation.attribute("heal") or ""
        if not heal and not operation.attribute("forced"):
            text = frame.known.get(value)
            if text.pending and isinstance(text.pending[-1], str):
                kept, heal = split_heal((_last_text(text.pending),))
                before = len(text.pending) - _trailing(text.pending)
                pending = (*text.pending[:before], *kept)
                changed = Text(text.elements, text.sources, pending, text.spans)
                frame.known.bind((value,), (changed,))
        return self._settle(operation, frame), heal

    def _note(
        self,
        operation: Operation,
        frame: Frame,
        name: str,
        prompt: Text,
        first: int,
        left: Text | None = None,
    ) -> None:
        sure, span = frame.sure, operation.span
        self._calls.append(Call(self._row, frame.path, name, prompt, first, sure, span, left))

    def _decode(self, operation: Operation, frame: Frame) -> None:
        name = operation["name"]
        place = (self._row, frame.path, name, frame.occurrence(name))
        text, _ = self._settle_healed(operation, frame)
        said = text
        if not text.closed:
            said = self._generated(text, place, f"gen {name}", operation)
            self._note(operation, frame, name, text, len(text.elements) - 1, said)
        frame.known.bind(operation.results, (said, Unknown((*place, "value"), name)))
        self._said(frame)

    def _generated(
        self, text: Text, place: tuple[Any, ...], label: str, operation: Operation
    ) -> Text:
        """Return a text with what a model says behind it; nothing follows where a row's first
        calls are wanted, since all that could begins as it does."""
        said = text.plus([Unknown((*place, "text"), operation["name"])], label, operation.span)
        return replace(said, closed=True) if self._closes else said

    def _said(self, frame: Frame) -> None:
        """Leave the row, if that is wanted, once its own stream has surely got an unknown text."""
        if self._first_unknown_ends and frame.sure and not frame.path:
            raise Enough

    def _select(self, operation: Operation, frame: Frame) -> None:
        name, options = operation["name"], frame.known.get(operation.operands[1])
        place = (self._row, frame.path, name, frame.occurrence(name))
        text, heal = self._settle_healed(operation, frame)
        encoded: list[list[int]] = []
        tokens = operation.attribute("tokens")
        if tokens is not None:
            encoded = [list(ids) for ids in tokens]
        elif is_known(options):
            encoded = [self._encoder.encode(heal + option) for option in options]
        if not text.closed:
            self._options(operation, frame, name, text, encoded)
        if operation.attribute("by") == "unconditional":
            self._options(operation, frame, name, text.cut(1), encoded)
        chosen = text
        if not text.closed:
            chosen = self._generated(text, place, f"select {name}", operation)
        frame.known.bind(operation.results, (chosen, Unknown((*place, "value"), name)))
        self._said(frame)

    def _score(self, operation: Operation, frame: Frame) -> None:
        kv = operation.operands[0]
        text, heal = self._settle_healed(operation, frame)
        if heal and operation.attribute("heal") is None and not text.closed:
            frame.known.bind((kv,), (text.waiting((heal,), operation.span),))
        said = frame.known.get(operation.operands[1])
        sure = frame.sure
        frame.sure = sure and is_known(said)
        if (not is_known(said) or said) and not text.closed:
            ids = self._encoder.encode(heal + said) if is_known(said) else []
            self._options(operation, frame, "score", text, [ids] if ids else [])
        frame.sure = sure
        place = (self._row, frame.path, "score", frame.occurrence("score"), operation.span)
        frame.known.bind(operation.results, (Unknown(place, "score"),))

    def _options(
        self, operation: Operation, frame: Frame, name: str, text: Text, options: list[list[int]]
    ) -> None:
        """Note the calls that score a trie of options: the prompt, then each stretch."""
        self._note(operation, frame, name, text, len(text.elements) - 1)
        for start, stretch in stretches(options):
            said = text.plus(stretch, f"option of {name}", operation.span)
            self._note(operation, frame, name, said, len(text.elements) + start)


def stretches(options: Sequence[Sequence[int]], start: int = 0) -> Iterator[tuple[int, list[int]]]:
    """Yield what the scoring of a trie computes: (where it starts, tokens from the root on).

    A token after which no option goes on is never fed: its probability is known before it.
    """
    groups: dict[int, list[Sequence[int]]] = {}
    for option in options:
        if len(option) > start:
            groups.setdefault(option[start], []).append(option)
    for group in groups.values():
        end, live = start + 1, [option for option in group if len(option) > start + 1]
        if not live:
            continue
        while len({option[end] for option in live}) == 1:
            longer = [option for option in live if len(option) > end + 1]
            if not longer:
                break
            end, live = end + 1, longer
        yield start, list(live[0][:end])
        yield from stretches(live, end)


def _trailing(parts: Sequence[Part | Unknown]) -> int:
    count = 0
    while count < len(parts) and isinstance(parts[-1 - count], str):
        count += 1
    return count


def _last_text(parts: Sequence[Part | Unknown]) -> str:
    return "".join(str(part) for part in parts[len(parts) - _trailing(parts) :])
