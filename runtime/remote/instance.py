"""One row of a program on an endpoint: program IR on texts and messages, as a coroutine."""

from __future__ import annotations

from typing import Any

from ...ir.core import Operation
from ...ir.evaluate import best_of, branches_of
from ...ir.values import format_value
from ..programs.control import ControlFlow, Step
from ..programs.frame import Frame
from ..programs.future_values import all_now, now
from ..programs.tasks import Branches
from .calls import EndpointCalls, Operands
from .errors import TextTooLong
from .prompt import Stream

MOST_CHARACTERS = 1 << 22
"""Characters that a loop's text may fill: about a million tokens. What an endpoint's model holds is
not known before it is asked."""


class RemoteInstance(ControlFlow, EndpointCalls):
    """Runs one row; `run` is its coroutine. It waits for `Call`s, tools and branches.

    All operations on streams are dataflow: what does not wait for another answer is asked at once.
    """

    issued = frozenset(
        f"program.{kind}"
        for kind in ("literal", "append", "begin", "end", "gen", "select", "score", "fork", "join",
                     "call", "call_tool")
    )  # fmt: skip

    def run(self) -> Step:
        """Run the program; returns its value."""
        region = self._machine.function.regions[0]
        values = (Stream(), *self._arguments.values())
        _, results = yield from self._region(region, values, self.trunk)
        return (yield from now(results[0])) if results else None

    def _check_text(self, operation: Operation, rounds: int, value: Any) -> None:
        if not isinstance(value, Stream):
            return
        characters = sum(len(part.text) for part in value.parts)
        if characters > MOST_CHARACTERS:
            raise TextTooLong(
                row=self.row, rounds=rounds, characters=characters, most=MOST_CHARACTERS,
                span=operation.span,
            )  # fmt: skip

    # Streams.

    def _literal(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        stream = yield from now(operands[0])
        return (self._to(frame, stream.plus(operation["text"])),)

    def _append(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        stream, value = yield from all_now(operands)
        return (self._to(frame, stream.plus(format_value(value))),)

    def _begin(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        stream = yield from now(operands[0])
        return (self._to(frame, stream.begin(operation["role"])),)

    def _end(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        stream = yield from now(operands[0])
        return (self._to(frame, stream.end()),)

    def _fork(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        name = operation["name"]
        occurrence, seen = frame.occurrence(name), dict(frame.values)
        yield from self._after_effects(operation, frame)
        stream, over = yield from all_now(operands)
        elements = branches_of(over, self.row, operation.span)
        found = yield Branches([
            self._branch(operation, (stream, element), frame.inner(name, occurrence, number, seen))
            for number, element in enumerate(elements)
        ])  # fmt: skip
        values = [results[0] if results else None for results in found]
        self._tell(frame, name, occurrence, values)
        return values, [results[1] for results in found if len(results) > 1]

    def _branch(self, operation: Operation, values: Operands, frame: Frame) -> Step:
        _, given = yield from self._region(operation.regions[0], values, frame)
        return (yield from all_now(given))

    def _join(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        """Go on with the stream of the branch that has most points, the first of equals."""
        streams, points = yield from all_now(operands)
        best = best_of(points, len(streams), self.row, operation.span)
        return self._to(frame, streams[best]), best

    def _issued_call(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        """Run another program on a stream of its own; its samples are named by the call."""
        label = f"call {operation['name'].name}"
        inner = Frame(self.row, (*frame.path, (label, frame.occurrence(label), 0)))
        yield from self._after_effects(operation, frame)
        values = yield from all_now(operands)
        return ((yield from self._call_program(operation, values, inner)),)

    def _call_program(self, operation: Operation, operands: list[Any], frame: Frame) -> Step:
        region = self._machine.region(operation["name"].name)
        _, results = yield from self._region(region, (Stream(), *operands), frame)
        return (yield from now(results[0])) if results else None

    def _issued_call_tool(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        yield from self._after_effects(operation, frame)
        values = yield from all_now(operands)
        return ((yield from self._call_tool(operation, values)),)
