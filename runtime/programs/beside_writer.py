"""Python functions that run rows, of programs that ask for several things side by side.

What asks is started, and what stands for its results goes on as a value (`missing.Missing` says
which values may be such); it is waited for where control flow looks at it. Branches that ask in
turn, and find all values there, are written as such a program is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...ir.core import Operation, Region, Value
from ...ir.dialects.program import VALUE_NAMES
from ...ir.types import STR
from .code_pieces import listed
from .code_writer import Writer, hint_of
from .future_values import now
from .in_turn import ASKS, InTurn, outer
from .missing import Missing

_STARTED = ASKS - {"plan.fork"} | {"plan.join"}
"""Operations that are started; branches are, and scores, in their own ways."""

_MADE = VALUE_NAMES - {"program.result", "program.error"}
"""Operations that make a value of others."""


class BesideWriter(Writer):
    """Writes one program whose values may be missing."""

    def __init__(self, region: Region, in_turn: InTurn) -> None:
        super().__init__()
        self.bound["now"] = now
        self._taken.add("now")
        self._missing = Missing(region, in_turn)
        self._starts = True
        """What asks is started: not in a branch that asks in turn."""

    def _there(self, value: Value) -> str:
        name = super()._there(value)
        if not self._missing.of(value):
            return name
        self._waits += 1
        return f"(yield from now({name}))"

    def _may_miss(self, operation: Operation) -> bool:
        return any(map(self._missing.of, operation.operands))

    def _way(self, operation: Operation) -> Callable[[Operation], None]:
        if self._starts and operation.name in _STARTED:
            return self._start
        if operation.name in _MADE and self._may_miss(operation):
            return self._later
        return super()._way(operation)

    # What asks.

    def _start(self, operation: Operation) -> None:
        what, operands = self._bind(hint_of(operation), operation), self._of(operation.operands)
        self._wait(f"row.start({what}, {listed(operands)}, frame)", operation.results)

    def _score(self, operation: Operation) -> None:
        kv, text = self._of(operation.operands)
        what = self._bind(hint_of(operation), operation)
        self._wait(f"row.start_score({what}, {kv}, {text}, frame)", operation.results)

    def _fork(self, operation: Operation) -> None:
        if not self._starts:
            super()._fork(operation)
            return
        self._starts = not self._missing.waits(operation)
        seen = self._variables(outer(operation.regions[0]))
        what, kv, over, branch = self._forked(operation, seen)
        self._starts = True
        self._wait(f"row.start_fork({what}, ({kv}, {over}), {branch}, frame)", operation.results)

    def _variables(self, values: Iterable[Value]) -> list[str]:
        """Return the variables that have values, and those whose texts are in segments."""
        found: dict[str, None] = {}
        for value in values:
            names = self._of(self._sources.get(value.name, (value,)))
            found.update((name, None) for name in names if name in self._taken)
        return [*found]

    # Streams and values.

    def _free(self, operation: Operation) -> None:
        if not self._starts:
            super()._free(operation)
        elif not self._borrows:
            (kv,) = self._of(operation.operands)
            self._wait(f"row.give_back({self._bind('free', operation)}, {kv}, frame)", ())

    def _extend(self, operation: Operation) -> None:
        if not self._may_miss(operation):
            super()._extend(operation)
            return
        sources = [each for value in operation.operands[1:] for each in self._sources[value.name]]
        names = ", ".join(self._variables(operation.operands))
        sure = ", sure=True" if all(each.type == STR for each in sources) else ""
        function = f"lambda {names}: {self._extended(operation)}"
        what = self._bind("extend", operation)
        self._wait(f"row.when({what}, {function}, ({names},), frame{sure})", operation.results)

    def _later(self, operation: Operation) -> None:
        what = self._bind(operation.name.partition(".")[2], operation)
        operands = listed(self._of(operation.operands))
        self._wait(f"row.value({what}, {operands}, frame)", operation.results)
