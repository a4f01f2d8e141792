"""What written code (`row_code`) calls where a program asks: each waits until it is answered.

The same operations as `ModelCalls` and `Instance` run beside each other, of programs that ask in
turn: no operand is missing, nobody else works on a stream, and what was asked before is done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from ...ir.core import Operation
from ...ir.evaluate import best_of, branches_of
from ...ir.vocabulary import split_heal
from ..memory.sequence import Sequence as Tokens
from ..schedule.request import Request
from .control import Step
from .frame import Frame, Handle
from .gens import Gen
from .model_calls import ModelCalls
from .tasks import Branches
from .texts import Unencoded

Code = Callable[..., Step]
"""A function of written code."""


class Asks(ModelCalls):
    """The methods of written code; its first argument is the instance."""

    _call_tool: Callable[..., Step]
    _program: Callable[..., Step]

    def gen(self, gen: Gen, given: Handle, frame: Frame) -> Step:
        """Generate; returns the stream behind it and its value."""
        occurrence = frame.occurrence(gen.name)
        handle, texts = given.newest(), self._machine.texts
        heal = gen.heal
        if gen.heals:
            parts, heal = split_heal(handle.pending)
            if heal:
                given.settled = handle = Handle(handle.sequence, handle.length, parts)
        if wanted := texts.unencoded(handle.pending):
            yield Unencoded(wanted)
        settled = self._settled(given, handle, frame)
        if not settled.length:
            raise self._empty(gen.name, gen.span)
        sequence = settled.sequence
        request, listener = self._asked(gen, sequence, heal, frame, occurrence)
        self.meter.begin(sequence)
        yield request
        return self._said(gen, request, heal, listener, frame, occurrence)

    def select(self, operation: Operation, kv: Handle, options: list[str], frame: Frame) -> Step:
        """Choose an option; returns the stream behind it and the choice."""
        return self._select(operation, (kv, options), frame)

    def fork(
        self, operation: Operation, given: Handle, over: Any, code: Code, frame: Frame
    ) -> Step:
        """Run branches side by side; returns their values, and their streams where they give one.

        `code(frame, kv, element)` is what a branch runs; it returns a tuple.
        """
        name = operation["name"]
        occurrence = frame.occurrence(name)
        parent = yield from self._settle(given, frame)
        yield from self._opened(operation, parent.sequence, over, frame)
        branches = [
            self._left_by(code(inner, kv, element), inner)
            for inner, kv, element in self._forked(operation, parent, over, frame, occurrence)
        ]
        found = yield Branches(branches)
        return self._gathered(name, occurrence, found, frame)

    def _opened(self, operation: Operation, parent: Tokens, over: Any, frame: Frame) -> Step:
        """Let a device that does nothing begin with what branches go on from, before these are
        encoded and asked for."""
        length = self._engine.opening(parent)
        if length and len(branches_of(over, self.row, operation.span)) > 1:
            first = self._engine.fork(parent, length, self._order(), gives=True)
            what = Request(self._own(first, frame), operation["name"], row=self.row,
                           span=operation.span)  # fmt: skip
            yield from self._ask(first, what)
            self._free_sequence(first)

    def join(
        self, operation: Operation, handles: list[Handle], points: list[Any], frame: Frame
    ) -> tuple[Handle, int]:  # fmt: skip
        """Return the stream of the branch that has most points, and its number."""
        best = best_of(points, len(handles), self.row, operation.span)
        for number, handle in enumerate(handles):
            if number != best:
                self._free_now(handle)
        return self._taken(handles[best], frame), best

    def tool(self, operation: Operation, operands: list[Any]) -> Step:
        """Call a tool; returns its value, or where that is caught its failure."""
        return self._call_tool(operation, operands)

    def call(self, operation: Operation, operands: tuple[Any, ...], frame: Frame) -> Step:
        """Run another program on a stream of its own; returns its value."""
        inner = self._called(operation, frame)
        value = yield from self._program(operation["name"].name, operands, inner)
        self._free_owned(inner, ())
        return value

    def done_with(self, kv: Handle) -> None:
        """Give a stream back that nothing reads any more."""
        self._free_now(kv)

    def _forked(
        self, operation: Operation, parent: Handle, over: Any, frame: Frame, occurrence: int,
        seen: dict[str, Any] | None = None,
    ) -> Iterator[tuple[Frame, Handle, Any]]:  # fmt: skip
        """Fork a stream for each element; yields each branch's frame, its stream and its element.

        `seen`: the values that branches see.
        """
        elements = branches_of(over, self.row, operation.span)
        gives = bool(operation.attribute("shared")) and len(elements) > 1
        if elements:
            self.meter.begin(parent.sequence)  # its tokens are the row's, whichever branch reads
        for number, element in enumerate(elements):
            inner = frame.inner(operation["name"], occurrence, number, seen)
            child = self._engine.fork(parent.sequence, parent.length, self._order(), gives)
            self._own(child, inner)
            yield inner, Handle(child, child.length), element

    def _gathered(
        self, name: str, occurrence: int, found: Iterable[tuple[Any, ...]], frame: Frame
    ) -> tuple[list[Any], list[Any]]:
        """Return what branches give: their values, of which it tells, and their streams, if any."""
        given = list(found)
        values = [results[0] if results else None for results in given]
        self._tell(frame, name, occurrence, values)
        return values, [results[1] for results in given if len(results) > 1]

    def _taken(self, handle: Handle, frame: Frame) -> Handle:
        """Go on with a branch's stream as the frame's own."""
        sequence = handle.newest().sequence
        self._own(sequence, frame)
        if not frame.path:
            self.stream = sequence
        return handle

    def _called(self, operation: Operation, frame: Frame) -> Frame:
        """Return the frame of a program that is called: its samples are named by the call."""
        label, after = self._machine.call(operation)
        path = (*frame.path, (label, frame.occurrence(label), 0))
        return Frame(self.row, path, after=frame.after + after)

    def _free_owned(self, frame: Frame, kept: Collection[Tokens]) -> None:
        for sequence in list(frame.owned):
            if sequence not in kept:
                self._free_sequence(sequence)

    def _left_by(self, coroutine: Step, frame: Frame) -> Step:
        """Run a branch; what it has but what it gives is freed behind it."""
        results = yield from coroutine
        kept = {value.newest().sequence for value in results if isinstance(value, Handle)}
        self._free_owned(frame, kept)
        return results
