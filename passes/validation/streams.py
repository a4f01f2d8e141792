"""Passes over programs keep what a program does: the events of both modules are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...ir.core import Module, Operation, Region, walk
from ...ir.dialects.program import ANNOTATIONS, EFFECTS
from ..manager import Context
from .meaning import Event, Meaning, TooLarge, Trace
from .proofs import equal
from .terms import Term, Terms


@dataclass(frozen=True)
class SameEvents:
    """Every program does the same things on the same text; `droppable` kinds may be missing."""

    droppable: frozenset[str] = frozenset()

    def __call__(self, before: Module, after: Module, context: Context) -> Iterator[str]:
        """Yield what differs."""
        yield from _declared(before, after, context)
        terms = Terms()
        kept = {op["name"].name: op for op in after.operations if op.name == "program.func"}
        droppable = _Droppable.of(self.droppable, before)
        old = Meaning(terms, before, context.pure_tools)
        new = Meaning(terms, after, context.pure_tools)
        for function in before.operations:
            if function.name != "program.func":
                continue
            name = function["name"].name
            if name not in kept:
                if context.entry is None or name == context.entry:
                    yield f"program {name} is gone"
                continue
            try:
                traces = old.function(function), new.function(kept[name])
            except TooLarge:
                continue
            for problem in _differences(terms, *traces, droppable):
                yield f"program {name}: {problem}"
                break


@dataclass(frozen=True)
class _Droppable:
    """Which kinds of events may go, where nothing uses their values; not with a tool in them that
    is not pure, be it of one of the programs that `effects` names."""

    kinds: frozenset[str]
    effects: frozenset[str]

    @staticmethod
    def of(kinds: frozenset[str], module: Module) -> _Droppable:
        """Return the rule for a module: with the programs that call tools, or such programs."""
        pure = {op["name"] for op in module.operations if op.attribute("pure")}
        inside = {
            function["name"].name: [op for op in walk((function,)) if op.name in EFFECTS]
            for function in module.operations
            if function.name == "program.func"
        }
        found: set[str] = set()
        before = -1
        while before < len(found):
            before = len(found)
            found |= {
                name
                for name, operations in inside.items()
                for op in operations
                if op["name"].name in found
                or (op.name == "program.call_tool" and op["name"] not in pure)
            }
        return _Droppable(kinds, frozenset(found))

    def __call__(self, event: Event) -> bool:
        """Say whether an event may go."""
        if event.kind in self.kinds:
            return not self._has_effects(event)
        return event.kind in {"if", "for", "while"} and all(
            trace.end not in {"return", "leave"} and all(map(self, trace.events))
            for trace in event.inside
        )

    def _has_effects(self, event: Event) -> bool:
        called = event.kind == "call" and event.name in self.effects
        inner = (each for trace in event.inside for each in trace.events)
        return called or event.kind == "call_tool" or any(map(self._has_effects, inner))


def _declared(before: Module, after: Module, context: Context) -> Iterator[str]:
    """Yield which tools and records have changed or are gone, and programs' heads; a tool that
    nothing uses may go where it is known what will run."""
    kept = {(op.name, op["name"]): op for op in after.operations}
    for old in before.operations:
        new = kept.get((old.name, old["name"]))
        what = f"{old.name.partition('.')[2].replace('func', 'program')} {old['name'].name}"
        if new is None:
            if old.name == "program.record" or (old.name == "program.tool" and not context.entry):
                yield f"{what} is gone"
        elif replace(_bare(old), regions=()) != replace(_bare(new), regions=()):
            yield f"{what} is declared otherwise"


def _differences(terms: Terms, before: Trace, after: Trace, droppable: _Droppable) -> Iterator[str]:
    """Yield where two traces differ."""
    left = list(after.events)
    for event in before.events:
        may_go = droppable(event)
        if left and _alike(terms, event, left[0]):
            insides = zip(event.inside, left[0].inside, strict=True)
            found = [each for pair in insides for each in _differences(terms, *pair, droppable)]
            if not (found and may_go):  # else it has gone, and what follows begins like it
                left.pop(0)
                yield from found
        elif not may_go:
            yield _told(terms, event, left[0] if left else None)
            return
    for event in left:
        yield _told(terms, None, event)
    if before.end != after.end or not equal(terms, before.terms, after.terms):
        shown = [
            f"{trace.end} {', '.join(map(terms.describe, trace.terms))}"
            for trace in (before, after)
        ]
        yield f"it ends in {shown[0]}, after the pass in {shown[1]}"


def _alike(terms: Terms, one: Event, other: Event) -> bool:
    """Whether two events are the same, but for what is inside them."""
    heads = [
        (event.kind, event.name, event.attributes, len(event.inside)) for event in (one, other)
    ]
    return heads[0] == heads[1] and equal(terms, one.terms, other.terms)


def _told(terms: Terms, before: Event | None, after: Event | None) -> str:
    shown = [
        "nothing" if event is None else _shown(terms, event.kind, event.name, event.terms)
        for event in (before, after)
    ]
    return f"it does {shown[0]}, after the pass {shown[1]}"


def _shown(terms: Terms, kind: str, name: str, of: tuple[Term, ...]) -> str:
    return f"{kind} {name} on {', '.join(map(terms.describe, of))}"


def only_annotated(before: Module, after: Module, own: str = "") -> Iterator[str]:
    """Yield where a pass has changed anything but the annotation that is its own."""
    for old, new in zip(before.operations, after.operations, strict=False):
        if _without(old, {own}) != _without(new, {own}):
            yield f"{old.name} {old.attribute('name')} has changed in more than its annotations"
    if len(before.operations) != len(after.operations):
        yield "declarations were added or dropped"


def _bare(operation: Operation) -> Operation:
    """Return an operation without annotations, in its regions too."""
    return _without(operation, _ANNOTATED)


_ANNOTATED = {*ANNOTATIONS, "ahead", "budget", "critical", "lifetime", "prefix_hits"}


def _without(operation: Operation, keys: set[str]) -> Operation:
    kept = tuple((key, value) for key, value in operation.attributes if key not in keys)
    regions = tuple(
        Region(region.arguments, tuple(_without(inner, keys) for inner in region.operations))
        for region in operation.regions
    )
    return replace(operation, attributes=kept, regions=regions)
