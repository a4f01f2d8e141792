"""Streams to kv handles: text is gathered, and written as segments where the model reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....ir.constraints.tables import stop_strings
from ....ir.core import Operation, Value, make, walk
from ....ir.diagnostics import ModelError, PassError
from ....ir.dialects.program import SAMPLING, VALUE_NAMES, WHO
from ....ir.types import KV, STREAM
from ....ir.vocabulary import Frame
from ..roles import frame_of
from .boundaries import Side
from .ends import End, beginning, ending
from .segments import StreamState
from .select_trie import option_tokens

if TYPE_CHECKING:
    from .lower import Lowering

Begun = tuple[Operation, StreamState]
"""A message that begins, and the stream before it."""

_TERMINATORS = {"program.yield": "plan.yield", "program.condition": "plan.condition"}


class OtherOnAnotherWay(PassError):
    """A message that a chat template writes in one way or another by which messages came before,
    where these depend on a condition. Its text is lowered once."""

    template = "how the chat template begins this {role} message depends on a condition before it"
    hint = (
        "let the same roles come before it on both sides: each with a system message, for example"
    )


class StreamLowering:
    """Lowers one list of operations, with the states of the streams it can see."""

    def __init__(self, lowering: Lowering, streams: dict[str, StreamState]) -> None:
        self._lowering = lowering
        self._names = lowering.names
        self._writer = lowering.writer
        self.streams = dict(streams)
        self._newest: str | None = None
        self._out: list[Operation] = []
        self._branches: dict[str, tuple[Value, StreamState]] = {}
        self.outer: frozenset[str] = frozenset()

    def lower(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        """Return the plan operations of a list of program operations."""
        for operation in operations:
            self._lower(operation)
        return tuple(self._out)

    def _lower(self, operation: Operation) -> None:
        name = operation.name
        if name in VALUE_NAMES:
            self._out.append(operation)
        elif name in _TERMINATORS:
            operands = tuple(self._operand(value) for value in operation.operands)
            self._out.append(make(_TERMINATORS[name], *operands, span=operation.span))
        else:
            getattr(self, "_" + name.partition(".")[2])(operation)
        for value in operation.results:
            self._newest = value.name if value.type == STREAM else self._newest

    # Text: gathered, not yet written.

    def _literal(self, operation: Operation) -> None:
        self._append_pieces(operation, operation["text"])

    def _append(self, operation: Operation) -> None:
        self._append_pieces(operation, operation.operands[1])

    def _append_pieces(self, operation: Operation, *pieces: str | Value | int) -> None:
        state = self.streams[operation.operands[0].name]
        self.streams[operation.result.name] = state.plus(*pieces, span=operation.span)

    def _begin(self, operation: Operation) -> None:
        state = self.streams[operation.operands[0].name]
        role = operation["role"]
        frame = frame_of(self._lowering.chat, state.roles, operation)
        if self._written(operation, state.ways) - {frame}:
            raise OtherOnAnotherWay(role=role, span=operation.span)
        self._lowering.begun.append((operation, state))
        opened = state.plus(*frame.prefix, span=operation.span)
        self.streams[operation.result.name] = replace(
            opened, roles=(*state.roles, role), suffix=frame.suffix,
            others=frozenset((*other, role) for other in state.others),
        )  # fmt: skip

    def _written(self, message: Operation, ways: Iterable[tuple[str, ...]]) -> set[Frame]:
        """Return how the chat template writes a message after the roles of each way. A way that it
        refuses is none that a run takes, unless it refuses all: then its error is raised."""
        found: set[Frame] = set()
        refused: ModelError | None = None
        for roles in ways:
            try:
                found.add(frame_of(self._lowering.chat, roles, message))
            except ModelError as error:
                refused = error
        if refused is not None and not found:
            raise refused
        return found

    def _end(self, operation: Operation) -> None:
        state = self.streams[operation.operands[0].name]
        closed = state.plus(*state.suffix, span=operation.span)
        self.streams[operation.result.name] = replace(closed, suffix=())

    # The model reads the stream: gathered text is written.

    def _gen(self, operation: Operation) -> None:
        stream, value = operation.results
        constraint, table, forced, count = self._lowering.constraint(operation)
        before = self.streams[operation.operands[0].name]
        says = Side(table=table, stops=stop_strings(operation))
        if forced:
            state = self._flush(before.plus(forced, span=operation.span), closing=True)
            heal = ""
        else:
            state, heal = self._read(operation, before, says)
        kv = self._names.value("kv", KV)
        kept = {
            key: operation.attribute(key) for key in ("stop", "logprobs", "prefix", *SAMPLING, *WHO)
        }
        self._out.append(
            make(
                "plan.decode", state.kv, results=(kv, value), span=operation.span,
                name=operation["name"], type=operation["type"],
                max_tokens=operation["max_tokens"] - count, constraint=constraint,
                forced=forced or None, heal=heal or None,
                ends=self._lowering.tokenizer.end_ids, **kept,
            )
        )  # fmt: skip
        end = End(_called(operation), says)
        self.streams[stream.name] = replace(state.at(kv), ends=(end,))

    def _select(self, operation: Operation) -> None:
        stream, value = operation.results
        before, lowering = self.streams[operation.operands[0].name], self._lowering
        options = lowering.constants.get(operation.operands[1].name)
        says = Side(options if isinstance(options, tuple) else None)
        state, heal = self._read(operation, before, says)
        tokens = option_tokens(
            operation, options, before, heal, lowering.tokenizer, lowering.context
        )
        kv = self._names.value("kv", KV)
        self._out.append(
            make(
                "plan.select", state.kv, operation.operands[1], results=(kv, value),
                span=operation.span, name=operation["name"], by=operation.attribute("by"),
                heal=heal or None, prefix=operation.attribute("prefix"),
                tokens=tokens, **who(operation),
            )
        )  # fmt: skip
        end = End(_called(operation), says)
        self.streams[stream.name] = replace(state.at(kv), ends=(end,))

    def _score(self, operation: Operation) -> None:
        """Score on the text so far, which ends a token here; the healed space stays to come."""
        stream, text = operation.operands
        state, heal = self._read(operation, self.streams[stream.name], Side())
        self._out.append(
            make(
                "plan.score", state.kv, text, results=operation.results, span=operation.span,
                heal=heal or None, **who(operation),
            )
        )  # fmt: skip
        state = state.closed("a score")
        self.streams[stream.name] = state.plus(heal, span=operation.span) if heal else state

    def _read(
        self, operation: Operation, before: StreamState, says: Side
    ) -> tuple[StreamState, str]:
        """Write a stream that a call reads, and return it with the space that the call begins
        with."""
        state, heal = self._writer.heal(before)
        state = self._flush(state, closing=True)
        texts = says.texts and tuple(heal + text for text in says.texts)
        what = _called(operation)
        says = replace(says, texts=texts, start=heal)
        self._lowering.ends.note(state.ends, what, says, operation.span)
        return state, heal

    def _flush(self, state: StreamState, closing: bool) -> StreamState:
        """Write a stream's pieces out; note what they stand behind."""
        if not state.pieces:
            return self._writer.flush(state, self._out.append, closing)
        if not isinstance(state.pieces[0], int):
            self._lowering.ends.note(state.ends, "", beginning(state.pieces), state.spans[0])
        ends = ending(state.pieces)
        return replace(self._writer.flush(state, self._out.append, closing), ends=ends)

    def _return(self, operation: Operation) -> None:
        """End the program; text after the last gen is written too, for whoever reads the stream."""
        if self._newest is not None:
            state = self.streams[self._newest]
            self.streams[self._newest] = self._writer.flush(state, self._out.append, closing=False)
        self._out.append(make("plan.return", *operation.operands, span=operation.span))

    # What inner operations see.

    def _operand(self, value: Value) -> Value:
        """Return the value as the plan has it: a stream is written out, left open."""
        if value.type != STREAM:
            return value
        state = self._flush(self.streams[value.name], closing=False)
        self.streams[value.name] = state
        return state.kv

    def _result(self, value: Value) -> Value:
        return self._names.value("kv", KV) if value.type == STREAM else value

    def _flush_used(self, operations: tuple[Operation, ...]) -> dict[str, StreamState]:
        """Write out every stream that inner operations use; return all visible states."""
        for name in _used_streams(operations):
            if name in self.streams:
                state = self.streams[name]
                self.streams[name] = self._flush(state, closing=False)
        return dict(self.streams)


def _called(operation: Operation) -> str:
    name = operation.attribute("name")
    return f"{operation.name.partition('.')[2]} {name}" if name else "a score"


def who(operation: Operation) -> dict[str, Any]:
    """Return an operation's annotations of who computes it."""
    return {key: operation.attribute(key) for key in WHO}


def _used_streams(operations: tuple[Operation, ...]) -> Iterator[str]:
    seen: dict[str, None] = {}
    for operation in walk(operations):
        for value in operation.operands:
            if value.type == STREAM:
                seen[value.name] = None
    yield from seen
