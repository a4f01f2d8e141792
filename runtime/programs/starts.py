"""What written code (`beside_writer`) calls where what it asks for may run beside what follows.

A started operation gives what stands for its results until they are there; whoever looks at a
value waits for it. The operations are those that `Instance` goes through, so nothing differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.core import Operation
from ...ir.evaluate import evaluate
from .asks import Asks, Code
from .control import Step
from .frame import Frame
from .future_values import (
    LINKS,
    STANDS_IN,
    Later,
    Part,
    Spawn,
    all_now,
    links_of,
    present,
    when_there,
)

HEAVY = frozenset({"plan.fork", "plan.select", "program.call"})
"""Operations that have sequences of their own while they run."""

COROUTINES = {
    "plan.decode": "_decode",
    "plan.select": "_select",
    "plan.join": "_join",
    "program.call": "_issued_call",
    "program.call_tool": "_issued_call_tool",
}
"""What runs an operation that is started."""


class Starts(Asks):
    """The methods of code whose values may be missing; its first argument is the instance."""

    _fork: Callable[..., Step]

    def start(self, operation: Operation, operands: tuple[Any, ...], frame: Frame) -> Step:
        """Start what asks for something; returns what stands for its results."""
        if operation.name in HEAVY:
            yield from self._room(frame)
        run = getattr(self, COROUTINES[operation.name])
        return self._begun(operation, (yield Spawn(run(operation, operands, frame))), frame)

    def start_fork(
        self, operation: Operation, operands: tuple[Any, ...], code: Code, frame: Frame
    ) -> Step:
        """Start branches, each of which runs `code(frame, kv, element)`."""
        yield from self._room(frame)
        later = yield Spawn(self._fork(operation, operands, frame, code))
        return self._begun(operation, later, frame)

    def start_score(self, operation: Operation, kv: Any, text: Any, frame: Frame) -> Step:
        """Start the scoring of a text once that is there."""
        return self._begun(operation, (yield from self._start_score(operation, kv, text, frame)),
                           frame)  # fmt: skip

    def value(self, operation: Operation, operands: tuple[Any, ...], frame: Frame) -> Step:
        """Return a host value, or what stands for it while an operand is missing."""
        evaluated = lambda *found: evaluate(operation, found, self.row)  # noqa: E731
        return (yield from self.when(operation, evaluated, operands, frame))

    def when(
        self, operation: Operation, function: Callable[..., Any], operands: tuple[Any, ...],
        frame: Frame, sure: bool = False,
    ) -> Step:  # fmt: skip
        """Return what a function gives, or what stands for that while an operand is missing.

        A function that is `sure` never fails: who gives the last operand calls it.
        """
        found = [*map(present, operands)]
        if not any(isinstance(value, STANDS_IN) for value in found):
            return function(*found)
        if sure and (links := links_of(found)) < LINKS:
            later = Later(links + 1)
            when_there(found, lambda there: later.settle((function(*there),)))
        else:
            later = yield Spawn(_once_there(function, found))
        return self._begun(operation, later, frame)

    def give_back(self, operation: Operation, kv: Any, frame: Frame) -> Step:
        """Give a stream back once nothing reads it any more."""
        return self._free_unread(operation, present(kv), frame)

    def _begun(self, operation: Operation, later: Later, frame: Frame) -> Any:
        """Take note of what is under way; return its result, or the tuple of several."""
        frame.under_way(operation, later)
        if len(operation.results) == 1:
            return present(Part(later, 0))
        return tuple(present(Part(later, index)) for index in range(len(operation.results)))


def _once_there(function: Callable[..., Any], operands: list[Any]) -> Step:
    return (function(*(yield from all_now(operands))),)
