"""Batching: what of a program is on its critical path, so that the scheduler takes that first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...cost_model.prices import Prices
from ...ir.core import Module, Operation, Value, walk
from ..manager import Context, PlanPass

CALLS = ("plan.decode", "plan.select", "plan.score", "plan.fork", "program.call")
"""What asks the model; these are annotated, and run side by side where nothing orders them."""

WAITING = frozenset({"plan.if", "plan.for"})
"""Operations that wait for their first operand, and all that stands behind them with them."""

_VALUE_TOKENS = 16
_TOOL_TOKENS = 16
_ITERATIONS = 4
"""What is taken for the tokens of a value, the time of a tool, the length of a list not known."""


@dataclass(frozen=True)
class Batching(PlanPass):
    """Annotate what asks the model with `critical`: the predicted time from its start to the
    program's end, in generated tokens.

    A gen counts its token budget, a prompt its tokens at the price of reading. Requests of one row
    are served by it, longest first, so that no join waits for a branch that began late. The pass
    also says which operations are independent, and which forks do the same work in every branch.
    """

    name: ClassVar[str] = "batching"
    writes: ClassVar[tuple[str, ...]] = ("plan", "program")
    requires: ClassVar[tuple[str, ...]] = ("planned",)
    ensures: ClassVar[tuple[str, ...]] = ("critical",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the annotated module."""
        prices = context.prices or Prices()
        paths = _Paths(module, prices)
        functions = []
        for operation in module.operations:
            if operation.name == "plan.func":
                say_what_is_independent(operation, context)
                say_what_is_duplicate(operation, context)
                operation = paths.annotated(operation)
            functions.append(operation)
        return Module(tuple(functions))


class _Paths:
    """Longest paths to the end, walked backwards; called programs, and loops, are measured once."""

    def __init__(self, module: Module, prices: Prices) -> None:
        self._functions = {
            op["name"].name: op for op in module.operations if op.name == "plan.func"
        }
        self._prices = prices
        self._lengths: dict[str, float] = {}
        self._of_round: dict[int, float] = {}
        self._constants = {
            op.result.name: op["value"] for op in module.walk() if op.name == "program.constant"
        }

    def annotated(self, function: Operation) -> Operation:
        walker = _Walk(self, self._constants, annotate=True)
        region = function.regions[0]
        body = walker.block(region.operations, lambda position: 0.0)
        length = max((walker.start(value) for value in region.arguments), default=0.0)
        function = replace(function, regions=(replace(region, operations=body),))
        return function.with_attributes(critical=round(max(length, walker.longest)))

    def length(self, name: str) -> float:
        """Return how long a program takes; one that calls itself is taken to be short."""
        if name not in self._lengths:
            self._lengths[name] = 0.0
            region = self._functions[name].regions[0]
            walker = _Walk(self, self._constants, annotate=False)
            walker.block(region.operations, lambda position: 0.0)
            self._lengths[name] = walker.longest
        return self._lengths[name]

    def round(self, loop: Operation) -> float:
        """Return how long one round of a loop takes by itself; `loop` is one of the module's."""
        if id(loop) not in self._of_round:
            walker = _Walk(self, self._constants, annotate=False)
            for region in loop.regions:
                walker.block(region.operations, lambda position: 0.0)
            self._of_round[id(loop)] = walker.longest
        return self._of_round[id(loop)]

    def cost(self, operation: Operation) -> float:
        """Return what an operation itself takes, in generated tokens."""
        match operation.name:
            case "plan.decode":
                return float(operation["max_tokens"])
            case "plan.select" | "plan.score":
                return 2.0
            case "plan.tokens":
                return len(operation["ids"]) * self._prices.ratio
            case "plan.tokenize":
                parts = operation["parts"]
                return _VALUE_TOKENS * len(parts) * self._prices.ratio
            case "program.call_tool":
                return float(_TOOL_TOKENS)
            case "program.call":
                return self.length(operation["name"].name)
        return 0.0


