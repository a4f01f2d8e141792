"""KV lifetimes: when each stretch of a plan's KV is made, read first, read next, and read last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ....ir.core import Module, Operation, Region, Value, freeze, walk
from ....ir.types import KV
from ...manager import Context, PlanPass
from ...rewrite import rewrite_list

MAKES = {"plan.extend", "plan.decode", "plan.select"}
"""Operations that add tokens to a kv: each makes a stretch."""

READS = {"plan.decode", "plan.select", "plan.score"}
"""Operations for which the model reads all stretches of their kv."""

_LOOPS = {"plan.for", "plan.while", "plan.fork"}


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
    of the `reads` operations that read its tokens. `again`: some of them stand in a loop or a fork
    that does not make the tokens, so that they read them several times. `keep = "batch"` where no
    value of the row comes before: all rows read the tokens; `keep = "row"` where they die with
    the row's last read.
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

    def rule(operation: Operation) -> list[Operation] | None:
        if operation.name not in MAKES:
            return None
        stretch = found[operation.results[0].name]
        if not stretch.reads:
            context.left("tokens that no later call reads", operation.span)
        table = {
            "at": stretch.number,
            **_ends(stretch.reads),
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


def _ends(reads: list[int]) -> dict[str, int]:
    ends = zip(("first", "next", "last"), (reads[:1], reads[1:2], reads[-1:]), strict=True)
    return {key: numbers[0] for key, numbers in ends if numbers} | {"reads": len(reads)}


def lifetimes(function: Operation) -> list[_Stretch]:
    """Return the stretches of a function with their reads, in the order of the text."""
    numbers = {id(op): number for number, op in enumerate(walk(function.regions[0].operations))}
    sources = dict(_sources(function.regions[0].operations))
    stretches: dict[str, _Stretch] = {}
    for operation, around in _loops(function.regions[0].operations, ()):
        if operation.name in READS:
            here = numbers[id(operation)]
            for maker in _above(operation.operands[0].name, sources, stretches):
                maker.reads.append(here)
                maker.again |= around != maker.around
        if operation.name in MAKES:
            stretch = _Stretch(operation, numbers[id(operation)], around)
            above = list(_above(operation.operands[0].name, sources, stretches))
            stretch.varies = _varies(operation, function) or any(one.varies for one in above)
            stretches[operation.results[0].name] = stretch
    return list(stretches.values())


def _loops(
    operations: tuple[Operation, ...], around: tuple[int, ...]
) -> list[tuple[Operation, tuple[int, ...]]]:
    """Return every operation in the order of the text, with the loops and forks around it."""
    found: list[tuple[Operation, tuple[int, ...]]] = []
    for operation in operations:
        found.append((operation, around))
        inner = (*around, id(operation)) if operation.name in _LOOPS else around
        for region in operation.regions:
            found += _loops(region.operations, inner)
    return found


def _sources(operations: tuple[Operation, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield of each kv value the kvs that it goes on from."""
    for operation in walk(operations):
        before = [value.name for value in operation.operands if _is_kv(value)]
        ends = [region.operations[-1] for region in operation.regions if region.operations]
        given = [value.name for end in ends for value in end.operands if _is_kv(value)]
        for value in operation.results:
            if _is_kv(value):
                yield value.name, [*before, *given]
        for region in operation.regions:
            for value in region.arguments:
                if _is_kv(value):
                    yield value.name, before


def _is_kv(value: Value) -> bool:
    return value.type == KV or (value.type.name == "list" and value.type.parameters == (KV,))


def _above(
    name: str, sources: dict[str, list[str]], stretches: dict[str, _Stretch]
) -> Iterator[_Stretch]:
    """Yield the stretches that a kv holds."""
    todo, seen = [name], {name}
    while todo:
        name = todo.pop()
        if name in stretches:
            yield stretches[name]
        fresh = [each for each in sources.get(name, ()) if each not in seen]
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
