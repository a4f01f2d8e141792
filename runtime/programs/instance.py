"""One program instance: a plan's operations on host values and kv handles, as a coroutine.

The operations that ask the model are dataflow: each starts as soon as what it needs is there, so
that independent forks, calls and scores of one program run side by side. Control flow waits for
its conditions. A tool that may have effects waits for all that stands before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ...ir.core import Operation
from ...ir.evaluate import best_of
from ..memory.sequence import Sequence
from ..schedule.limits import TextTooLong
from .asks import Code
from .control import ControlFlow, Step
from .frame import Frame, Handle
from .future_values import Later, Spawn, all_now, now
from .lines import Line
from .model_calls import TEXTS
from .starts import HEAVY, Starts
from .tasks import Branches

CONTEXTS = 16
"""Contexts that a loop's text may fill. Beyond one nothing can be generated behind it, which not
every text is for."""


class Instance(ControlFlow, Starts):
    """Runs one row of a plan; `run` is its coroutine."""

    issued = frozenset(
        {
            "plan.decode",
            "plan.select",
            "plan.fork",
            "plan.join",
            "program.call",
            "program.call_tool",
        }
    )

    at_once = TEXTS

    def run(self) -> Step:
        """Run the plan; returns its value."""
        name = self._machine.function["name"].name
        return (yield from self._program(name, self.arguments.values(), self.trunk))

    def _program(self, name: str, arguments: Iterable[Any], frame: Frame) -> Step:
        """Run a program on a new stream; returns its value."""
        values = (Handle(self._own(self._engine.create(self._order()), frame), 0), *arguments)
        code = self._machine.code.get(name)
        if code is not None:
            return (yield from code.function(self, frame, *values))
        region = self._machine.programs[name].regions[0]
        _, results = yield from self._region(region, values, frame)
        return (yield from now(results[0])) if results else None

    def _check_text(self, operation: Operation, rounds: int, value: Any) -> None:
        if not isinstance(value, Handle):
            return
        context = self._engine.executor.context_length
        most = CONTEXTS * context
        if value.length + value.gathered <= most:
            return
        handle = value.newest()
        tokens = handle.length + len(self._machine.texts.ids_of(handle.pending))
        if tokens > most:
            raise TextTooLong(
                row=self.row, rounds=rounds, tokens=tokens, times=CONTEXTS, context=context,
                span=operation.span,
            )  # fmt: skip

    def _issue(self, line: Line, frame: Frame) -> Step:
        if line.operation.name in HEAVY:
            yield from self._room(frame)
        yield from super()._issue(line, frame)

    def _fork(
        self, operation: Operation, operands: tuple[Any, ...], frame: Frame,
        code: Code | None = None,
    ) -> Step:  # fmt: skip
        name = operation["name"]
        occurrence, seen, gone = frame.occurrence(name), dict(frame.values), frame.set_out()
        earlier = frame.missing() if self._machine.effects.of(operation) else []
        parent = yield from self._settle(operands[0], frame)
        yield from all_now(earlier)
        over = yield from now(operands[1])
        branches = [
            self._branch(operation, kv, element, inner, code)
            for inner, kv, element in self._forked(operation, parent, over, frame, occurrence, seen)
        ]
        found = yield Branches(branches)
        yield from self._gone(gone, [leaving for _, leaving in found])
        return self._gathered(name, occurrence, (results for results, _ in found), frame)

    def _branch(
        self, operation: Operation, kv: Handle, element: Any, frame: Frame, code: Code | None
    ) -> Step:  # fmt: skip
        if code is not None:
            given = yield from code(frame, kv, element)
        else:
            _, given = yield from self._region(operation.regions[0], (kv, element), frame)
        results = yield from all_now(given)
        kept = {value.newest().sequence for value in results if isinstance(value, Handle)}
        return results, (yield from self._left(frame, kept))

    def _left(self, frame: Frame, kept: Collection[Sequence] = ()) -> Step:
        """Free what a frame has, at once if nothing in it is under way; return when it is done."""
        if under_way := (*frame.missing(), *frame.out()):
            return (yield Spawn(self._leave(under_way, frame, kept)))
        self._free_owned(frame, kept)
        done = Later()
        done.settle()
        return done

    def _leave(
        self, under_way: Iterable[Later], frame: Frame, kept: Collection[Sequence]
    ) -> Step:  # fmt: skip
        yield from all_now(under_way)
        self._free_owned(frame, kept)

    def _gone(self, gone: Later, leaving: list[Later]) -> Step:
        """Settle what says that an operation has no sequences of its own any more, once it has."""
        if all(each.ready for each in leaving):
            gone.settle()
        else:
            yield Spawn(self._gone_later(gone, leaving))

    def _gone_later(self, gone: Later, leaving: list[Later]) -> Step:
        yield from all_now(leaving)
        gone.settle()

    def _join(self, operation: Operation, operands: tuple[Any, ...], frame: Frame) -> Step:
        """Go on with the stream of the branch that has most points, the first of equals."""
        handles, points = yield from all_now(operands)
        best = best_of(points, len(handles), self.row, operation.span)
        for number, handle in enumerate(handles):
            if number != best:
                # A score that nothing waits for may still read it.
                yield Spawn(self._free_later(handle, []))
        return self._taken(handles[best], frame), best

    def _issued_call(self, operation: Operation, operands: tuple[Any, ...], frame: Frame) -> Step:
        """Run another program on a stream of its own; its samples are named by the call."""
        inner = self._called(operation, frame)
        gone = frame.set_out()
        yield from self._after_effects(operation, frame)
        values = yield from all_now(operands)
        result = yield from self._call_program(operation, values, inner)
        if inner.idle:
            self._free_owned(inner, ())
            gone.settle()
        else:
            yield from self._gone(gone, [(yield from self._left(inner))])
        return (result,)

    def _call_program(self, operation: Operation, operands: list[Any], frame: Frame) -> Step:
        return (yield from self._program(operation["name"].name, operands, frame))

    def _issued_call_tool(
        self, operation: Operation, operands: tuple[Any, ...], frame: Frame
    ) -> Step:
        yield from self._after_effects(operation, frame)
        values = yield from all_now(operands)
        return ((yield from self._call_tool(operation, values)),)
