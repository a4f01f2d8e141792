"""Prompt runs on their way to tokens: what a stream has gathered since the model last read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....ir.core import Names, Operation, Value, make
from ....ir.source import Span
from ....ir.types import KV, TOKENS
from ....ir.vocabulary import Part, Tokenizer, split_heal
from .ends import End

Piece = Part | Value
"""A token id, a text, or a host value that becomes text when the program runs."""

MOST_WAYS = 8
"""Ways to a stream whose messages are told apart: conditions after one another double them."""


@dataclass(frozen=True)
class StreamState:
    """A stream being lowered: its kv so far, the pieces not yet in it, its chat roles.

    `sealed` says that no text before `pieces` can join their first tokens; `suffix` closes the
    open chat message.
    """

    kv: Value
    pieces: tuple[Piece, ...] = ()
    sealed: bool = True
    roles: tuple[str, ...] = ()
    others: frozenset[tuple[str, ...]] = frozenset()
    """Its chat roles where another way leads here."""
    suffix: tuple[Part, ...] = ()
    span: Span | None = None
    spans: tuple[Span | None, ...] = ()
    """Of each piece."""
    ends: tuple[End, ...] = ()
    """What may stand before `pieces`."""

    @property
    def ways(self) -> frozenset[tuple[str, ...]]:
        """Its chat roles on every way here."""
        return self.others | {self.roles}

    def joined(self, ways: Iterable[StreamState]) -> StreamState:
        """Return the state with what it is on other ways here."""
        ways = tuple(ways)
        found = self.ways.union(*(way.ways for way in ways))
        ends = dict.fromkeys(end for way in (self, *ways) for end in way.ends)
        unlike = {_likeness(roles): roles for roles in sorted(found - {self.roles}, reverse=True)}
        others = frozenset(sorted(unlike.values())[:MOST_WAYS])
        return replace(self, others=others, ends=tuple(ends))

    def plus(self, *pieces: Piece, span: Span | None = None) -> StreamState:
        """Return the state with pieces appended."""
        whole = self.span.to(span) if self.span and span else (self.span or span)
        spans = (*self.spans[: len(self.pieces)], *(span for _ in pieces))
        return replace(self, pieces=(*self.pieces, *pieces), span=whole, spans=spans)

    def closed(self, by: str) -> StreamState:
        """Return the state where something ends a token without a text of its own."""
        return replace(self, ends=tuple(end.closed(by) for end in self.ends))

    def at(self, kv: Value, sealed: bool = True) -> StreamState:
        """Return the state with everything so far in `kv`."""
        return replace(self, kv=kv, pieces=(), sealed=sealed, span=None)


def _likeness(roles: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what chat templates look at of the messages before one: the first and the last two,
    and whose turn it is. Of ways that are alike in this one is compared."""
    return roles[:2], roles[-2:], len(roles) % 2


class SegmentWriter:
    """Turns pieces into `plan.tokens`, `plan.tokenize` and one `plan.extend`."""

    def __init__(self, tokenizer: Tokenizer, names: Names) -> None:
        self._tokenizer = tokenizer
        self._names = names

    def flush(
        self, state: StreamState, emit: Callable[[Operation], None], closing: bool
    ) -> StreamState:
        """Write the state's pieces; `closing` says that the model reads the kv next."""
        if not state.pieces:
            return state
        segments: list[Value] = []
        for operation in self._segments(state, closing):
            emit(operation)
            segments.append(operation.result)
        kv = self._names.value("kv", KV)
        emit(make("plan.extend", state.kv, *segments, results=(kv,), span=state.span))
        ends_sealed = closing or isinstance(state.pieces[-1], int)
        return state.at(kv, sealed=ends_sealed)

    def heal(self, state: StreamState) -> tuple[StreamState, str]:
        """Take the trailing space off, to be given back to the generation that follows."""
        if not state.pieces or isinstance(state.pieces[-1], Value):
            return state, ""
        kept, heal = split_heal((state.pieces[-1],))
        return replace(state, pieces=(*state.pieces[:-1], *kept)), heal

    def _segments(self, state: StreamState, closing: bool) -> Iterator[Operation]:
        """Yield closed segments for what is known, open ones for what is not."""
        known: list[int] = []
        shown, span, at = "", None, 0
        for run in _runs(state.pieces, state.sealed, closing):
            here = _joined(state.spans[at : at + len(run.pieces)])
            at += len(run.pieces)
            if run.closed:
                known += run.ids(self._tokenizer)
                shown += run.text()
                span = _joined((span, here))
                continue
            if known:
                yield self._tokens(known, shown, span or state.span)
                known, shown, span = [], "", None
            yield self._tokenize(run, here or state.span)
        if known:
            yield self._tokens(known, shown, span or state.span)

    def _tokens(self, ids: list[int], text: str, span: Span | None) -> Operation:
        result = self._names.value("known", TOKENS)
        return make("plan.tokens", results=(result,), span=span, ids=ids, text=text)

    def _tokenize(self, run: _Run, span: Span | None) -> Operation:
        values: list[Value] = []
        parts: list[object] = []
        for piece in run.pieces:
            if isinstance(piece, Value):
                parts.append({"value": len(values)})
                values.append(piece)
            else:
                parts.append(piece)
        hint = values[0].name + "_text" if values else "text"
        result = self._names.value(hint, TOKENS)
        return make("plan.tokenize", *values, results=(result,), span=span, parts=parts)


@dataclass(frozen=True)
class _Run:
    """Pieces between two borders: all ids, or texts and values that may join into tokens."""

    pieces: tuple[Piece, ...]
    closed: bool

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        if isinstance(self.pieces[0], int):
            return [piece for piece in self.pieces if isinstance(piece, int)]
        return tokenizer.encode(self.text())

    def text(self) -> str:
        return "".join(
            f"<{piece}>" if isinstance(piece, int) else str(piece) for piece in self.pieces
        )


def _joined(spans: Sequence[Span | None]) -> Span | None:
    """Return the span from the first of spans to the last."""
    there = [span for span in spans if span is not None]
    return there[0].to(there[-1]) if there else None


def _runs(pieces: tuple[Piece, ...], sealed: bool, closing: bool) -> Iterator[_Run]:
    """Split pieces at the borders between ids and text."""
    start = 0
    while start < len(pieces):
        is_id = isinstance(pieces[start], int)
        end = start
        while end < len(pieces) and isinstance(pieces[end], int) == is_id:
            end += 1
        run = pieces[start:end]
        known = all(isinstance(piece, str) for piece in run)
        left_closed = start > 0 or sealed
        right_closed = end < len(pieces) or closing
        yield _Run(run, is_id or (known and left_closed and right_closed))
        start = end
