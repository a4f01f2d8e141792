"""Control flow and host values of a program instance: what runs the same on any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from typing import Any

from ...ir.core import Operation, Region
from ...ir.types import KV, STREAM
from ..interrupts import interrupted
from .frame import Frame
from .future_values import (
    LINKS,
    STANDS_IN,
    Later,
    Spawn,
    all_now,
    is_missing,
    links_of,
    now,
    present,
    when_there,
)
from .lines import AT_ONCE, ENDS, ISSUED, Line, Results
from .tasks import StepEnd
from .tools import ToolCall, ToolFailed

WAITED = 1 << 10
"""Rounds of a loop after which its streams are waited for, to look how long they are."""

Outcome = tuple[str, tuple[Any, ...]]
"""How a region ended: `yield`, `condition` or `return`, and with what."""

Step = Generator[Any, Any, Any]

_EXITS = frozenset({"return", "leave"})
"""What ends not only its own region: the program, or the inlined program that it stands in."""


def _streams(operation: Operation, carried: Iterable[Any]) -> list[Any]:
    """Return the streams among the values that a loop carries."""
    values = zip(operation.results, carried, strict=True)
    return [value for result, value in values if result.type in {KV, STREAM}]


def is_seldom(number: int) -> bool:
    """Return whether a round's number is a power of two, or 0."""
    return not number & (number - 1)


class ControlFlow(ABC):
    """Runs regions, branches and loops, values and tools, as coroutines.

    A subclass has `row` and `_machine` with its `lines` and `effects`, a `ticket` where runs are
    traced, and a method for each operation of streams: `_fork`, ... Operations that it lists as
    `issued` are dataflow: they start in the order of the program, run side by side, and whoever
    uses their results waits for them. Their methods take the operands, some of which may still be
    missing, and return the results. What it lists as `at_once` gives its results as soon as its
    operands are there, as host values do.
    """

    row: int
    ticket: int = -1
    _machine: Any
    issued: frozenset[str] = frozenset()
    at_once: Mapping[str, Results] = {}

    def _region(self, region: Region, values: tuple[Any, ...], frame: Frame) -> Step:
        frame.bind(region.arguments, values)
        known = frame.values
        for line in self._machine.lines.of(region, type(self), self.issued, self.at_once):
            kind, operation = line.kind, line.operation
            if kind == AT_ONCE:
                operands, missing = [], False
                for name in line.operands:
                    value = known[name]
                    if isinstance(value, STANDS_IN):
                        value = present(value)
                        missing = missing or isinstance(value, STANDS_IN)
                    operands.append(value)
                if missing:
                    if line.sure and (links := links_of(operands)) < LINKS:
                        later = Later(links + 1)
                        when_there(operands, partial(self._settle_line, line, later))
                        frame.expect(operation, later)
                    else:
                        frame.expect(operation, (yield Spawn(self._all_there(line, operands))))
                    continue
                results = line.run(operation, operands, self.row)
                for name, result in zip(line.results, results, strict=True):
                    known[name] = result
            elif kind == ISSUED:
                yield from self._issue(line, frame)
            elif kind == ENDS:
                return line.run, tuple(frame.get(value) for value in operation.operands)
            else:
                outcome = yield from getattr(self, line.run)(operation, frame)
                if outcome is not None:
                    return outcome
        return "yield", ()

    def _settle_line(self, line: Line, later: Later, operands: list[Any]) -> None:
        later.settle(line.run(line.operation, operands, self.row))

    def _all_there(self, line: Line, operands: list[Any]) -> Step:
        """Wait for operands; return the results that come of them at once."""
        operands = yield from all_now(operands)
        return line.run(line.operation, operands, self.row)

    def _if(self, operation: Operation, frame: Frame) -> Step:
        condition = yield from now(frame.get(operation.operands[0]))
        region = operation.regions[0 if condition else 1]
        kind, results = yield from self._region(region, (), frame)
        if kind in _EXITS:
            return kind, results
        frame.bind(operation.results, results)

    def _for(self, operation: Operation, frame: Frame) -> Step:
        first, *carried = (frame.get(value) for value in operation.operands)
        items = yield from now(first)
        for number, item in enumerate(items):
            yield from self.round(operation, number, _streams(operation, carried))
            values = (item, *carried)
            kind, results = yield from self._region(operation.regions[0], values, frame)
            if kind in _EXITS:
                return kind, results
            carried = list(results)
        frame.bind(operation.results, tuple(carried))

    def _while(self, operation: Operation, frame: Frame) -> Step:
        carried = tuple(frame.get(value) for value in operation.operands)
        test, body = operation.regions
        for number in range(operation["limit"]):
            yield from self.round(operation, number, _streams(operation, carried))
            frame.borrows = True
            _, (goes_on,) = yield from self._region(test, carried, frame)
            frame.borrows = False
            if not (yield from now(goes_on)):
                break
            kind, results = yield from self._region(body, carried, frame)
            if kind in _EXITS:
                return kind, results
            carried = results
        frame.bind(operation.results, carried)

    def round(self, operation: Operation, number: int, carried: Iterable[Any]) -> Step:
        """Begin round `number` of a loop, which may have very many: hear an interrupt, and look at
        the streams that it carries, seldom, so that all looks take as long as the last."""
        if interrupted():
            yield StepEnd()
        if is_seldom(number):
            yield from self._look_at(operation, number, carried)

    def _look_at(self, operation: Operation, number: int, carried: Iterable[Any]) -> Step:
        for value in carried:
            if number >= WAITED or not is_missing(value):
                self._check_text(operation, number, (yield from now(value)))

    @abstractmethod
    def _check_text(self, operation: Operation, rounds: int, value: Any) -> None:
        """Raise an error where a value is a stream that is too long for whatever could follow."""

    def _inline(self, operation: Operation, frame: Frame) -> Step:
        stream = frame.get(operation.operands[0])
        _, results = yield from self._region(operation.regions[0], (stream,), frame)
        frame.bind(operation.results, results)

    def _after_effects(self, operation: Operation, frame: Frame) -> Step:
        """Wait for all that was issued before an operation that may have effects."""
        if self._machine.effects.of(operation):
            yield from all_now(frame.missing())

    def _issue(self, line: Line, frame: Frame) -> Step:
        """Start an operation; its results are bound at once, and there later."""
        known, operation = frame.values, line.operation
        operands = tuple(present(known[name]) for name in line.operands)
        later = yield Spawn(getattr(self, line.run)(operation, operands, frame))
        frame.expect(operation, later)

    @abstractmethod
    def _call_program(self, operation: Operation, operands: list[Any], frame: Frame) -> Step:
        """Run another program on a stream of its own; the step's value is what that returns."""

    def _call_tool(self, operation: Operation, operands: list[Any]) -> Step:
        try:
            return (yield self._tool_call(operation, operands))
        except ToolFailed as failure:
            if not operation.attribute("catch"):
                raise
            return failure.value

    def _tool_call(self, operation: Operation, operands: list[Any]) -> ToolCall:
        name = operation["name"].name
        tool = self._machine.tools[name]
        return ToolCall(
            name, tool.function, tuple(operands), tool.returns, tool.timeout, self.row,
            operation.span, self.ticket,
        )  # fmt: skip
