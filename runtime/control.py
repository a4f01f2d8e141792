"""Control flow and host values of a program instance: what runs the same on any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

from ..ir.core import Operation, Region
from ..ir.evaluate import evaluate
from ..ir.program import VALUE_NAMES
from .frame import Frame
from .later import Spawn, all_now, is_missing, now
from .tools import ToolCall, ToolFailed

Outcome = tuple[str, tuple[Any, ...]]
"""How a region ended: `yield`, `condition` or `return`, and with what."""

Step = Generator[Any, Any, Any]

_EXITS = frozenset({"return", "leave"})
"""What ends not only its own region: the program, or the inlined program that it stands in."""

_TERMINATORS = _EXITS | {"yield", "condition"}


class ControlFlow(ABC):
    """Runs regions, branches and loops, values and tools, as coroutines.

    A subclass has `row` and `_machine`, a `ticket` where runs are traced, and a method for each
    operation of streams: `_fork`, ... Operations that it lists as `issued` are dataflow: they start
    in the order of the program, run side by side, and whoever uses their results waits for them.
    Their methods take the operands, some of which may still be missing, and return the results.
    """

    row: int
    ticket: int = -1
    _machine: Any
    issued: frozenset[str] = frozenset()

    def _region(self, region: Region, values: tuple[Any, ...], frame: Frame) -> Step:
        frame.bind(region.arguments, values)
        for operation in region.operations:
            if operation.name in self.issued:
                yield from self._issue(operation, frame)
                continue
            if operation.name in VALUE_NAMES:
                yield from self._value(operation, frame)
                continue
            kind = operation.name.partition(".")[2]
            if kind in _TERMINATORS:
                return kind, tuple(frame.get(value) for value in operation.operands)
            outcome = yield from getattr(self, f"_{kind}")(operation, frame)
            if outcome is not None:
                return outcome
        return "yield", ()

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
        for item in items:
            values = (item, *carried)
            kind, results = yield from self._region(operation.regions[0], values, frame)
            if kind in _EXITS:
                return kind, results
            carried = list(results)
        frame.bind(operation.results, tuple(carried))

    def _while(self, operation: Operation, frame: Frame) -> Step:
        carried = tuple(frame.get(value) for value in operation.operands)
        test, body = operation.regions
        for _ in range(operation["limit"]):
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

    def _inline(self, operation: Operation, frame: Frame) -> Step:
        stream = frame.get(operation.operands[0])
        _, results = yield from self._region(operation.regions[0], (stream,), frame)
        frame.bind(operation.results, results)

    # Issued operations.

    def _issue(self, operation: Operation, frame: Frame) -> Step:
        """Start an operation; its results are bound at once, and there later."""
        operands = tuple(frame.get(value) for value in operation.operands)
        kind = operation.name.partition(".")[2]
        method = getattr(self, f"_issued_{kind}", None) or getattr(self, f"_{kind}")
        later = yield Spawn(method(operation, operands, frame))
        frame.expect(operation, later)

    # Host values.

    def _value(self, operation: Operation, frame: Frame) -> Step:
        operands = [frame.get(value) for value in operation.operands]
        if operation.name == "program.call_tool":
            operands = yield from all_now(operands)
            result = yield from self._call_tool(operation, operands)
        elif operation.name == "program.call":
            operands = yield from all_now(operands)
            result = yield from self._call_program(operation, operands, frame)
        elif any(map(is_missing, operands)):
            frame.expect(operation, (yield Spawn(self._value_later(operation, operands))))
            return
        else:
            result = evaluate(operation, operands, self.row)
        frame.bind(operation.results, (result,))

    def _value_later(self, operation: Operation, operands: list[Any]) -> Step:
        operands = yield from all_now(operands)
        return (evaluate(operation, operands, self.row),)

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
