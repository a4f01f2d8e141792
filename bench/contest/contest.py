"""A program and its rows made ready to run on one engine: compiled, or driven by requests."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from weft.compiler import Compilation
from weft.frontend.semantics.constraints import constraint_of
from weft.options import Options
from weft.runtime.engine import Engine
from weft.runtime.executable import Executable
from weft.runtime.execution.sampler import SampleKernel
from weft.runtime.execution.step import ModelExecutor
from weft.runtime.schedule.policy import Policy
from weft.runtime.schedule.request import Request
from weft.runtime.simulator import Price, SimulatedExecutor
from weft.runtime.tracing.trace import Trace

from ..in_turn import in_turn, share_pages
from ..measure import OwnClock, as_a_server_does, wait_for_idle
from .calls import CallLog, watch
from .cases import KV_TOKENS, Case
from .data import Row
from .driver import MOST_ROWS, Program
from .grammars import Grammars
from .replay import Replay
from .server import Server

KV_MEMORY = 2 * Options().kv_memory
"""Bytes of keys and values: both sides run side by side, where everything fits, too."""


class Bench:
    """A model in memory that all programs run on, and the grammars that its server has compiled."""

    def __init__(self, model: str = "tiny-dense", options: Options | None = None) -> None:
        self.model = model
        self.options = options or Options.from_env().changed(kv_memory=KV_MEMORY)
        self._first: Compilation | None = None
        self._grammars: dict[bool, Grammars] = {}

    def compile(self, case: Case) -> Compilation:
        """Compile a program's text; the model's kernels and weights are made once."""
        compilation = Compilation(case.path, self.model, name=case.program, options=self.options)
        if self._first is None:
            self._first = compilation
        compilation.__dict__["executor"] = self._first.executor
        compilation.__dict__["sampler"] = self._first.sampler
        return compilation

    def grammars(self, compilation: Compilation, forced: bool) -> Grammars:
        """Return the grammar cache of a server that has been up for a while."""
        if forced not in self._grammars:
            checkpoint = compilation.checkpoint
            assert checkpoint is not None
            size = compilation.executor.vocab_size
            self._grammars[forced] = Grammars(checkpoint.tokenizer, size, forced)
        return self._grammars[forced]


@dataclass
class Run:
    """One run over all rows: its seconds, what it said, and the engine that it ran on.

    `stretch`: how many times as long it took by the wall's clock, which a trace goes by.
    """

    seconds: float
    answers: list[Any]
    engine: Engine
    log: CallLog | None = None
    trace: Trace | None = None
    stretch: float = 1.0


@dataclass
class Ready:
    """What will run on an engine when its `steps` are taken, and leaves `answers` by number."""

    engine: Engine
    steps: Iterator[None]
    answers: dict[int, Any]
    numbers: Sequence[int]
    log: CallLog | None = None
    trace: Trace | None = None

    def in_order(self) -> list[Any]:
        """Return the answers of the rows, in their order."""
        return [self.answers[number] for number in self.numbers]


@dataclass(frozen=True)
class Way:
    """How to run: with how much KV memory; for clients, with which cache, order and grammars.

    All of it, where `kv_tokens` is 0. `clients` are at work at once.
    `price` runs on a virtual clock; `noted` keeps calls and steps, at some cost in time;
    `replay` is an executor to run on instead of the model's; `boundless` steps take all that is
    ready, so that their number is that of the longest chain of steps that wait for each other.
    """

    kv_tokens: int = KV_TOKENS
    clients: int = MOST_ROWS
    cache: bool = True
    forced: bool = False
    longest_prefix: bool = False
    price: Price | None = None
    noted: bool = False
    replay: Replay | None = None
    boundless: bool = False


class FewerPages:
    """An executor of which only some pages are used."""

    def __init__(self, inner: ModelExecutor, pages: int) -> None:
        if pages > inner.num_pages:
            raise ValueError(f"the executor has {inner.num_pages} pages, not {pages}")
        self.num_pages = pages
        self.forward, self.copy_page = inner.forward, inner.copy_page
        if getattr(inner, "takes_words", False):
            self.forward_narrow = inner.forward_narrow  # type: ignore[attr-defined]
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        """Return what the executor has."""
        return getattr(self._inner, name)


class Boundless(FewerPages):
    """An executor whose steps take as many sequences, and tokens, as there are."""

    max_batch, max_tokens = 1 << 10, 1 << 17


class Counted(SimulatedExecutor):
    """An executor whose steps are counted: their number does not depend on when tools answer."""

    def __init__(self, inner: ModelExecutor) -> None:
        super().__init__(inner, lambda queries, keys, rows: 1.0)
        self.tokens_are_dear = getattr(inner, "tokens_are_dear", False)


def in_parts(sample: SampleKernel, most: int) -> SampleKernel:
    """Return a sampler of any number of rows, by one that takes some."""

    def whole(*settings: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        parts: list[tuple[Tensor, ...]] = []
        for at in range(0, cast(Tensor, settings[0]).shape[0], most):
            some = (None if each is None else each[at : at + most] for each in settings)
            parts.append(tuple(found.clone() for found in sample(*some)))  # type: ignore[arg-type]
        token, logprob, margin = map(torch.cat, zip(*parts, strict=True))
        return token, logprob, margin

    return cast(SampleKernel, whole)


class NoWaiting(Policy):
    """A policy of requests that never wait for another's prefix."""

    def waits(self, gain: int) -> bool:
        """Return False."""
        return False


