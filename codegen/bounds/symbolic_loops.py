"""Loops for the bounds prover: the index's range, and invariants of carried integers.

Invariants are guessed from templates and kept if they hold at the start and in every round
(Houdini). Each guess has a switch, a boolean that implies it wherever the value appears.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import z3

from ...ir.core import Operation, Value
from ...ir.dialects.tile import extents_of
from ...ir.types import dtype_of
from .symbolic_expressions import UNKNOWN

if TYPE_CHECKING:
    from .symbolic import Lane, Values

GUESS = 1_000_000
"""Steps of z3's after which a guess is given up, as if it did not hold: what our kernels need is
found in a tenth of them. Of four carried pages some guesses are never decided: by as many steps as
an access has, the proof of attention over grouped items took 11.6 s of a core in place of 2.4."""

Guess = Callable[[Any, Any, Any], Any]
"""(value, its first value, how far the index has come) -> a condition."""


class Loop:
    """A `tile.for`: terms of its index, its carried values and its results."""

    def __init__(self, values: Values, operation: Operation) -> None:
        self._values, self.operation = values, operation
        self.index = z3.Int(operation.regions[0].arguments[0].name)
        self.step = operation.attribute("step", 1)
        self.switches: dict[tuple[int, int], Any] = {}
        self._settled = False

    def range(self) -> list[Any]:
        """Return what holds of the index inside the loop."""
        low, high = (self._values.at(value, ()) for value in self.operation.operands[:2])
        inside = [self.index >= low, self.index < high]
        return [*inside, (self.index - low) % self.step == 0] if self.step != 1 else inside

    def argument(self, position: int, lane: Lane) -> Any:
        """Return a carried value inside the loop."""
        return self._carried(position, lane, self._come(self.index))

    def result(self, position: int, lane: Lane) -> Any:
        """Return a carried value after the loop."""
        low, high = (self._values.at(value, ()) for value in self.operation.operands[:2])
        end = z3.FreshInt("end")
        self._values.constraints += [
            end >= low, (end - low) % self.step == 0, z3.Or(end == low, end - self.step < high),
        ]  # fmt: skip
        return self._carried(position, lane, self._come(end))

    def _come(self, index: Any) -> Any:
        return index - self._values.at(self.operation.operands[0], ())

    def _carried(self, position: int, lane: Lane, come: Any) -> Any:
        start = self.operation.operands[2 + position]
        if dtype_of(start.type) not in ("i32", "index", "i64"):
            return UNKNOWN
        term, first = z3.FreshInt(start.name), self._values.at(start, lane)
        for number, guess in enumerate(self._guesses):
            switch = self.switches.setdefault((position, number), z3.FreshBool("holds"))
            self._values.constraints.append(z3.Implies(switch, guess(term, first, come)))
        return term

    @cached_property
    def _guesses(self) -> list[Guess]:
        step = self.step
        fixed: list[Guess] = [
            lambda value, first, come: value >= 0,
            lambda value, first, come: value >= first,
            lambda value, first, come: value <= first,
            lambda value, first, come: value - first == come,
            lambda value, first, come: (value - first) * step == come,
            lambda value, first, come: (value - first) * step <= come,
            lambda value, first, come: value - first <= come + step - 1,
        ]
        limits = {str(term): term for value in self._values.kernel.regions[0].arguments
                  if value.type.name == "buffer"
                  for term in self._values.contents.extents(value)}  # fmt: skip
        below: list[Guess] = [_less(limit) for limit in limits.values()]
        return fixed + below + [_at_most(limit) for limit in limits.values()]

    def settle(self, path: list[Any]) -> None:
        """Find the guesses that are invariants, and assume them from now on where the loop is
        reached: `value < N` may hold of an inner loop for the sake of the rounds around it alone,
        and must not tell what follows these that N is no zero."""
        if self._settled:
            return
        self._settled = True
        cases = [
            (position, start, yielded)
            for position, (start, yielded) in enumerate(
                zip(
                    self.operation.operands[2:],
                    self.operation.regions[0].operations[-1].operands,
                    strict=True,
                )
            )
            if dtype_of(start.type) in ("i32", "index", "i64")
        ]
        conditions = [item for case in cases for item in self._conditions(*case)]
        alive = self._true_at_start(conditions, path)
        while True:
            kept = self._kept(alive, path)
            if len(kept) == len(alive):
                break
            alive = kept
        reached = z3.And(*path)
        self._values.constraints += [z3.Implies(reached, switch) for switch, _, _ in alive]

    def _conditions(
        self, position: int, start: Value, yielded: Value
    ) -> list[tuple[Any, Any, Any]]:
        """Return (switch, condition at the start, condition after a round) of each guess."""
        lane = self._values.lanes(extents_of(start.type))
        self.argument(position, lane)
        first, after = self._values.at(start, lane), self._values.at(yielded, lane)
        come = self._come(self.index + self.step)
        return [
            (self.switches[position, number], guess(first, first, z3.IntVal(0)),
             guess(after, first, come))
            for number, guess in enumerate(self._guesses)
        ]  # fmt: skip

    def _true_at_start(
        self, conditions: list[tuple[Any, Any, Any]], path: list[Any]
    ) -> list[tuple[Any, Any, Any]]:
        with self._values.assuming(path, GUESS) as solver:
            return [item for item in conditions if solver.check(z3.Not(item[1])) == z3.unsat]

    def _kept(
        self, alive: list[tuple[Any, Any, Any]], path: list[Any]
    ) -> list[tuple[Any, Any, Any]]:
        switches = [switch for switch, _, _ in alive]
        with self._values.assuming([*path, *self.range(), *switches], GUESS) as solver:
            return [item for item in alive if solver.check(z3.Not(item[2])) == z3.unsat]


def _less(limit: Any) -> Guess:
    return lambda value, first, come: value < limit


def _at_most(limit: Any) -> Guess:
    return lambda value, first, come: value <= limit
