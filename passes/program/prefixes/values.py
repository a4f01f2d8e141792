"""What is known of a plan's values before it runs: Python values, and names of unknown ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ....ir.core import Operation, Value
from ....ir.diagnostics import RunError
from ....ir.evaluate import evaluate
from ....ir.source import Span
from ....ir.values import format_value
from ....ir.vocabulary import Part, Tokenizer
from .boundaries import Boundaries


@dataclass(frozen=True)
class Unknown:
    """A value, or tokens of a stream, that only a run can tell; equal keys are equal values."""

    key: tuple[Any, ...]
    name: str = field(compare=False)

    def __str__(self) -> str:
        return self.name if self.key[0] == "text" else f"{{{self.name}}}"


MOST_TEXTS = 256
"""Texts whose ids an encoder remembers."""

Element = int | Unknown
"""What a stream is made of: a token id, or a stretch of tokens not known yet."""


@dataclass(frozen=True)
class Source:
    """Where the elements of a stream up to `end` come from."""

    end: int
    label: str
    span: Span | None


@dataclass(frozen=True)
class Text:
    """A kv value: elements, the sources of each stretch, and parts not yet encoded."""

    elements: tuple[Element, ...] = ()
    sources: tuple[Source, ...] = ()
    pending: tuple[Part | Unknown, ...] = ()
    spans: tuple[Span | None, ...] = ()
    """Of each pending part."""
    closed: bool = False
    """Whether nothing that follows matters: it begins as a call does that was noted."""

    def plus(self, elements: Sequence[Element], label: str, span: Span | None) -> Text:
        """Return the text with elements appended."""
        if not elements:
            return self
        whole = (*self.elements, *elements)
        sources = (*self.sources, Source(len(whole), label, span))
        return Text(whole, sources, self.pending, self.spans)

    def waiting(self, parts: Sequence[Part | Unknown], span: Span | None) -> Text:
        """Return the text with parts to be encoded when the model reads it."""
        spans = (*self.spans[: len(self.pending)], *(span for _ in parts))
        return Text(self.elements, self.sources, (*self.pending, *parts), spans)

    def cut(self, length: int) -> Text:
        """Return the first `length` elements."""
        kept = [source for source in self.sources if source.end < length]
        if length:
            kept.append(self.source(length - 1))
        return Text(self.elements[:length], tuple(kept))

    def source(self, at: int) -> Source:
        """Return where the element at a position comes from."""
        return next(source for source in self.sources if source.end > at)


class Encoder:
    """Encodes what is pending on a text as the runtime would, as far as it is known."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._boundaries = Boundaries(tokenizer)
        self._known: OrderedDict[str, list[int]] = OrderedDict()

    def encode(self, text: str) -> list[int]:
        """Return a text's ids; those of the latest texts are remembered."""
        ids = self._known.get(text)
        if ids is None:
            ids = self._known[text] = self.tokenizer.encode(text)
            if len(self._known) > MOST_TEXTS:
                self._known.popitem(last=False)
        return ids

    def settle(self, text: Text) -> Text:
        """Return the text with its pending parts encoded."""
        if not text.pending:
            return text
        elements, sources = list(text.elements), list(text.sources)
        for run, at in _runs(text.pending):
            if isinstance(run, int):
                elements.append(run)
            elif all(isinstance(part, str) for part in run):
                elements += self.encode("".join(map(str, run)))
            else:
                elements += self._open(run)
            sources.append(Source(len(elements), "", text.spans[at]))
        return Text(tuple(elements), tuple(sources))

    def settle_plain(self, text: Text) -> Text:
        """Return the same with one source for all: where its elements come from is not wanted."""
        if not text.pending:
            return text
        elements: list[Element] = [*text.elements]
        for special, parts in groupby(text.pending, _is_token):
            if special:
                elements += parts  # type: ignore[arg-type]
                continue
            for run, _ in _runs(tuple(parts)):
                known = len(run) == 1 and isinstance(run[0], str)
                elements += self.encode(run[0]) if known else self._open(run)
        return Text(tuple(elements), (Source(len(elements), "", None),))

    def _open(self, run: tuple[str | Unknown, ...]) -> list[Element]:
        """Encode a run with unknown parts: its certain beginning, and the rest as one unknown."""
        first = run[0] if isinstance(run[0], str) else ""
        cut = self._boundaries.certain(first)
        rest = (first[cut:], *(run[1:] if first else run))
        known = self.encode(first[:cut]) if cut else []
        return [*known, Unknown(("text", run), "".join(map(str, rest)))]


def _is_token(part: Part | Unknown) -> bool:
    return isinstance(part, int)


def _runs(parts: Sequence[Part | Unknown]) -> list[tuple[Any, int]]:
    """Split parts into ids and runs of texts and unknowns, each with where it starts.

    Adjacent texts are joined.
    """
    runs: list[tuple[Any, int]] = []
    for at, part in enumerate(parts):
        if isinstance(part, int):
            runs.append((part, at))
        elif runs and isinstance(runs[-1][0], tuple):
            last, start = runs[-1]
            joins = isinstance(part, str) and isinstance(last[-1], str)
            runs[-1] = ((*last[:-1], last[-1] + part) if joins else (*last, part)), start
        elif part != "":
            runs.append(((part,), at))
    return runs


class Known:
    """The values of one frame: `get` gives a Python value or an Unknown."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self.values: dict[str, Any] = dict(values or {})

    def get(self, value: Value) -> Any:
        """Return what a value is known to be."""
        return self.values[value.name]

    def bind(self, values: Sequence[Value], results: Sequence[Any]) -> None:
        """Let values stand for results."""
        if len(values) == len(results) == 1:
            self.values[values[0].name] = results[0]
            return
        for value, result in zip(values, results, strict=True):
            self.values[value.name] = result

    def compute(self, operation: Operation, place: tuple[Any, ...]) -> Any:
        """Return the result of a value operation; unknown operands make it unknown."""
        operands = [self.get(value) for value in operation.operands]
        if operation.name != "program.call_tool" and all(map(is_known, operands)):
            try:
                return evaluate(operation, operands)
            except RunError:
                pass
        name = operation.result.name if operation.results else operation.name
        if operation.name == "program.call_tool":
            return Unknown((*place, "tool", operation.result.name), name)
        keys = tuple(repr(operand) for operand in operands)
        return Unknown((operation.name, operation.attributes, keys), name)


def is_known(value: Any) -> bool:
    """Whether a value has no unknown part."""
    if isinstance(value, Unknown):
        return False
    if isinstance(value, list | tuple):
        return all(map(is_known, value))
    if isinstance(value, dict):
        return all(map(is_known, value.values()))
    return True


def as_part(value: Any) -> Part | Unknown:
    """Return a value as text; an unknown one, or a list with an unknown one, as itself."""
    if isinstance(value, Unknown):
        return value
    if not is_known(value):
        return Unknown(("format", repr(value)), "...")
    return format_value(value)