class _Walk:
    """One program's values with the longest time from each to the program's end."""

    def __init__(self, paths: _Paths, constants: dict[str, Any], annotate: bool) -> None:
        self._paths = paths
        self._constants = constants
        self._annotate = annotate
        self._tails: dict[str, float] = {}
        self.longest = 0.0
        self._behind = 0.0
        """The longest path that begins behind the block: a condition in it is waited for before."""
        self._left: Callable[[int], float] = lambda position: 0.0
        """The time from what the innermost inlined program is left with, early or at its end."""

    def start(self, value: Value) -> float:
        """Return the time from a value to the end."""
        return self._tails.get(value.name, 0.0)

    def block(
        self, operations: tuple[Operation, ...], ends: Callable[[int], float]
    ) -> tuple[Operation, ...]:
        """Walk operations backwards; `ends(position)` is the time from what they yield."""
        out: list[Operation] = []
        for operation in reversed(operations):
            out.append(self._operation(operation, ends))
        return tuple(reversed(out))

    def _operation(self, operation: Operation, ends: Callable[[int], float]) -> Operation:
        kind = operation.name.partition(".")[2]
        if kind in {"yield", "leave", "condition", "return"}:
            given = self._left if kind == "leave" else ends
            for position, value in enumerate(operation.operands):
                self._need(value, given(position) if kind != "return" else 0.0)
            if kind == "condition":
                self._need(operation.operands[0], max(self._behind, self.longest))
            return operation
        after = max((self.start(value) for value in operation.results), default=0.0)
        if operation.regions:
            operation, inside = self._regions(operation)
            path = max(inside, after)
        else:
            path = self._paths.cost(operation) + after
        self.longest = max(self.longest, path)
        for value in operation.operands:
            self._need(value, path)
        if operation.name in WAITING:
            self._need(operation.operands[0], max(self._behind, self.longest))
        if self._annotate and operation.name in CALLS:
            return operation.with_attributes(critical=round(path))
        return operation

    def _regions(self, operation: Operation) -> tuple[Operation, float]:
        """Walk an operation's regions; return it, and the longest path that begins in them."""
        results = [self.start(value) for value in operation.results]
        rounds = self._rounds(operation)
        repeated = 0.0
        if rounds > 1:
            repeated = (rounds - 1) * self._paths.round(operation)

        def ends(position: int) -> float:
            if operation.name == "plan.fork":
                return results[min(position, len(results) - 1)]
            found = results[position] if position < len(results) else max(results, default=0.0)
            return found + repeated

        regions, longest = [], 0.0
        before, behind, left, self.longest = self.longest, self._behind, self._left, 0.0
        self._behind = 0.0 if operation.name == "plan.fork" else max(behind, before) + repeated
        if operation.name == "plan.inline":
            self._left = ends
        for region in reversed(operation.regions):
            if operation.name != "plan.while":  # its condition stands before its body
                self.longest = 0.0
            body = self.block(region.operations, ends)
            regions.append(replace(region, operations=body))
            longest = max([longest, self.longest, *map(self.start, region.arguments)])
        self.longest, self._behind, self._left = max(before, longest), behind, left
        return replace(operation, regions=tuple(reversed(regions))), longest

    def _rounds(self, operation: Operation) -> int:
        if operation.name == "plan.while":
            return operation["limit"]
        if operation.name != "plan.for":
            return 1
        known = self._constants.get(operation.operands[0].name)
        return len(known) if isinstance(known, tuple) else _ITERATIONS

    def _need(self, value: Value, path: float) -> None:
        if path > self._tails.get(value.name, -1.0):
            self._tails[value.name] = path


def needs(operation: Operation) -> set[str]:
    """Return the names of the values that an operation uses, in its regions too."""
    return {value.name for inner in walk((operation,)) for value in inner.operands}


def waves(operations: tuple[Operation, ...]) -> list[tuple[Operation, int]]:
    """Return what asks the model in a list of operations, each with its wave.

    Operations of one wave do not need each other: they run side by side. A wave is one more than
    the largest among what an operation needs.
    """
    wave_of: dict[str, int] = {}
    found = []
    for operation in operations:
        wave = max((wave_of.get(name, 0) for name in needs(operation)), default=0)
        if operation.name in CALLS:
            found.append((operation, wave))
            wave += 1
        for value in operation.results:
            wave_of[value.name] = wave
    return found


def say_what_is_independent(function: Operation, context: Context) -> None:
    """Say which operations of each block run side by side."""
    blocks = [function.regions[0].operations]
    blocks += [region.operations for op in walk(function.regions[0].operations)
               for region in op.regions]  # fmt: skip
    for block in blocks:
        groups: dict[int, list[Operation]] = {}
        for operation, wave in waves(block):
            groups.setdefault(wave, []).append(operation)
        for group in groups.values():
            if len(group) > 1:
                named = ", ".join(map(call_name, group))
                context.did(f"{named} do not need each other: they run side by side", group[0].span)


def say_what_is_duplicate(function: Operation, context: Context) -> None:
    """Say which forks ask the same in every branch: greedy work, or samples of one prompt."""
    for operation in walk(function.regions[0].operations):
        if operation.name != "plan.fork":
            continue
        region = operation.regions[0]
        element = region.arguments[1].name
        inner = list(walk(region.operations))
        used = any(value.name == element for op in inner for value in op.operands)
        greedy = all(not op.attribute("temperature") for op in inner if op.name == "plan.decode")
        host = any(op.name in {"program.call_tool", "program.call"} for op in inner)
        if not used and not host and any(op.name in CALLS for op in inner):
            what = "are the same greedy work, computed once"
            if not greedy:
                what = "ask the same: on a CPU they are one row until they draw different tokens"
            context.did(f"fork {operation['name']}: all branches {what}", operation.span)


def call_name(operation: Operation) -> str:
    """Return what a message calls an operation."""
    kind = operation.name.partition(".")[2].replace("decode", "gen")
    name = operation.attribute("name")
    return kind if name is None else f"{kind} {getattr(name, 'name', name)}"
