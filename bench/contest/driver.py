"""The baseline: programs as clients of weft's own engine, one request at a time, as over HTTP.

A client walks the *program IR as written*, with no pass run over it. It keeps its stream as text;
every model call sends the whole text, which is tokenized anew; the answer is text again. Rows and
branches run side by side, a fork first has the shared text computed and waits for it, a select
sends one scoring request an option after one for the prompt. This is what SGLang's interpreter does
over its server (`lang/interpreter.py`, `lang/backend/runtime_endpoint.py`), without the cost of
HTTP: `over_http` has the same clients in another process. Engine, kernels, sampler, batching, tools
and the prefix cache are those that weft itself uses. Two things are given to the client that such
servers lack, so that both sides say the same: token healing, and samples drawn by weft's counters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weft.ir.core import Module, Operation, Region
from weft.ir.diagnostics import RunError
from weft.ir.dialects.program import VALUE_NAMES
from weft.ir.evaluate import evaluate
from weft.ir.values import format_value, parse_value, records_of
from weft.ir.vocabulary import ChatFormat, Frame, Part, split_heal
from weft.runtime.constraints.heal import join_texts
from weft.runtime.execution.sampler import site_key
from weft.runtime.programs.arguments import bind_arguments
from weft.runtime.programs.bindings import stops_of
from weft.runtime.programs.events import Choice, Generated
from weft.runtime.programs.select import choose, shares
from weft.runtime.programs.tasks import Branches, TaskLoop
from weft.runtime.programs.tools import DEFAULT_TIMEOUT, ToolCall, ToolFailed, tool_pool

from .asked import GENERATE, PREFILL, SCORE, Asked
from .grammars import ConstraintOf
from .server import Serves, Step

MOST_ROWS = 96
"""SGLang's `run_batch` starts at least 96 threads."""


@dataclass(frozen=True)
class Text:
    """A prompt state as a client keeps it: text and special tokens, and the chat so far."""

    parts: tuple[Part, ...] = ()
    roles: tuple[str, ...] = ()
    open: Frame | None = None

    def plus(self, *parts: Part) -> Text:
        """Return the state with parts appended."""
        return replace(self, parts=(*self.parts, *parts))


