"""The oracle: runs *program IR* one call at a time, with no plan, no cache, no batching.

It shares with the engine what a draw, a constraint and a host value mean, and nothing else. The
optimised run must give the same tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..ir.core import Module, Operation, Region
from ..ir.diagnostics import RunError
from ..ir.dialects.program import VALUE_NAMES
from ..ir.evaluate import branches_of, evaluate
from ..ir.values import WRONG_VALUE, ErrorValue, ToolFailed, format_value, parse_value, records_of
from ..ir.vocabulary import ChatFormat, Frame, Part, Tokenizer, encode_parts, split_heal
from .constraints.heal import join_texts
from .execution.sampler import site_key
from .programs.arguments import bind_arguments
from .programs.coerce import Mismatch, coerce
from .programs.events import Choice, Generated
from .programs.select import choose, shares
from .reference_gen import ConstraintOf, Drawing, Logits
from .reference_tools import NoAnswer, answer


@dataclass(frozen=True)
class Stream:
    """A prompt state: encoded tokens, parts not yet encoded, and the chat messages so far."""

    ids: tuple[int, ...] = ()
    pending: tuple[Part, ...] = ()
    roles: tuple[str, ...] = ()
    open: Frame | None = None

    def plus(self, *parts: Part) -> Stream:
        """Return the stream with parts appended."""
        return replace(self, pending=(*self.pending, *parts))


@dataclass
class _Scope:
    path: tuple[tuple[str, int, int], ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def occurrence(self, name: str) -> int:
        self.seen[name] += 1
        return self.seen[name] - 1


@dataclass(frozen=True)
class ReferenceResult:
    """The program's value, its stream's tokens, and what its trunk bound."""

    value: Any
    ids: list[int]
    values: dict[str, Any]


class _Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Left(Exception):
    def __init__(self, results: tuple[Any, ...]) -> None:
        self.results = results


class Reference:
    """Runs a function of a program module."""

    def __init__(
        self,
        module: Module,
        name: str,
        logits: Logits,
        tokenizer: Tokenizer,
        chat: ChatFormat,
        constraint_of: ConstraintOf,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        seed: int = 0,
    ) -> None:
        self._function = module.symbol(name)
        self._module = module
        self._records = records_of(module)
        self._logits = logits
        self._tokenizer = tokenizer
        self._chat = chat
        self._drawing = Drawing(self._records, logits, tokenizer, constraint_of)
        self._tools = dict(tools or {})
        self._seed = seed
        self._row = 0
        self._last = Stream()
        self._bound: dict[str, Any] = {}

    def run(self, row: int = 0, **arguments: Any) -> ReferenceResult:
        """Run the program once."""
        self._row, self._bound = row, {}
        region = self._function.regions[0]
        self._last = Stream().plus(*self._chat.start())
        values = bind_arguments(self._function, self._records, arguments)
        value = None
        try:
            self._region(region, (self._last, *values.values()), _Scope())
        except _Returned as returned:
            value = returned.value
        ids = [*self._last.ids, *encode_parts(self._tokenizer, self._last.pending)]
        return ReferenceResult(value, ids, self._bound)

    def _region(self, region: Region, values: Sequence[Any], scope: _Scope) -> tuple[Any, ...]:
        for argument, value in zip(region.arguments, values, strict=True):
            scope.values[argument.name] = value
        for operation in region.operations:
            operands = [scope.values[value.name] for value in operation.operands]
            kind = operation.name.partition(".")[2]
            if kind == "return":
                raise _Returned(operands[0] if operands else None)
            if kind == "leave":
                raise _Left(tuple(operands))
            if kind in {"yield", "condition"}:
                return tuple(operands)
            results = self._operation(operation, operands, scope)
            for value, result in zip(operation.results, results, strict=True):
                scope.values[value.name] = result
                if isinstance(result, Stream) and not scope.path:
                    self._last = result
        return ()

    def _operation(self, operation: Operation, operands: list[Any], scope: _Scope) -> Sequence[Any]:
        if operation.name == "program.call_tool":
            return (self._call_tool(operation, operands),)
        if operation.name == "program.call":
            return (self._call(operation, operands, scope),)
        if operation.name in VALUE_NAMES:
            return (evaluate(operation, operands, self._row),)
        return getattr(self, "_" + operation.name.partition(".")[2])(operation, operands, scope)

    def _call(self, operation: Operation, operands: list[Any], scope: _Scope) -> Any:
        name = operation["name"].name
        label = f"call {name}"
        inner = _Scope((*scope.path, (label, scope.occurrence(label), 0)))
        stream = Stream().plus(*self._chat.start())
        try:
            self._region(self._module.symbol(name).regions[0], (stream, *operands), inner)
        except _Returned as returned:
            return returned.value
        return None

    def _call_tool(self, operation: Operation, operands: list[Any]) -> Any:
        name = operation["name"]
        declared = self._module.symbol(name.name)
        try:
            value = answer(self._tools[name.name], operands, declared.attribute("timeout"))
            return coerce(declared["returns"], self._records, value)
        except NoAnswer as failure:
            kind, message = failure.said
        except Mismatch as failure:
            kind, message = WRONG_VALUE, f"returned a wrong value: {failure}"
        error = ErrorValue(tool=name.name, kind=kind, message=message)
        if operation.attribute("catch"):
            return error
        raise ToolFailed.of(error, self._row, operation.span)

    # Text.

    def _literal(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Stream]:
        return [operands[0].plus(operation["text"])]

    def _append(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Stream]:
        return [operands[0].plus(format_value(operands[1]))]

    def _begin(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Stream]:
        (stream,) = operands
        frame = self._chat.frame(stream.roles, operation["role"])
        opened = stream.plus(*frame.prefix)
        return [replace(opened, roles=(*stream.roles, operation["role"]), open=frame)]

    def _end(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Stream]:
        (stream,) = operands
        return [replace(stream.plus(*stream.open.suffix), open=None)]

    # Control flow.

    def _if(self, operation: Operation, operands: list[Any], scope: _Scope) -> Sequence[Any]:
        return self._region(operation.regions[0 if operands[0] else 1], (), scope)

    def _inline(self, operation: Operation, operands: list[Any], scope: _Scope) -> Sequence[Any]:
        try:
            self._region(operation.regions[0], operands, scope)
        except _Left as left:
            return left.results
        raise AssertionError("every path of an inlined program leaves it")

    def _for(self, operation: Operation, operands: list[Any], scope: _Scope) -> Sequence[Any]:
        items, *carried = operands
        for item in items:
            carried = list(self._region(operation.regions[0], (item, *carried), scope))
        return carried

    def _while(self, operation: Operation, operands: list[Any], scope: _Scope) -> Sequence[Any]:
        carried: Sequence[Any] = operands
        for _ in range(operation["limit"]):
            (goes_on,) = self._region(operation.regions[0], carried, scope)
            if not goes_on:
                break
            carried = self._region(operation.regions[1], carried, scope)
        return carried

    def _fork(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Any]:
        stream, over = operands
        name = operation["name"]
        occurrence = scope.occurrence(name)
        shared = self._encoded(stream)
        results = []
        for number, element in enumerate(branches_of(over, self._row, operation.span)):
            inner = _Scope((*scope.path, (name, occurrence, number)), dict(scope.values))
            yielded = self._region(operation.regions[0], (shared, element), inner)
            results.append(yielded)
        # A fork is a token boundary: the parent's text so far is encoded there.
        for key, value in scope.values.items():
            if value is stream:
                scope.values[key] = shared
        values = [yielded[0] if yielded else None for yielded in results]
        self._bind(scope, name, values)
        return [values, *([[found[1] for found in results]] if len(operation.results) == 2 else [])]

    def _join(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Any]:
        streams, points = operands
        if not streams or len(streams) != len(points):
            raise RunError(message="join best has no branches, or not a point for each")
        if any(point != point for point in points):
            raise RunError(message="join best has a point that is no number (NaN)")
        best = max(range(len(points)), key=points.__getitem__)
        return [streams[best], best]

    # The model.

    def _gen(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Any]:
        name = operation["name"]
        occurrence = scope.occurrence(name)
        opening = self._drawing.opening(operation)
        if opening.text:
            stream, heal = self._encoded(operands[0].plus(opening.text)), ""
        else:
            stream, heal = self._healed(operands[0])
        seed = operation.attribute("seed")
        instance = (self._row, *scope.path)
        key = site_key(self._seed if seed is None else seed, instance, name, occurrence)
        new, logprobs, spent = self._drawing.run(operation, list(stream.ids), opening, heal, key)
        text = self._drawing.bytes(new).decode("utf-8", "replace")
        text = opening.text + text.removeprefix(heal)
        if spent:
            self._drawing.check_whole(operation, text)
        value = parse_value(operation["type"], self._records, text)
        if operation.attribute("logprobs") and isinstance(value, str):
            value = Generated(value, logprobs)
        self._bind(scope, name, value)
        return [replace(stream, ids=(*stream.ids, *new)), value]

    def _select(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[Any]:
        name, by = operation["name"], operation.attribute("by") or "token_normalized"
        scope.occurrence(name)
        stream, heal = self._healed(operands[0])
        options = operands[1]
        if not options or not all(options):
            raise RunError(message=f"select {name!r} has an empty option, or none")
        encoded = [self._tokenizer.encode(heal + option) for option in options]
        scores = [self._scores(stream.ids, option) for option in encoded]
        base = [self._scores(stream.ids[:1], option) for option in encoded]
        best = choose(by, scores, base)
        choice = Choice(options[best], shares(options, scores))
        self._bind(scope, name, choice)
        return [replace(stream, ids=(*stream.ids, *encoded[best])), choice]

    def _score(self, operation: Operation, operands: list[Any], scope: _Scope) -> list[float]:
        stream, text = operands
        closed, heal = self._healed(stream)
        after = closed.plus(heal) if heal else closed
        # As a fork, a score is a token boundary.
        for key, value in scope.values.items():
            if value is stream:
                scope.values[key] = after
        ids = self._tokenizer.encode(heal + text) if text else []
        return [sum(self._scores(closed.ids, ids))]

    def _scores(self, ids: Sequence[int], option: list[int]) -> list[float]:
        scores = []
        for position, token in enumerate(option):
            logits = self._logits([*ids, *option[:position]]).float()
            scores.append(float(torch.log_softmax(logits[None], 1)[0, token]))
        return scores

    # Helpers.

    def _encoded(self, stream: Stream) -> Stream:
        ids = (*stream.ids, *encode_parts(self._tokenizer, stream.pending))
        return replace(stream, ids=ids, pending=())

    def _healed(self, stream: Stream) -> tuple[Stream, str]:
        pending, heal = split_heal(join_texts(stream.pending))
        return self._encoded(replace(stream, pending=pending)), heal

    def _bind(self, scope: _Scope, name: str, value: Any) -> None:
        if not scope.path:
            self._bound[name] = value
