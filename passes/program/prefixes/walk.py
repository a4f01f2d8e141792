"""A plan run without a model: every call that it makes, with its prompt as far as it is known.

Known arguments give known texts. What a model or a tool will say stands as an `Unknown`, and two
streams that hold the same unknown share it. A condition that is not known runs both ways, a loop
of unknown length one round, a fork of unknown width one branch: calls made there are not `sure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ....ir.core import Module, Operation, Region, walk
from ....ir.diagnostics import RunError
from ....ir.dialects.program import VALUE_NAMES
from ....ir.evaluate import branches_of
from ....ir.vocabulary import Tokenizer
from .boundaries import common
from .calls import Call, CallWalk, Enough, Frame
from .values import Known, Text, Unknown, is_known

MOST_ROUNDS = 4096

_TERMINATORS = {f"plan.{kind}": kind for kind in ("yield", "condition", "return", "leave")}
_EXITS = {"plan.return", "plan.leave"}
_VALUES = VALUE_NAMES - {"program.call"}
_METHODS = {"program.call": "_call"} | {
    f"plan.{kind}": f"_{kind}"
    for kind in (
        "tokens", "tokenize", "extend", "decode", "select", "score", "fork", "join", "inline",
        "for", "while", "if", "free",
    )
}  # fmt: skip

Outcome = tuple[str, tuple[Any, ...]]


class PlanWalk(CallWalk):
    """Walks a plan's function; `row(number, arguments)` gives the calls of one row."""

    def __init__(self, plan: Module, name: str, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._programs = {
            operation["name"].name: operation
            for operation in plan.operations
            if operation.name == "plan.func"
        }
        self._function = self._programs[name]
        self._one_stream = not any(
            operation.name == "program.call" or operation.attribute("by") == "unconditional"
            for operation in walk(self._function.regions[0].operations)
        )
        self._stack: list[str] = []

    def row(self, number: int, arguments: Mapping[str, Any]) -> list[Call]:
        """Return a row's calls in program order; arguments left out are unknown."""
        self._row, self._calls, self._stack = number, [], []
        region = self._function.regions[0]
        values: list[Any] = [Text()]
        for parameter in self._function["parameters"]:  # a value's name may have a number behind it
            name = parameter["name"]
            unknown = Unknown((number, "argument", name), name)
            values.append(arguments.get(name, unknown))
        with suppress(Enough):
            self._region(region, values, Frame(Known()))
        return self._calls

    def beginning(self, arguments: Mapping[str, Any]) -> list[Call]:
        """Return a row's first calls: all that begin with known text that no other begins with.

        What follows a generated text on a stream begins as what stood before it. So nothing more
        is read of a stream behind such a text, and a program that calls no other, and scores
        nothing on an empty stream, is left at its first one.
        """
        self._first_unknown_ends, self._closes = self._one_stream, True
        try:
            return self.row(0, arguments)
        finally:
            self._first_unknown_ends = self._closes = False

    # Regions and control flow.

    def _region(self, region: Region, values: Sequence[Any], frame: Frame) -> Outcome:
        frame.known.bind(region.arguments, values)
        for operation in region.operations:
            if operation.name in _TERMINATORS:
                kind = _TERMINATORS[operation.name]
                return kind, tuple([frame.known.get(value) for value in operation.operands])
            if operation.name in _VALUES:
                self._value(operation, frame)
                continue
            outcome = getattr(self, _METHODS[operation.name])(operation, frame)
            if outcome is not None:
                return outcome
        return "yield", ()

    def _value(self, operation: Operation, frame: Frame) -> None:
        place = (self._row, frame.path, frame.occurrence(operation.name))
        frame.known.bind(operation.results, (frame.known.compute(operation, place),))

    def _if(self, operation: Operation, frame: Frame) -> Outcome | None:
        condition = frame.known.get(operation.operands[0])
        if is_known(condition):
            outcome = self._region(operation.regions[0 if condition else 1], (), frame)
        else:
            outcome = self._both(operation, frame)
        if f"plan.{outcome[0]}" in _EXITS:
            return outcome
        frame.known.bind(operation.results, outcome[1])
        return None

    def _both(self, operation: Operation, frame: Frame) -> Outcome:
        """Run both regions of an if; what they give alike is known."""
        sure, frame.sure = frame.sure, False
        outcomes = [self._region(region, (), frame) for region in operation.regions]
        going_on = [found for found in outcomes if f"plan.{found[0]}" not in _EXITS]
        if len(going_on) == 1:
            frame.left += [results for kind, results in outcomes if f"plan.{kind}" in _EXITS]
            return going_on[0]
        frame.sure = sure and not frame.left
        ways = [results for _, results in going_on or outcomes]
        return outcomes[0][0], tuple(self._alike(ways, operation, frame))

    def _alike(
        self, ways: Sequence[Sequence[Any]], operation: Operation, frame: Frame
    ) -> list[Any]:
        """Return what is known of values, of which one of several ways gives each."""
        place = (self._row, frame.path, operation.span, frame.occurrence(operation.name))
        return [self._merged(each, place, at) for at, each in enumerate(zip(*ways, strict=False))]

    def _merged(self, values: Sequence[Any], place: tuple[Any, ...], at: int) -> Any:
        """Return what is known of a value that is one of several."""
        if all(value == values[0] for value in values):
            return values[0]
        unknown = Unknown((*place, at), "one of several texts")
        if not isinstance(values[0], Text):
            return unknown
        texts = [self._encoder.settle(value) for value in values]
        shared = common([text.elements for text in texts])
        if shared == len(texts[0].elements) and texts[0].elements[-1:] == (unknown,):
            return texts[0]
        return texts[0].cut(shared).plus([unknown], "what a condition decides", place[-2])

    def _for(self, operation: Operation, frame: Frame) -> Outcome | None:
        items, *carried = (frame.known.get(value) for value in operation.operands)
        region = operation.regions[0]
        if is_known(items) or isinstance(items, list):
            for item in items[:MOST_ROUNDS]:
                kind, results = self._region(region, (item, *carried), frame)
                if f"plan.{kind}" in _EXITS:
                    return kind, results
                carried = list(results)
        else:
            carried = self._round(operation, region, (items.key, items.name), carried, frame)
        frame.known.bind(operation.results, carried)
        return None

    def _round(
        self, operation: Operation, region: Region, of: Any, carried: list[Any], frame: Frame
    ) -> list[Any]:
        """Run one round of a loop that may have none, or more."""
        sure, frame.sure = frame.sure, False
        place = (self._row, frame.path, operation.span, frame.occurrence(operation.name))
        item = [Unknown((*place, "item"), f"each of {of[1]}")] if of else []
        start, seen, left = len(self._calls), frame.seen.copy(), list(frame.left)
        while True:  # until what the round is given is all that any round is given
            del self._calls[start:]
            frame.seen, frame.left = seen.copy(), list(left)
            kind, results = self._region(region, (*item, *carried), frame)
            if f"plan.{kind}" in _EXITS:  # no further round is given what this one returns
                frame.left.append(results)
                results = carried
            pairs = zip(carried, results, strict=True)
            merged = [self._merged(pair, place, at) for at, pair in enumerate(pairs)]
            if merged == carried:
                break
            carried = merged
        frame.sure = sure and not frame.left
        return carried

    def _while(self, operation: Operation, frame: Frame) -> Outcome | None:
        carried = [frame.known.get(value) for value in operation.operands]
        test, body = operation.regions
        for _ in range(min(operation["limit"], MOST_ROUNDS)):
            _, (goes_on,) = self._region(test, carried, frame)
            if not is_known(goes_on):
                carried = self._round(operation, body, None, carried, frame)
                break
            if not goes_on:
                break
            kind, results = self._region(body, carried, frame)
            if f"plan.{kind}" in _EXITS:
                return kind, results
            carried = list(results)
        frame.known.bind(operation.results, carried)
        return None

    def _inline(self, operation: Operation, frame: Frame) -> None:
        stream, sure, left = frame.known.get(operation.operands[0]), frame.sure, frame.left
        frame.left = []
        _, results = self._region(operation.regions[0], (stream,), frame)
        given = self._alike([results, *frame.left], operation, frame)
        frame.sure, frame.left = sure, left
        frame.known.bind(operation.results, given)

    def _call(self, operation: Operation, frame: Frame) -> None:
        """Walk a called program: it has a stream of its own."""
        name = operation["name"].name
        label, operands = f"call {name}", [frame.known.get(value) for value in operation.operands]
        inner = frame.branch(label, frame.occurrence(label), 0, frame.sure)
        inner.known = Known()
        if name in self._stack:
            frame.known.bind(operation.results, (Unknown((*inner.path, self._row), name),))
            return
        self._stack.append(name)
        region = self._programs[name].regions[0]
        _, results = self._region(region, (Text(), *operands), inner)
        self._stack.pop()
        ways = [each[:1] or (None,) for each in (results, *inner.left)]
        frame.known.bind(operation.results, self._alike(ways, operation, frame))

    # Forks.

    def _fork(self, operation: Operation, frame: Frame) -> None:
        text, over = self._settle(operation, frame), frame.known.get(operation.operands[1])
        name, sure = operation["name"], frame.sure
        occurrence = frame.occurrence(name)
        elements: list[Any]
        each = isinstance(over, Unknown)
        if each:
            elements = [Unknown((self._row, frame.path, name, occurrence), f"each of {over.name}")]
        else:
            elements = self._branches(operation, over, sure)
        found = []
        for number, element in enumerate(elements):
            inner = frame.branch(name, occurrence, "each" if each else number, sure and not each)
            _, results = self._region(operation.regions[0], (text, element), inner)
            found.append(results)
        values: list[Any] = [[results[0] if results else None for results in found]]
        if len(operation.results) == 2:
            values.append([results[1] for results in found])
        if each:
            values[0] = Unknown((self._row, frame.path, name, occurrence, "all"), name)
        frame.known.bind(operation.results, values)

    def _branches(
        self, operation: Operation, over: int | Sequence[Any], sure: bool
    ) -> list[Any]:  # fmt: skip
        """Return what branches are over; of too many, or fewer than none, a run fails here, if it
        is `sure` to come here."""
        try:
            return branches_of(over, self._row, operation.span)
        except RunError:
            if sure:
                raise Enough from None
            return []

    def _join(self, operation: Operation, frame: Frame) -> None:
        texts, points = (frame.known.get(value) for value in operation.operands)
        if texts and is_known(points) and len(points) == len(texts):
            best: Any = max(range(len(points)), key=points.__getitem__)
            chosen = texts[best]
        else:
            place = (self._row, frame.path, operation.span, frame.occurrence(operation.name))
            best = Unknown((*place, "best"), "best")
            settled = [self._encoder.settle(text) for text in texts]
            shared = common([text.elements for text in settled])
            start = settled[0].cut(shared) if settled else Text()
            unknown = Unknown((*place, "stream"), "the best branch")
            chosen = start.plus([unknown], "the best branch", operation.span)
        frame.known.bind(operation.results, (chosen, best))

    def _free(self, operation: Operation, frame: Frame) -> None:
        """Freeing changes no text."""