@dataclass
class Scope:
    """What a region of one client knows, and its place among forks."""

    path: tuple[tuple[str, int, int], ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    bound: dict[str, Any] = field(default_factory=dict)

    def occurrence(self, name: str) -> int:
        """Return how often `name` has run in this scope before."""
        self.seen[name] += 1
        return self.seen[name] - 1


@dataclass(frozen=True)
class Answer:
    """A row's value, or its error, and what its trunk bound."""

    value: Any
    values: dict[str, Any]
    error: BaseException | None = None


_EXITS = frozenset({"return", "leave"})


class Program:
    """A program as its author wrote it, ready to be run by clients."""

    def __init__(
        self, module: Module, name: str, chat: ChatFormat, constraint_of: ConstraintOf,
        tools: Mapping[str, Callable[..., Any]] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.module = module
        self.function = module.symbol(name)
        self.records = records_of(module)
        self.chat = chat
        self.constraint_of = constraint_of
        self.tools = dict(tools or {})
        self.seed = seed

    def run_rows(
        self, server: Serves, rows: Mapping[int, Mapping[str, Any]], most: int = MOST_ROWS
    ) -> list[Answer]:
        """Run a client for each row, by its number, `most` at once; return the answers in order."""
        answers: dict[int, Answer] = {}
        for _ in self.steps(server, rows, answers, most):
            pass
        return [answers[number] for number in rows]

    def steps(
        self, server: Serves, rows: Mapping[int, Mapping[str, Any]], answers: dict[int, Answer],
        most: int = MOST_ROWS,
    ) -> Iterator[None]:  # fmt: skip
        """Run them, and yield after each step; they leave their `answers` by their numbers."""
        tools = tool_pool(server.engine.executor, self.records)
        loop = TaskLoop(server.engine, tools)
        waiting = list(rows.items())[::-1]

        def start() -> None:
            number, row = waiting.pop()
            client = Client(self, server, number)

            def done(value: Any, error: BaseException | None) -> None:
                answers[number] = Answer(value, client.trunk.bound, error)
                if waiting:
                    start()

            loop.start(client.run(bind_arguments(self.function, self.records, row)), done)

        for _ in range(min(most, len(rows))):
            start()
        while loop:
            if (pause := loop.step()) is not None:
                pause.wait()
            yield


class Client:
    """One row of a program; `run` is its coroutine. Methods are named like program operations."""

    def __init__(self, program: Program, server: Serves, row: int) -> None:
        self.trunk = Scope()
        self._program = program
        self._server = server
        self._row = row

    def run(self, arguments: Mapping[str, Any]) -> Step:
        """Run the program; returns its value."""
        stream = Text().plus(*self._program.chat.start())
        region = self._program.function.regions[0]
        _, results = yield from self._region(region, (stream, *arguments.values()), self.trunk)
        return results[0] if results else None

    def _region(self, region: Region, values: Sequence[Any], scope: Scope) -> Step:
        for argument, value in zip(region.arguments, values, strict=True):
            scope.values[argument.name] = value
        for operation in region.operations:
            operands = [scope.values[value.name] for value in operation.operands]
            kind = operation.name.partition(".")[2]
            if kind in _EXITS or kind in {"yield", "condition"}:
                return kind, tuple(operands)
            if operation.name in VALUE_NAMES:
                results: Any = [(yield from self._value(operation, operands, scope))]
            else:
                results = yield from getattr(self, f"_{kind}")(operation, operands, scope)
                if isinstance(results, Exit):
                    return results.kind, results.values
            for value, result in zip(operation.results, results, strict=True):
                scope.values[value.name] = result
        return "yield", ()

    # Host values.

    def _value(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        if operation.name == "program.call_tool":
            return (yield from self._call_tool(operation, operands))
        if operation.name == "program.call":
            return (yield from self._call(operation, operands, scope))
        return evaluate(operation, operands, self._row)

    def _call(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        name = operation["name"].name
        label = f"call {name}"
        inner = Scope((*scope.path, (label, scope.occurrence(label), 0)))
        stream = Text().plus(*self._program.chat.start())
        region = self._program.module.symbol(name).regions[0]
        _, results = yield from self._region(region, (stream, *operands), inner)
        return results[0] if results else None

    def _call_tool(self, operation: Operation, operands: list[Any]) -> Step:
        name = operation["name"].name
        declared = self._program.module.symbol(name)
        timeout = declared.attribute("timeout")
        try:
            return (yield ToolCall(
                name, self._program.tools[name], tuple(operands), declared["returns"],
                DEFAULT_TIMEOUT if timeout is None else float(timeout), self._row, operation.span,
            ))  # fmt: skip
        except ToolFailed as failure:
            if not operation.attribute("catch"):
                raise
            return failure.value

    # Text.

    def _literal(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        return [operands[0].plus(operation["text"])]
        yield

    def _append(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        return [operands[0].plus(format_value(operands[1]))]
        yield

    def _begin(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        (stream,) = operands
        frame = self._program.chat.frame(stream.roles, operation["role"])
        opened = stream.plus(*frame.prefix)
        return [replace(opened, roles=(*stream.roles, operation["role"]), open=frame)]
        yield

    def _end(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        (stream,) = operands
        return [replace(stream.plus(*stream.open.suffix), open=None)]
        yield

    # Control flow.

    def _if(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        region = operation.regions[0 if operands[0] else 1]
        kind, results = yield from self._region(region, (), scope)
        return Exit(kind, results) if kind in _EXITS else results

    def _inline(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        _, results = yield from self._region(operation.regions[0], operands, scope)
        return results

    def _for(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        items, *carried = operands
        for item in items:
            kind, results = yield from self._region(operation.regions[0], (item, *carried), scope)
            if kind in _EXITS:
                return Exit(kind, results)
            carried = list(results)
        return carried

    def _while(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        carried: Sequence[Any] = operands
        for _ in range(operation["limit"]):
            _, (goes_on,) = yield from self._region(operation.regions[0], carried, scope)
            if not goes_on:
                break
            kind, carried = yield from self._region(operation.regions[1], carried, scope)
            if kind in _EXITS:
                return Exit(kind, tuple(carried))
        return carried

    def _fork(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        """Have the shared text computed, wait for that, then run the branches side by side."""
        stream, over = operands
        elements = list(range(over)) if isinstance(over, int) else over
        name = operation["name"]
        occurrence = scope.occurrence(name)
        if len(elements) > 1 and stream.parts:
            yield from self._server.ask(Asked(PREFILL, stream.parts, f"fork {name!r}", self._row))
        scopes = [
            Scope((*scope.path, (name, occurrence, number)), dict(scope.values))
            for number in range(len(elements))
        ]
        found = yield Branches(
            [
                self._branch(operation.regions[0], stream, element, inner)
                for element, inner in zip(elements, scopes, strict=True)
            ]
        )
        values = [yielded[0] if yielded else None for yielded in found]
        scope.bound[name] = values
        return [values, *([[each[1] for each in found]] if len(operation.results) == 2 else [])]

    def _branch(self, region: Region, stream: Text, element: Any, scope: Scope) -> Step:
        _, results = yield from self._region(region, (stream, element), scope)
        return results

    def _join(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        streams, points = operands
        if not streams or len(streams) != len(points):
            raise RunError(message="join best has no branches, or not a point for each")
        best = max(range(len(points)), key=points.__getitem__)
        return [streams[best], best]
        yield

    # The model.

    def _gen(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        (stream,), name = operands, operation["name"]
        parts, heal = split_heal(join_texts(stream.parts))
        stops, logprobs = stops_of(operation), bool(operation.attribute("logprobs"))
        pattern = stops.pattern if isinstance(stops, re.Pattern) else ""
        said = yield from self._server.ask(Asked(
            GENERATE, parts, f"gen {name!r}", self._row, heal,
            sampling=self._sampling(operation, scope),
            constraint=self._program.constraint_of(operation["type"], self._program.records),
            stops=() if isinstance(stops, re.Pattern) else stops, pattern=pattern,
            logprobs=logprobs,
        ))  # fmt: skip
        value = parse_value(operation["type"], self._program.records, said.text)
        if logprobs and isinstance(value, str):
            value = Generated(value, said.logprobs)
        scope.bound[name] = value
        return [stream.plus(said.text), value]

    def _sampling(self, operation: Operation, scope: Scope) -> dict[str, Any]:
        name = operation["name"]
        seed = operation.attribute("seed")
        seed = self._program.seed if seed is None else seed
        top_p = operation.attribute("top_p")
        return {
            "max_tokens": operation["max_tokens"],
            "temperature": float(operation.attribute("temperature") or 0.0),
            "top_k": int(operation.attribute("top_k") or 0),
            "top_p": 1.0 if top_p is None else float(top_p),
            "min_p": float(operation.attribute("min_p") or 0.0),
            "key": site_key(seed, (self._row, *scope.path), name, scope.occurrence(name)),
        }

    def _select(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        """Have the prompt computed, then one scoring request an option, all at once."""
        (stream, options), name = operands, operation["name"]
        by = operation.attribute("by") or "token_normalized"
        scope.occurrence(name)
        parts, heal = split_heal(join_texts(stream.parts))
        what = f"select {name!r}"
        if not options or not all(heal + option for option in options):
            raise RunError(message=f"select {name!r} has an empty option, or none")
        yield from self._server.ask(Asked(PREFILL, parts, what, self._row))
        scores = yield from self._scores(parts, heal, options, what)
        base = None
        if by == "unconditional":
            base = yield from self._scores(parts[:1], heal, options, what)
        best = choose(by, scores, base)
        choice = Choice(options[best], shares(options, scores))
        scope.bound[name] = choice
        return [stream.plus(options[best]), choice]

    def _scores(self, parts: tuple[Part, ...], heal: str, options: list[str], what: str) -> Step:
        """Score each option with a request of its own, whose prompt is tokenized for it."""

        def one(option: str) -> Step:
            asked = Asked(SCORE, parts, what, self._row, heal, option)
            return (yield from self._server.ask(asked)).logprobs

        return (yield Branches([one(option) for option in options]))

    def _score(self, operation: Operation, operands: list[Any], scope: Scope) -> Step:
        stream, text = operands
        parts, heal = split_heal(join_texts(stream.parts))
        if not text:
            return [0.0]
        (scores,) = yield from self._scores(parts, heal, [text], "score")
        return [sum(scores)]


@dataclass(frozen=True)
class Exit:
    """An operation that ended more than its own region: `return` or `leave`, and with what."""

    kind: str
    values: tuple[Any, ...]