@dataclass
class Contest:
    """A compiled program, its rows, and the ways to run it; each run has an empty cache.

    `numbers` are the rows' numbers, which decide what is drawn for them.
    """

    bench: Bench
    case: Case
    rows: Sequence[Row]
    numbers: Sequence[int] = ()
    compilation: Compilation = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = self.numbers or range(len(self.rows))
        self.compilation = self.bench.compile(self.case)
        _ = self.compilation.plan

    def without(self, places: Sequence[int]) -> Contest:
        """Return the contest without the rows at some places; the others keep their numbers."""
        kept = [at for at in range(len(self.rows)) if at not in places]
        rows, numbers = [self.rows[at] for at in kept], [self.numbers[at] for at in kept]
        return replace(self, rows=rows, numbers=numbers)

    @property
    def constrained(self) -> bool:
        """Whether the program has a gen with a constraint."""
        plan = self.compilation.plan
        return any(operation.name == "plan.constraint" for operation in plan.operations)

    def weft(self, way: Way) -> Run:
        """Run the compiled program; what it costs to load the plan is not counted."""
        return _timed(self.weft_ready(way), way)

    def weft_ready(self, way: Way) -> Ready:
        """Return the compiled program, ready to run."""
        made, checkpoint = self.compilation, self.compilation.checkpoint
        assert checkpoint is not None
        trace = Trace(kernels=False) if way.noted else None
        tables = None if made.context.tables is None else made.context.tables.by_key
        sample = in_parts(made.sampler, made.options.max_batch) if way.boundless else made.sampler
        executable = Executable(
            made.plan, made.program_name, self._executor(way), checkpoint.tokenizer,
            tools=made.opened.tools, tables=tables,
            model=checkpoint.name, seed=made.options.seed, sample=sample, policy=made.policy,
            trace=trace, prefixes=made.prefixes,
        )  # fmt: skip
        log = watch(executable.engine) if way.noted else None

        answers: dict[int, Any] = {}

        def steps() -> Iterator[None]:
            rows = zip(self.numbers, self.rows, strict=True)
            jobs = ((n, executable.check_row(n, row)) for n, row in rows)
            for ended in executable.session().steps(jobs):
                answers.update(ended)
                yield

        return Ready(executable.engine, steps(), answers, self.numbers, log, trace)

    def requests(self, way: Way) -> Run:
        """Run the program as written by clients of the same engine."""
        return _timed(self.requests_ready(way), way)

    def requests_ready(self, way: Way) -> Ready:
        """Return the clients, and a server of their own, ready to run."""
        made, checkpoint = self.compilation, self.compilation.checkpoint
        assert checkpoint is not None
        trace = Trace(kernels=False) if way.noted else None
        server = self.server(way, trace)
        log = watch(server.engine) if way.noted else None
        program = Program(
            made.lowered, made.program_name, checkpoint.chat, constraint_of, made.opened.tools,
            made.options.seed,
        )  # fmt: skip
        rows = dict(zip(self.numbers, self.rows, strict=True))
        answers: dict[int, Any] = {}
        steps = program.steps(server, rows, answers, way.clients)
        return Ready(server.engine, steps, answers, self.numbers, log, trace)

    def race(
        self, contenders: Mapping[str, Callable[[], Ready]], rounds: int, idle: float = 0.0
    ) -> dict[str, list[float]]:
        """Run contenders side by side, in memory of their own, step by step in turn; return the
        seconds of each in each round."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds):
            wait_for_idle(idle)
            turned = deque(contenders)
            turned.rotate(-number)
            ready = {name: contenders[name]() for name in turned}
            share_pages([each.engine for each in ready.values()], self.compilation.executor)
            with as_a_server_does():
                spent = in_turn({name: each.steps for name, each in ready.items()})
            for name, seconds in spent.items():
                times[name].append(seconds)
        return times

    def server(self, way: Way, trace: Trace | None = None) -> Server:
        """Return a server of requests, with an engine of its own."""
        made, checkpoint = self.compilation, self.compilation.checkpoint
        assert checkpoint is not None
        policy = (made.policy or Policy()) if way.cache else NoWaiting()
        engine = Engine(self._executor(way), made.sampler, policy, trace)
        if not way.cache:
            forget_prefixes(engine)
        if way.longest_prefix:
            longest_prefix_first(engine)
        return Server(engine, checkpoint.tokenizer, self.bench.grammars(made, way.forced))

    def _executor(self, way: Way) -> Any:
        executor: Any = way.replay or self.compilation.executor
        if not way.kv_tokens:
            return executor
        limited = Boundless if way.boundless else FewerPages
        executor = limited(executor, way.kv_tokens // executor.page_size)
        if way.price:
            return SimulatedExecutor(executor, way.price)
        return Counted(executor) if way.replay else executor


def _timed(ready: Ready, way: Way) -> Run:
    """Run; return the outcome with its seconds, of the virtual clock where steps have a price.

    Where a GPU computes on, what others take from the host is part of them.
    """
    engine = ready.engine
    with as_a_server_does():
        clock, start = OwnClock(), perf_counter()
        for _ in ready.steps:
            pass
        wall = perf_counter() - start
        seconds = own = wall if engine.ahead else clock.seconds()
    if way.price and isinstance(engine.executor, SimulatedExecutor):
        seconds = engine.executor.now
    return Run(seconds, ready.in_order(), engine, ready.log, ready.trace, wall / own)


def forget_prefixes(engine: Engine) -> None:
    """Switch an engine's prefix cache off."""
    empty = np.empty(0, np.int32)
    engine.tree.match = lambda *given: (0, empty)  # type: ignore[method-assign]
    engine.tree.insert = lambda *given: None  # type: ignore[method-assign]


def longest_prefix_first(engine: Engine) -> None:
    """Serve waiting requests by how much of their prompt is cached, longest first.

    SGLang's paper has this order (its Algorithm 1); its default today is first come, first served.
    """
    step, scheduler = engine.step, cast(Any, engine._scheduler)

    def key(request: Request) -> tuple[int, ...]:
        sequence = request.sequence
        known = engine.tree.match(sequence.tokens[: sequence.length])[0]
        return (-max(known, sequence.resident), *request.order)

    def ordered_step() -> list[Request]:
        scheduler._waiting = [
            (key(request), tie, request) for _, tie, request in scheduler._waiting
        ]
        heapq.heapify(scheduler._waiting)
        return step()

    engine.step = ordered_step  # type: ignore[method-assign]
