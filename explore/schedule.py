"""The plan as a Gantt chart before it runs: what may run side by side, at predicted prices.

A gen takes all tokens that it may, a text that is not known yet `UNKNOWN_TOKENS`, a fork over an
unknown list two branches, a loop one round, an if its longer way, a tool nothing. Everything has
the machine for itself: what runs side by side shares no step here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..ir.core import Module, Operation, Region
from ..ir.display.timeline import Interval, Timeline, Track

UNKNOWN_TOKENS = 32
MOST_BRANCHES = 4
COLOURS = (("prefill", "purple"), ("gen", "orange"), ("score", "green"))


@dataclass(frozen=True)
class TokenPrices:
    """Seconds of a decode step of one sequence, and of a token in a long prefill."""

    decode: float
    prefill: float


@dataclass
class _State:
    """When a value is there, and the tokens of a kv that are not resident."""

    ready: float = 0.0
    pending: int = 0
    tokens: int = 0


@dataclass
class _Walk:
    plan: Module
    prices: TokenPrices
    defaults: dict[str, Any]
    tracks: dict[str, list[Interval]] = field(default_factory=dict)

    def region(self, region: Region, given: list[_State], known: dict[str, _State], track: str
               ) -> list[_State]:  # fmt: skip
        """Place a region's operations; return the states of what it yields."""
        values = known | {
            value.name: state for value, state in zip(region.arguments, given, strict=False)
        }
        result: list[_State] = []
        for operation in region.operations:
            result = self.operation(operation, values, track)
            for value, state in zip(operation.results, result, strict=False):
                values[value.name] = state
        last = region.operations[-1] if region.operations else None
        return [values.get(value.name, _State()) for value in last.operands] if last else []

    def operation(self, operation: Operation, values: dict[str, _State], track: str
                  ) -> list[_State]:  # fmt: skip
        """Place one operation; return the states of its results."""
        operands = [values.get(value.name, _State()) for value in operation.operands]
        ready = max((state.ready for state in operands), default=0.0)
        first = operands[0] if operands else _State()
        match operation.name:
            case "plan.tokens":
                return [_State(0.0, 0, len(operation["ids"]))]
            case "plan.tokenize":
                parts = sum(1 for part in operation["parts"] if not isinstance(part, int))
                return [_State(ready, 0, UNKNOWN_TOKENS * bool(parts))]
            case "plan.extend":
                added = sum(state.tokens for state in operands[1:])
                return [_State(ready, first.pending + added)]
            case "plan.decode":
                start = self._prefill(operation, ready, first.pending, track)
                end = start + operation["max_tokens"] * self.prices.decode
                self._add(track, start, end, f"gen {operation['name']}", "gen", operation)
                return [_State(end), _State(end)]
            case "plan.select" | "plan.score":
                start = self._prefill(operation, ready, first.pending, track)
                ids = operation.attribute("tokens") or ((0,) * UNKNOWN_TOKENS,)
                end = start + self.prices.decode + sum(map(len, ids)) * self.prices.prefill
                name = operation.attribute("name") or "score"
                self._add(track, start, end, f"select {name}", "score", operation)
                return [_State(end)] * len(operation.results)
            case "plan.fork":
                return self._fork(operation, first, ready, values, track)
        return self._inside(operation, operands, ready, values, track)

    def _inside(self, operation: Operation, operands: list[_State], ready: float,
                values: dict[str, _State], track: str) -> list[_State]:  # fmt: skip
        """Place what a loop or an if holds, once; else the results are there with the operands."""
        found = [[*operands]]
        carried = operands[1:] if operation.name in {"plan.if", "plan.for"} else operands
        element = [_State(ready)] if operation.name == "plan.for" else []
        for region in operation.regions:
            waits = [_State(max(one.ready, ready), one.pending) for one in element + carried]
            found.append(self.region(region, waits, values, track))
        end = max((state.ready for states in found for state in states), default=ready)
        longest = max(found, key=lambda states: max((one.ready for one in states), default=0.0))
        pending = max((state.pending for state in longest), default=0)
        return [_State(end, pending) for _ in operation.results]

    def _fork(self, operation: Operation, kv: _State, ready: float, values: dict[str, _State],
              track: str) -> list[_State]:  # fmt: skip
        ends, pending = [], kv.pending
        if operation.attribute("shared"):  # the first branch computes it, the others wait
            ready, pending = self._prefill(operation, ready, pending, track), 0
        for branch in range(self._width(operation)):
            name = f"{operation['name']}[{branch}]"
            inner = f"{track}.{name}" if track != "trunk" else name
            given = [_State(ready, pending), _State(ready)]
            states = self.region(operation.regions[0], given, values, inner)
            own = (one.end for key, found in self.tracks.items() if key.startswith(inner)
                   for one in found)  # fmt: skip
            ends.append(max([ready, *own, *(state.ready for state in states)]))
        return [_State(max(ends, default=ready)) for _ in operation.results]

    def _width(self, operation: Operation) -> int:
        known = self.defaults.get(operation.operands[1].name)
        length = len(known) if isinstance(known, tuple) else known if isinstance(known, int) else 2
        return max(1, min(length, MOST_BRANCHES))

    def _prefill(self, operation: Operation, start: float, tokens: int, track: str) -> float:
        end = start + tokens * self.prices.prefill
        if tokens:
            self._add(track, start, end, f"prefill {tokens}", "prefill", operation)
        return end

    def _add(self, track: str, start: float, end: float, name: str, kind: str,
             operation: Operation) -> None:  # fmt: skip
        key = f"line-{operation.span.line}" if operation.span else ""
        self.tracks.setdefault(track, []).append(Interval(start, end, name, kind, key))


def plan_chart(plan: Module, program: str, prices: TokenPrices, width: float) -> Timeline | None:
    """Return the predicted chart of a program's plan; None where it asks nothing of the model."""
    function = plan.symbol(program)
    defaults = {
        parameter["name"]: parameter.get("default") for parameter in function["parameters"]
    } | {op.result.name: op["value"] for op in plan.walk() if op.name == "program.constant"}
    walk = _Walk(plan, prices, defaults)
    region = function.regions[0]
    walk.region(region, [_State() for _ in region.arguments], {}, "trunk")
    tracks = tuple(Track(name, tuple(found)) for name, found in walk.tracks.items())
    return Timeline("the plan, predicted", tracks, width, colours=COLOURS) if tracks else None
