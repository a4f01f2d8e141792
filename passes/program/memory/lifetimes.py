"""KV lifetimes: when each stretch of a plan's KV is made, read first, read next, and read last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ....ir.core import Module, Operation, Region, Value, freeze, walk
from ....ir.dialects.region_checks import leaves
from ....ir.types import KV
from ...manager import Context, PlanPass
from ...rewrite import rewrite_list

MAKES = {"plan.extend", "plan.decode", "plan.select"}
"""Operations that add tokens to a kv: each makes a stretch."""

READS = {"plan.decode", "plan.select", "plan.score"}
"""Operations for which the model reads all stretches of their kv."""

_CARRIES = {"plan.for", "plan.while"}
"""Loops that hand the kvs of a round to the next one."""

_LOOPS = {*_CARRIES, "plan.fork"}


@dataclass
class _Stretch:
    """What one operation adds to a stream: its number, and the numbers of those that read it."""

    maker: Operation
    number: int
    around: tuple[int, ...]
    reads: list[int] = field(default_factory=list)
    again: bool = False
    varies: bool = False


@dataclass(frozen=True)
class KVLifetimes(PlanPass):
    """Write on what adds tokens to a kv when these are read.

    `lifetime = {at, first, next, last, reads, again, keep}`: operations are numbered in the order
    of the text, `at` is the one itself, `first`, `next` and `last` are the first, second and last
    of the `reads` operations that read its tokens, those of a loop's next round last. `again`: one
    of them reads the same tokens several times, in rounds of a loop or branches of a fork.
    `keep = "batch"` where no value of the row comes before: all rows read the tokens;
    `keep = "row"` where they die with the row's last read.
    """

    name: ClassVar[str] = "kv-lifetimes"
    requires: ClassVar[tuple[str, ...]] = ("planned",)
    ensures: ClassVar[tuple[str, ...]] = ("lifetimes",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with lifetimes on what adds tokens."""
        return Module(
            tuple(
                _annotated(operation, context) if operation.name == "plan.func" else operation
                for operation in module.operations
            )
        )


def _annotated(function: Operation, context: Context) -> Operation:
    found = {stretch.maker.results[0].name: stretch for stretch in lifetimes(function)}
    spaces = {
        operation.result.name
        for operation in walk(function.regions[0].operations)
        if operation.name == "plan.tokenize" and operation["parts"] == (" ",)
    }

    def rule(operation: Operation) -> list[Operation] | None:
        if operation.name not in MAKES:
            return None
        stretch = found[operation.results[0].name]
        # A space behind a fork is no text of the program's: its branches begin with it, too.
        if not stretch.reads and operation.operands[-1].name not in spaces:
            context.left("tokens that no later call reads", operation.span)
        table = {
            "at": stretch.number,
            **_ends(stretch.number, stretch.reads),
            "again": stretch.again or None,
            "keep": "row" if stretch.varies else "batch",
        }
        kept = {key: value for key, value in table.items() if value is not None}
        return [operation.with_attributes(lifetime=freeze(kept))]

    (region,) = function.regions
    body = rewrite_list(region.operations, rule)
    return Operation(
        function.name, function.operands, function.attributes,
        (Region(region.arguments, body),), function.results, function.span,
    )  # fmt: skip


def _ends(at: int, reads: list[int]) -> dict[str, int]:
    """Return when tokens are read; the next round of a loop comes behind the rest of this one."""
    order = sorted(reads, key=lambda number: (number <= at, number))
    ends = zip(("first", "next", "last"), (order[:1], order[1:2], order[-1:]), strict=True)
    return {key: numbers[0] for key, numbers in ends if numbers} | {"reads": len(reads)}


def lifetimes(function: Operation) -> list[_Stretch]:
    """Return the stretches of a function with their reads, in the order of the text."""
    operations = function.regions[0].operations
    numbers = {id(op): number for number, op in enumerate(walk(operations))}
    sources, placed = dict(_sources(operations)), _loops(operations, ())
    stretches = {
        operation.results[0].name: _Stretch(operation, numbers[id(operation)], around)
        for operation, around in placed
        if operation.name in MAKES
    }
    own = {name for name, one in stretches.items() if _varies(one.maker, function)}
    for name, stretch in stretches.items():
        stretch.varies = not own.isdisjoint(_above(name, sources, stretches))
    carried = {
        id(loop): {name for given in _given(loop) for name in _above(given, sources, stretches)}
        for loop, _ in placed
        if loop.name in _CARRIES
    }
    for operation, around in placed:
        if operation.name not in READS:
            continue
        for name in _above(operation.operands[0].name, sources, stretches):
            maker = stretches[name]
            maker.reads.append(numbers[id(operation)])
            maker.again |= any(
                loop not in maker.around or name in carried.get(loop, ()) for loop in around
            )
    return list(stretches.values())


def _loops(
    operations: tuple[Operation, ...], around: tuple[int, ...]
) -> list[tuple[Operation, tuple[int, ...]]]:
    """Return every operation in the order of the text, with the loops and forks around it; a loop
    that ends in its first round is none."""
    found: list[tuple[Operation, tuple[int, ...]]] = []
    for operation in operations:
        found.append((operation, around))
        again = operation.name in _LOOPS and not leaves(operation.regions[-1])
        inner = (*around, id(operation)) if again else around
        for region in operation.regions:
            found += _loops(region.operations, inner)
    return found


def _sources(operations: tuple[Operation, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield of each kv value the kvs that it goes on from."""
    for operation in walk(operations):
        before = [value.name for value in operation.operands if _is_kv(value)]
        given = list(_given(operation))
        for value in operation.results:
            if _is_kv(value):
                yield value.name, [*before, *given]
        for region in operation.regions:
            for value in region.arguments:
                if _is_kv(value):
                    yield value.name, [*before, *given] if operation.name in _CARRIES else before


def _given(operation: Operation) -> Iterator[str]:
    """Yield the kvs that an operation's regions give to its results, or to their next round."""
    ends = [
        region.operations[-1]
        for region in operation.regions
        if region.operations and not leaves(region)
    ]
    if operation.name == "plan.inline":
        ends = list(_leaves(operation.regions[0]))
    for end in ends:
        yield from (value.name for value in end.operands if _is_kv(value))


def _leaves(region: Region) -> Iterator[Operation]:
    for operation in region.operations:
        if operation.name == "plan.leave":
            yield operation
        for inner in operation.regions if operation.name != "plan.inline" else ():
            yield from _leaves(inner)


def _is_kv(value: Value) -> bool:
    return value.type == KV or (value.type.name == "list" and value.type.parameters == (KV,))


def _above(
    name: str, sources: dict[str, list[str]], stretches: dict[str, _Stretch]
) -> Iterator[str]:
    """Yield the kvs after which a kv's stretches are called, its own among them."""
    todo, seen = [name], {name}
    while todo:
        name = todo.pop()
        if name in stretches:
            yield name
        fresh = dict.fromkeys(each for each in sources.get(name, ()) if each not in seen)
        seen.update(fresh)
        todo += fresh


def _varies(operation: Operation, function: Operation) -> bool:
    """Whether an operation's tokens depend on the row: all but known segments may."""
    if operation.name != "plan.extend":
        return True
    known = {
        op.result.name
        for op in walk(function.regions[0].operations)
        if op.name == "plan.tokens" or (op.name == "plan.tokenize" and not op.operands)
    }
    return any(value.name not in known for value in operation.operands[1:])
