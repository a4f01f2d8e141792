"""Which values of a program may be missing where they are used, of one that asks beside itself.

What asks is started there, and its results are there later; so is all that is made of them, until
it is waited for. Control flow waits for its conditions and lists, a branch for what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir.core import Operation, Region, Value
from .in_turn import ASKS, InTurn, outer


class Missing:
    """The names of values of a region that may be missing."""

    def __init__(self, region: Region, in_turn: InTurn) -> None:
        self._in_turn = in_turn
        self.names: set[str] = set()
        known = -1
        while known < len(self.names):  # loops carry values round
            known = len(self.names)
            self._walk(region)

    def of(self, value: Value) -> bool:
        """Return whether a value may be missing."""
        return value.name in self.names

    def waits(self, fork: Operation) -> bool:
        """Return whether the branches of a fork ask in turn, and find all values there."""
        (region,) = fork.regions
        return self._in_turn.of_branch(fork) is None and not any(map(self.of, outer(region)))

    def _walk(self, region: Region) -> None:
        for operation in region.operations:
            getattr(self, f"_{operation.name.partition('.')[2]}", self._plain)(operation)

    def _plain(self, operation: Operation) -> None:
        asks = operation.name in ASKS or operation.name == "plan.score"
        if asks or any(map(self.of, operation.operands)):
            self.names.update(value.name for value in operation.results)

    def _fork(self, operation: Operation) -> None:
        self._plain(operation)
        if not self.waits(operation):
            self._walk(operation.regions[0])

    def _if(self, operation: Operation) -> None:
        for region in operation.regions:
            self._walk(region)
            self._gives(region, operation.results)

    def _inline(self, operation: Operation) -> None:
        (region,) = operation.regions
        self._carry(region.arguments, operation.operands)
        self._walk(region)
        self._gives(region, operation.results)
        for end in _leaves(region):
            self._carry(operation.results, end.operands)

    def _for(self, operation: Operation) -> None:
        (body,) = operation.regions
        self._loop(operation, operation.operands[1:], body.arguments[1:], body)

    def _while(self, operation: Operation) -> None:
        test, body = operation.regions
        self._walk(test)
        for arguments in (test.arguments, body.arguments):
            self._loop(operation, operation.operands, arguments, body)

    def _loop(
        self, operation: Operation, first: Sequence[Value], arguments: Sequence[Value], body: Region
    ) -> None:  # fmt: skip
        self._carry(arguments, first)
        self._walk(body)
        self._gives(body, arguments)
        self._carry(operation.results, arguments)

    def _gives(self, region: Region, to: Sequence[Value]) -> None:
        end = region.operations[-1]
        if end.name == "plan.yield":
            self._carry(to, end.operands)

    def _carry(self, to: Sequence[Value], given: Sequence[Value]) -> None:
        self.names.update(a.name for a, b in zip(to, given, strict=True) if self.of(b))


def _leaves(region: Region) -> Iterator[Operation]:
    """Yield what ends an inlined program: not what ends one that is inlined inside of it."""
    for operation in region.operations:
        if operation.name == "plan.leave":
            yield operation
        elif operation.name != "plan.inline":
            for inner in operation.regions:
                yield from _leaves(inner)
