"""KV lifetimes are what a run shows: every path is walked, loops three times, forks twice.

Loops in loops multiply: a program whose walk would take more than `MOST` operations is not checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.core import Module, Operation, Region, Value, thaw, walk
from ...ir.types import KV
from ..manager import Context

ROUNDS = 3
"""So many that what the first one makes is read twice, if later ones read it at all."""

BRANCHES = 2

MOST = 4_000
"""Operations of a walk: six loops in each other have a few thousand, one more three times that."""

Tokens = frozenset[int]
"""What a kv holds on some path: numbers of `_Made`, in the order in which they were made."""


@dataclass
class _Made:
    """Tokens that one operation has added, once; `reads` counts the operations that read them."""

    maker: int
    varies: bool
    reads: Counter[int] = field(default_factory=Counter)


def lifetimes_hold(before: Module, after: Module, context: Context) -> Iterator[str]:
    """Yield each lifetime of a plan that says something else than a walk over its paths."""
    for function in after.operations:
        if function.name != "plan.func":
            continue
        try:
            walked = _Walk(function)
        except _TooLong:
            continue
        for number, operation in enumerate(walk(function.regions[0].operations)):
            found = operation.attribute("lifetime")
            made = [one for one in walked.made if one.maker == number]
            if made:  # else no path leads there
                have, want = thaw(found), _lifetime(number, made)
                if have != want:
                    name = f"%{operation.results[0].name} of {function['name'].name}"
                    yield f"the lifetime of {name} is {have}, and is walked as {want}"


def _lifetime(at: int, made: list[_Made]) -> dict[str, Any]:
    reads = sorted({number for one in made for number in one.reads}, key=lambda n: (n <= at, n))
    ends = zip(("first", "next", "last"), (reads[:1], reads[1:2], reads[-1:]), strict=True)
    found: dict[str, Any] = {"at": at, **{key: numbers[0] for key, numbers in ends if numbers}}
    found["reads"] = len(reads)
    if any(count > 1 for one in made for count in one.reads.values()):
        found["again"] = True
    return found | {"keep": "row" if any(one.varies for one in made) else "batch"}


class _TooLong(Exception):
    """A walk of more than `MOST` operations."""


class _Walk:
    """Walks a plan; a kv, or a list of them, is what it may hold on any path to there."""

    def __init__(self, function: Operation) -> None:
        self.made: list[_Made] = []
        self._walked = 0
        (region,) = function.regions
        operations = list(walk(region.operations))
        self._numbers = {id(operation): number for number, operation in enumerate(operations)}
        self._known = {op.result.name for op in operations if op.name == "plan.tokens"}
        self._known |= {op.result.name for op in operations
                        if op.name == "plan.tokenize" and not op.operands}  # fmt: skip
        self._left: list[list[Sequence[Tokens]]] = []
        self._region(region, [frozenset()] * len(region.arguments), {})

    def _region(
        self, region: Region, given: Sequence[Tokens], outer: dict[str, Tokens]
    ) -> list[Tokens] | None:
        """Return what the region's end gives; None where it leaves."""
        held = {**outer, **{v.name: has for v, has in zip(region.arguments, given, strict=True)}}
        for operation in region.operations:
            self._walked += 1
            if self._walked > MOST:
                raise _TooLong
            has = [held.get(value.name, frozenset()) for value in operation.operands]
            if operation.name == "plan.return":
                return None
            if operation.name == "plan.leave":
                self._left[-1].append(has)
                return None
            if operation.name in {"plan.yield", "plan.condition"}:
                return has
            results = self._operation(operation, has, held)
            if results is None:
                return None
            held |= {v.name: one for v, one in zip(operation.results, results, strict=False)}
        return []

    def _operation(
        self, operation: Operation, has: list[Tokens], held: dict[str, Tokens]
    ) -> Sequence[Tokens] | None:
        match operation.kind:
            case "extend" | "decode" | "select" | "score":
                return [self._call(operation, has[0])]
            case "if":
                sides = [self._region(region, (), held) for region in operation.regions]
                return _either([side for side in sides if side is not None])
            case "for":
                return self._loop(operation, has[1:], held)
            case "while":
                return self._loop(operation, has, held)
            case "fork":
                (region,) = operation.regions
                given = [has[0], *[frozenset()] * (len(region.arguments) - 1)]
                found = [self._region(region, given, held) for _ in range(BRANCHES)]
                return _either([one for one in found if one is not None])
            case "inline":
                self._left.append([])
                self._region(operation.regions[0], has[:1], held)
                return _either(self._left.pop())
        return [frozenset().union(*has) if _holds_kv(v) else frozenset() for v in operation.results]

    def _call(self, operation: Operation, has: Tokens) -> Tokens:
        number = self._numbers[id(operation)]
        if operation.kind != "extend":
            for one in has:
                self.made[one].reads[number] += 1
        if operation.kind == "score":
            return frozenset()
        own = operation.kind != "extend" or any(
            value.name not in self._known for value in operation.operands[1:]
        )
        self.made.append(_Made(number, own or any(self.made[one].varies for one in has)))
        return has | {len(self.made) - 1}

    def _loop(
        self, operation: Operation, carried: Sequence[Tokens], held: dict[str, Tokens]
    ) -> Sequence[Tokens]:
        *tests, body = operation.regions
        ends = [carried]
        for _ in range(ROUNDS):
            for test in tests:
                self._region(test, carried, held)
            index = [frozenset[int]()] * (len(body.arguments) - len(carried))
            found = self._region(body, [*index, *carried], held)
            if found is None:
                break
            ends.append(carried := found)
        return _either(ends) or ()


def _either(ends: Sequence[Sequence[Tokens]]) -> list[Tokens] | None:
    """Return what is held behind one of several ends; None of none."""
    if not ends:
        return None
    return [frozenset().union(*each) for each in zip(*ends, strict=True)]


def _holds_kv(value: Value) -> bool:
    return value.type == KV or (value.type.name == "list" and value.type.parameters == (KV,))
