"""Which programs ask for one thing at a time, each only once the one before it is answered.

What asks (gens, selects, forks, calls, tools) is dataflow: it starts as soon as what it needs is
there, so that independent work runs side by side. In most programs nothing is independent: each
gen reads a stream, or a value, that comes of the one before. There a row that waits where it asks
does the same at the same time, and no value is ever missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...ir.core import Operation, Region, Value, walk
from ...ir.types import KV
from .effects import Effects

DEEPEST, LOOPS = 80, 16
"""Regions in each other at most, and loops among them: Python nests 100 blocks and 20 loops."""

CALLS = 16
"""Programs that wait for one another at most: each takes some of Python's thousand frames."""

ASKS = frozenset({"plan.decode", "plan.select", "plan.fork", "program.call", "program.call_tool"})
"""What waits for something outside of the program."""


class _OutOfTurn(Exception):
    """An operation that need not wait for what was asked before it, or that is not waited for."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation


class InTurn:
    """Says of the programs of a plan, each before all that it calls, whether they ask in turn."""

    def __init__(self, programs: dict[str, Operation], effects: Effects) -> None:
        self._programs = programs
        self._effects = effects
        self._known: dict[int, Operation | None] = {}
        self._calls: dict[str, int] = {}
        for name, program in reversed(programs.items()):
            calls = (op for op in walk((program,)) if op.name == "program.call")
            most = max((self._calls.get(op["name"].name, 0) for op in calls), default=0)
            self._calls[name] = 1 + most

    def beside(self, name: str, called: bool = False) -> Operation | None:
        """Return what of a program runs beside something else; None: it asks in turn, and so does
        all that it calls.

        One that is `called` must also give its value only when all that it asked is answered.
        """
        region = self._programs[name].regions[0]
        return region.operations[0] if self._calls[name] > CALLS else self._of(region, called)

    def why_not(self, name: str, called: bool = False) -> str | None:
        """Return why a program does not ask in turn, for people; None where it does."""
        found = self.beside(name, called)
        if found is None:
            return None
        if not self.nests(name):
            return f"its blocks stand in each other more than {DEEPEST} deep, or {LOOPS} loops"
        if self._calls[name] > CALLS:
            return f"more than {CALLS} programs wait for one another below it"
        where = f" of line {found.span.line}" if found.span is not None else ""
        return f"the {found.name.partition('.')[2]}{where} may run beside others"

    def of_branch(self, fork: Operation) -> Operation | None:
        """Return the same of the branches of a fork, which must have no streams but their own."""
        (region,) = fork.regions
        own = all(value.type != KV for value in outer(region))
        return self._of(region, True) if own else fork

    def nests(self, name: str) -> bool:
        """Return whether regions of a program stand in each other as deeply as Python can nest."""
        return not _too_deep(self._programs[name].regions[0].operations)

    def _of(self, region: Region, waits: bool) -> Operation | None:
        if id(region) not in self._known:
            self._known[id(region)] = region.operations[-1]  # where programs call each other
            self._known[id(region)] = self._found(region, waits)
        return self._known[id(region)]

    def _found(self, region: Region, waits: bool) -> Operation | None:
        if _too_deep(region.operations):
            return region.operations[0]
        outer = {value.name: 0 for op in walk(region.operations) for value in op.operands}
        order = _Order(self, self._effects, outer)
        try:
            end = order.region(region, (0,) * len(region.arguments))
        except _OutOfTurn as found:
            return found.operation
        ends = [*order.returns, *([end] if end is not None else [])]
        late = (end.operation for end in ends if not end.all_caught_up)
        return next(late, None) if waits else None


def _too_deep(operations: Sequence[Operation], depth: int = 1, loops: int = 0) -> bool:
    """Return whether regions stand in each other more deeply than Python nests them."""
    if depth > DEEPEST or loops > LOOPS:
        return True
    return any(
        _too_deep(region.operations, depth + 1, loops + (op.name in {"plan.for", "plan.while"}))
        for op in operations
        for region in op.regions
    )


def outer(region: Region) -> list[Value]:
    """Return the values that a region uses and that stand outside of it, each once."""
    inner = {value.name for value in region.arguments}
    for operation in walk(region.operations):
        inner |= {value.name for value in operation.results}
        inner |= {value.name for each in operation.regions for value in each.arguments}
    used = {value.name: value for op in walk(region.operations) for value in op.operands}
    return [value for name, value in used.items() if name not in inner]


@dataclass
class _End:
    """How a way through a region ends: what was asked last there, what was waited for, and what
    the values that it gives wait for."""

    operation: Operation
    last: int
    base: int
    values: tuple[int, ...]

    def caught_up(self, at: int) -> bool:
        """Return whether a value is there only once all that was asked is answered."""
        return max(self.base, self.values[at]) >= self.last

    @property
    def all_caught_up(self) -> bool:
        """Return whether not all of the values are there before that."""
        return max((self.base, *self.values)) >= self.last

    @property
    def waited(self) -> bool:
        """Return whether whatever comes next does."""
        return self.base >= self.last


@dataclass
class _Order:
    """A walk through a region that numbers what asks; raises _OutOfTurn.

    `after[name]` is the number of something that a value is there only after, `base` that of
    something that has been waited for by whoever comes here. Both are lower bounds.
    """

    turns: InTurn
    effects: Effects
    after: dict[str, int]
    last: int = 0
    base: int = 0
    leaves: list[_End] = field(default_factory=list)
    returns: list[_End] = field(default_factory=list)
    _numbers: list[int] = field(default_factory=lambda: [0])

    def region(self, region: Region, arguments: Sequence[int]) -> _End | None:
        """Walk a region; None where every way ends more than it."""
        self._bind(region.arguments, arguments)
        for operation in region.operations:
            kind = operation.name.partition(".")[2]
            if kind in {"yield", "condition"}:
                return self._end(operation)
            if kind in {"leave", "return"}:
                ends = self.leaves if kind == "leave" else self.returns
                ends.append(self._end(operation))
                return None
            if kind in {"for", "while", "if", "inline"}:
                getattr(self, f"_{kind}")(operation)
            elif operation.name in ASKS:
                self._ask(operation)
            elif kind == "score":
                raise _OutOfTurn(operation)  # nobody waits for it
            else:
                found = max((self.after[value.name] for value in operation.operands), default=0)
                self._bind(operation.results, (found,) * len(operation.results))
        return None  # behind an if whose regions both end the program

    def _end(self, operation: Operation) -> _End:
        after = tuple(self.after[value.name] for value in operation.operands)
        return _End(operation, self.last, self.base, after)

    def _bind(self, values: Sequence[Value], after: Sequence[int]) -> None:
        self.after.update(zip((value.name for value in values), after, strict=True))

    def _number(self) -> int:
        self._numbers[0] += 1
        return self._numbers[0]

    def _inner(self) -> _Order:
        return replace(self)

    def _ready(self, operands: Sequence[Value]) -> int:
        return max((self.base, *(self.after[value.name] for value in operands)))

    def _ask(self, operation: Operation) -> None:
        ready = self._ready(operation.operands)
        if ready < self.last and not self.effects.of(operation):
            raise _OutOfTurn(operation)
        found = None
        if operation.name == "plan.fork":
            found = self.turns.of_branch(operation)
        elif operation.name == "program.call":
            found = self.turns.beside(operation["name"].name, called=True)
        if found is not None:
            raise _OutOfTurn(found)
        self.last = self._number()
        self._bind(operation.results, (self.last,) * len(operation.results))

    def _merge(self, results: Sequence[Value], ends: Sequence[_End]) -> None:
        """Go on behind several ways, of which one is taken."""
        if all(end.last == self.last for end in ends):  # none of them asks
            found = [min((end.values[at] for end in ends), default=0) for at in range(len(results))]
            self.base = max(self.base, min((end.base for end in ends), default=0))
        else:
            self.last = self._number()
            every = [all(end.caught_up(at) for end in ends) for at in range(len(results))]
            found = [self.last if caught else 0 for caught in every]
            if all(end.waited for end in ends):
                self.base = self.last
        self._bind(results, found)

    def _if(self, operation: Operation) -> None:
        self.base = self._ready(operation.operands)
        ways = [self._inner().region(region, ()) for region in operation.regions]
        self._merge(operation.results, [way for way in ways if way is not None])

    def _inline(self, operation: Operation) -> None:
        inner = replace(self, leaves=[])
        end = inner.region(operation.regions[0], [self.after[v.name] for v in operation.operands])
        self._merge(operation.results, [*inner.leaves, *([end] if end is not None else [])])

    def _for(self, operation: Operation) -> None:
        self.base = self._ready(operation.operands[:1])
        (body,) = operation.regions
        self._loop(operation.results, operation.operands[1:], body, (self.base,))

    def _while(self, operation: Operation) -> None:
        test, body = operation.regions
        self._loop(operation.results, operation.operands, body, (), test)

    def _loop(
        self, results: Sequence[Value], carried: Sequence[Value], body: Region,
        first: tuple[int, ...], test: Region | None = None,
    ) -> None:  # fmt: skip
        """Walk the rounds of a loop: carried values and what was waited for are caught up with all
        that was asked if they are so before it and behind each round."""
        regions = body.operations + (test.operations if test is not None else ())
        asks = any(operation.name in ASKS for operation in walk(regions))
        before = [self.after[value.name] for value in carried]
        caught = [max(self.base, after) >= self.last for after in before]
        waited = self.base >= self.last
        while True:
            entry = self._inner()
            entry.last = self._number() if asks else self.last
            entry.base = entry.last if waited else 0
            values = [entry.last if each else 0 for each in caught]
            if test is not None:
                entry.after |= zip((value.name for value in test.arguments), values, strict=True)
                goes_on = entry.region(test, values)
                assert goes_on is not None
                entry.base = max(goes_on.base, *goes_on.values)
            end = entry.region(body, (*first, *values))
            if end is None:
                break
            still = [each and end.caught_up(at) for at, each in enumerate(caught)]
            goes_on_waited = waited and end.waited
            if (still, goes_on_waited) == (caught, waited):
                break
            caught, waited = still, goes_on_waited
        self.last = self._number() if asks else self.last
        self._bind(results, [self.last if each else 0 for each in caught])
        if waited:
            self.base = self.last
