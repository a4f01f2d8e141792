"""What a program does, in a normal form: its model calls, tools and branches in order.

Symbolic execution with streams as histories. Decided branches are taken and loops over known
lists run, so that a folded program has the meaning of the one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...ir.core import Module, Operation, Region, Symbol
from ...ir.dialects.program import ANNOTATIONS, VALUE_NAMES
from ...ir.types import STREAM
from .terms import Term, Terms

MOST_ROUNDS = 64
MOST_EVENTS = 20_000
"""Beyond these a loop is taken as unknown, or the program is too large to be checked."""


class TooLarge(Exception):
    """A program with more events than are looked at."""


@dataclass(frozen=True)
class Event:
    """A thing that a program does, on terms; `inside` are the traces of its regions."""

    kind: str
    name: str
    terms: tuple[Term, ...]
    attributes: tuple[Any, ...] = ()
    inside: tuple[Trace, ...] = ()


@dataclass(frozen=True)
class Trace:
    """The events of a region in order, and how it ends: `yield`, `return`, ... with terms."""

    events: tuple[Event, ...]
    end: str
    terms: tuple[Term, ...]


@dataclass
class _Frame:
    """What counts samples and effects: a program, or a branch of a fork."""

    name: Term
    seen: Counter[str] = field(default_factory=Counter)

    def site(self, terms: Terms, name: str) -> Term:
        """Return the place of the next thing of this name."""
        self.seen[name] += 1
        return terms.make("site", self.name, name, self.seen[name])


class Meaning:
    """Executes functions of a module on terms."""

    def __init__(
        self, terms: Terms, module: Module, pure_tools: Mapping[str, Callable[..., Any]] | None
    ) -> None:
        self._terms = terms
        self._run_pure = pure_tools or {}
        tools = (op for op in module.operations if op.name == "program.tool")
        self._pure = {op["name"].name for op in tools if op.attribute("pure")}
        self._left = MOST_EVENTS
        self._values: dict[str, Term] = {}

    def function(self, function: Operation) -> Trace:
        """Return what a `program.func` does; raises TooLarge."""
        region = function.regions[0]
        arguments = [self._terms.make("argument", at) for at in range(len(region.arguments))]
        arguments[0] = self._stream(arguments[0])
        frame = _Frame(self._terms.make("frame", "trunk"))
        self._values = {}
        return self._region(region, tuple(arguments), frame)

    def _region(self, region: Region, arguments: tuple[Term, ...], frame: _Frame) -> Trace:
        events: list[Event] = []
        end, terms = self._run(region, arguments, frame, events)
        return Trace(tuple(events), end, terms)

    def _run(
        self, region: Region, arguments: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[str, tuple[Term, ...]]:
        """Add a region's events to a list; return how it ends."""
        for value, term in zip(region.arguments, arguments, strict=True):
            self._values[value.name] = term
        for operation in region.operations:
            operands = tuple(self._values[value.name] for value in operation.operands)
            kind = operation.name.partition(".")[2]
            if kind in {"yield", "condition", "return", "leave"}:
                return kind, operands
            if operation.name in VALUE_NAMES:
                results: tuple[Term, ...] | _Ended = (
                    self._value(operation, operands, frame, events),
                )
            else:
                results = getattr(self, "_" + kind)(operation, operands, frame, events)
            if isinstance(results, _Ended):
                return results.end, results.terms
            for value, term in zip(operation.results, results, strict=False):
                self._values[value.name] = term
        return "yield", ()

    def _add(self, events: list[Event], event: Event) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooLarge
        events.append(event)

    # Values.

    def _value(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> Term:
        name = operation.attribute("name")
        symbol = name.name if isinstance(name, Symbol) else ""
        if operation.name == "program.call_tool" and symbol not in self._pure:
            site = frame.site(self._terms, f"tool {symbol}")
        elif operation.name == "program.call":
            site = frame.site(self._terms, f"call {symbol}")
        else:
            return self._terms.operation(operation, operands, self._run_pure)
        kind = operation.name.partition(".")[2]
        self._add(events, Event(kind, symbol, (site, *operands), _kept(operation)))
        return self._terms.make(kind, site, *operands)

    # Streams: a base that a model call or a region gave, and what was appended since.

    def _stream(self, base: Term, *pieces: Term) -> Term:
        """Return a stream with its texts joined; the end of a token that no text touches goes."""
        flat: list[Term] = []
        for piece in pieces:
            text = self._terms.kind(piece) in {"constant", "text", "shown"}
            if text and flat and self._terms.kind(flat[-1]) in {"constant", "text", "shown"}:
                flat[-1] = self._terms.text([flat[-1], piece])
            elif piece != self._border() or (flat and flat[-1] != piece) or not self._fresh(base):
                flat.append(piece)
        empty = self._terms.constant("")
        return self._terms.make("stream", base, *(piece for piece in flat if piece != empty))

    def _border(self) -> Term:
        return self._terms.make("border")

    def _fresh(self, base: Term) -> bool:
        """Whether no text that is not yet tokens stands before a base's end."""
        return self._terms.kind(base) in {"gen", "select", "branch"}

    def _plus(self, stream: Term, *pieces: Term) -> Term:
        _, base, *before = self._terms.shapes[stream]
        return self._stream(base, *before, *pieces)

    def _literal(self, operation: Operation, operands: Any, *_: Any) -> tuple[Term, ...]:
        return (self._plus(operands[0], self._terms.constant(operation["text"])),)

    def _append(self, operation: Operation, operands: Any, *_: Any) -> tuple[Term, ...]:
        return (self._plus(operands[0], self._terms.text([operands[1]])),)

    def _begin(self, operation: Operation, operands: Any, *_: Any) -> tuple[Term, ...]:
        return (self._plus(operands[0], self._terms.make("begin", operation["role"])),)

    def _end(self, operation: Operation, operands: Any, *_: Any) -> tuple[Term, ...]:
        return (self._plus(operands[0], self._terms.make("end", operation["role"])),)

    # The model.

    def _gen(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...]:
        kind, name = operation.name.partition(".")[2], operation["name"]
        site = frame.site(self._terms, name)
        self._add(events, Event(kind, name, (site, *operands), _kept(operation)))
        made = self._terms.make(kind, site, *operands)
        return self._stream(made), self._terms.make("said", made)

    _select = _gen

    def _score(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...]:
        self._add(events, Event("score", "", operands, _kept(operation)))
        self._close(operands[0], "score")
        return (self._terms.make("score", *operands),)

    def _close(self, stream: Term, by: str) -> None:
        """A fork or a score ends a token: whoever goes on with the stream sees the border."""
        closed = self._plus(stream, self._border())
        for name, term in self._values.items():
            if term == stream:
                self._values[name] = closed

    def _fork(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...]:
        site = frame.site(self._terms, operation["name"])
        branch = self._terms.make("branch", site, *operands)
        element = self._terms.make("element", branch)
        inner = _Frame(self._terms.make("frame", branch))
        outer = dict(self._values)
        trace = self._region(operation.regions[0], (self._stream(branch), element), inner)
        self._values = outer
        self._add(
            events,
            Event("fork", operation["name"], (site, *operands), _kept(operation), (trace,)),
        )
        self._close(operands[0], "fork")
        return tuple(
            self._terms.make("branches", branch, at) for at in range(len(operation.results))
        )

    def _join(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...]:
        made = self._terms.make("join", operation["how"], *operands)
        self._add(events, Event("join", operation["how"], operands))
        return self._stream(made), self._terms.make("chosen", made)

    # Control flow.

    def _if(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...] | _Ended:
        (condition,) = operands
        if self._terms.known(condition):
            taken = operation.regions[0 if self._terms.value(condition) else 1]
            end, terms = self._run(taken, (), frame, events)
            return terms if end == "yield" else _Ended(end, terms)
        traces = tuple(self._region(region, (), frame) for region in operation.regions)
        exits = [trace.end != "yield" for trace in traces]
        if any(exits) or any(trace.events for trace in traces):
            self._add(events, Event("if", "", operands, (), _without_yields(traces)))
        if all(exits):
            return _Ended("nowhere", ())
        if any(exits):
            return traces[exits.index(False)].terms
        pairs = zip(traces[0].terms, traces[1].terms, strict=True)
        return tuple(self._terms.choice(condition, *pair) for pair in pairs)

    def _for(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...] | _Ended:
        items, *carried = operands
        elements = self._terms.elements(items)
        if elements is None or len(elements) > MOST_ROUNDS:
            return self._loop(operation, operands, tuple(carried), True, frame, events)
        for element in elements:
            arguments = (element, *carried)
            end, terms = self._run(operation.regions[0], arguments, frame, events)
            if end != "yield":
                return _Ended(end, terms)
            carried = list(terms)
        return tuple(carried)

    def _while(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...] | _Ended:
        if operation["limit"] == 0:
            return operands
        first = self._region(operation.regions[0], operands, frame)
        if not first.events and self._terms.known(first.terms[0]):
            if self._terms.value(first.terms[0]) is False:
                return operands
        return self._loop(operation, operands, operands, False, frame, events)

    def _loop(
        self,
        operation: Operation,
        operands: tuple[Term, ...],
        carried: tuple[Term, ...],
        over_list: bool,
        frame: _Frame,
        events: list[Event],
    ) -> tuple[Term, ...]:
        """Run a loop's regions once, on unknown carried values."""
        kind = operation.name.partition(".")[2]
        loop = self._terms.make(kind, operation.attribute("limit"), *operands)
        types = [value.type for value in operation.results]
        arguments: list[Term] = []
        for at, type in enumerate(types):
            argument = self._terms.make("carried", loop, at)
            arguments.append(self._stream(argument) if type == STREAM else argument)
        if over_list:
            arguments.insert(0, self._terms.make("element", loop))
        traces = tuple(self._region(each, tuple(arguments), frame) for each in operation.regions)
        pure = not any(trace.events or trace.end in {"return", "leave"} for trace in traces)
        given = tuple(term for trace in traces for term in trace.terms)
        if not pure:
            terms = (self._terms.make("limit", operation.attribute("limit")), *operands)
            self._add(events, Event(kind, "", terms, (), traces))
        results = [self._terms.make("result", loop, at, *given) for at in range(len(types))]
        return tuple(
            self._stream(result) if type == STREAM else result
            for result, type in zip(results, types, strict=True)
        )

    def _inline(
        self, operation: Operation, operands: tuple[Term, ...], frame: _Frame, events: list[Event]
    ) -> tuple[Term, ...] | _Ended:
        inside: list[Event] = []
        end, terms = self._run(operation.regions[0], operands, frame, inside)
        if end == "leave" and not any(map(_leaves, inside)):
            for event in inside:
                self._add(events, event)
            return terms
        trace = Trace(tuple(inside), end, terms)
        self._add(events, Event("inline", operation["name"].name, operands, (), (trace,)))
        made = self._terms.make("inline", frame.site(self._terms, "inline"), *operands)
        return self._stream(made), self._terms.make("value", made)


@dataclass(frozen=True)
class _Ended:
    """A region that ended inside one of its operations."""

    end: str
    terms: tuple[Term, ...]


def _kept(operation: Operation) -> tuple[Any, ...]:
    """Return the attributes that mean something, in one order."""
    dropped = {*ANNOTATIONS, "name"}
    return tuple(sorted((key, repr(v)) for key, v in operation.attributes if key not in dropped))


def _without_yields(traces: tuple[Trace, ...]) -> tuple[Trace, ...]:
    """Return traces of an if: what they yield is in the terms of its results."""
    return tuple(
        Trace(trace.events, trace.end, ()) if trace.end == "yield" else trace for trace in traces
    )


def _leaves(event: Event) -> bool:
    """Whether an inlined program may be left inside an event."""
    return event.kind != "inline" and any(
        trace.end == "leave" or any(map(_leaves, trace.events)) for trace in event.inside
    )
