"""One program measured: weft's run, the same engine driven by requests, and the 8 B simulation."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from weft.compiler import Compilation
from weft.frontend.constraints import constraint_of
from weft.options import Options
from weft.runtime.engine import Engine
from weft.runtime.executable import Executable
from weft.runtime.policy import Policy
from weft.runtime.results import Result
from weft.runtime.simulator import Price, SimulatedExecutor
from weft.runtime.trace import Trace

from .calls import CallLog, watch
from .measure import Summary, interleave, ratio
from .programs_cases import Case
from .programs_data import Row
from .request_driver import Answer, Program, Server
from .request_grammars import Grammars

TOLERANCE = 1e-3
"""What log-probabilities may differ by: other batches add in another order."""


class Bench:
    """A model in memory that all programs run on, and the grammars that its server has compiled."""

    def __init__(self, model: str = "tiny-dense", options: Options | None = None) -> None:
        self.model = model
        self.options = options or Options.from_env()
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
    """One run over all rows: its seconds, what it said, and the engine that it ran on."""

    seconds: float
    answers: list[Any]
    engine: Engine
    log: CallLog | None = None
    trace: Trace | None = None
    virtual_seconds: float = 0.0


class NoWaiting(Policy):
    """A policy of requests that never wait for another's prefix."""

    def waits(self, gain: int) -> bool:
        """Return False."""
        return False


@dataclass
class Contest:
    """A compiled program, its rows, and the ways to run it; each run has an empty cache."""

    bench: Bench
    case: Case
    rows: Sequence[Row]
    compilation: Compilation = field(init=False)

    def __post_init__(self) -> None:
        self.compilation = self.bench.compile(self.case)
        _ = self.compilation.plan

    def weft(self, noted: bool = False, price: Price | None = None) -> Run:
        """Run the compiled program; what it costs to load the plan is not counted."""
        made, checkpoint = self.compilation, self.compilation.checkpoint
        assert checkpoint is not None
        trace = Trace() if noted else None
        executor: Any = SimulatedExecutor(made.executor, price) if price else made.executor
        executable = Executable(
            made.plan, made.program_name, executor, checkpoint.tokenizer,
            tools=made.opened.tools, model=checkpoint.name, seed=made.options.seed,
            sample=made.sampler, trace=trace,
        )  # fmt: skip
        log = watch(executable.engine) if noted else None
        gc.collect()
        start = perf_counter()
        answers: list[Any] = [None] * len(self.rows)
        jobs = ((n, executable.check_row(n, row)) for n, row in enumerate(self.rows))
        for ended in executable.session().steps(jobs):
            for number, outcome in ended:
                answers[number] = outcome
        seconds = perf_counter() - start
        run = Run(seconds, answers, executable.engine, log, trace)
        run.virtual_seconds = executor.now if price else 0.0
        return run

    def requests(
        self, cache: bool = True, forced: bool = False, noted: bool = False,
        price: Price | None = None,
    ) -> Run:  # fmt: skip
        """Run the program as written by clients of the same engine."""
        made, checkpoint = self.compilation, self.compilation.checkpoint
        assert checkpoint is not None
        trace = Trace() if noted else None
        executor: Any = SimulatedExecutor(made.executor, price) if price else made.executor
        engine = Engine(executor, made.sampler, Policy() if cache else NoWaiting(), trace)
        if not cache:
            forget_prefixes(engine)
        log = watch(engine) if noted else None
        server = Server(engine, checkpoint.tokenizer, self.bench.grammars(made, forced))
        program = Program(
            made.lowered, made.program_name, checkpoint.chat, constraint_of, made.opened.tools,
            made.options.seed,
        )  # fmt: skip
        gc.collect()
        start = perf_counter()
        answers = program.run_rows(server, self.rows)
        run = Run(perf_counter() - start, answers, engine, log, trace)
        run.virtual_seconds = executor.now if price else 0.0
        return run


def forget_prefixes(engine: Engine) -> None:
    """Switch an engine's prefix cache off."""
    empty = np.empty(0, np.int32)
    engine.tree.match = lambda tokens: (0, empty)  # type: ignore[method-assign]
    engine.tree.insert = lambda tokens, pages: None  # type: ignore[method-assign]


def measure(
    contest: Contest, rounds: int, price: Price | None, quick: bool = False, idle: float = 0.0
) -> dict[str, Any]:
    """Return a program's figures: counts, equality, throughput ratios, simulated ratio."""
    ours, theirs = contest.weft(noted=True), contest.requests(noted=True)
    contest.requests(forced=True)  # compiles its grammars, as the run above did the others
    found = counts(ours, theirs) | agreement(ours.answers, theirs.answers)
    found["profile"] = {"weft": profile(ours), "requests": profile(theirs)}
    runs: dict[str, Callable[[], float]] = {
        "weft": lambda: contest.weft().seconds,
        "requests": lambda: contest.requests().seconds,
    }
    if not quick:
        runs["forced"] = lambda: contest.requests(forced=True).seconds
    times = interleave(runs, rounds, idle)
    if not quick:
        alone = [lambda: contest.requests(cache=False).seconds] * min(2, rounds)
        times["no_cache"] = [run() for run in alone]
    speedup = ratio(times["requests"], times["weft"])
    found |= {
        "seconds": {name: Summary.of(values).json() for name, values in times.items()},
        "rows_per_s": len(contest.rows) / median(times["weft"]),
        "speedup": speedup.median,
        "speedup_range": [speedup.low, speedup.high],
        "speedup_vs_forced_baseline": _over(times, "forced"),
        "speedup_vs_no_cache": _over(times, "no_cache"),
    }
    if price is not None:
        mine = contest.weft(price=price).virtual_seconds
        other = contest.requests(price=price).virtual_seconds
        found["simulated_8b_seconds"] = {"weft": mine, "requests": other}
        found["simulated_8b_speedup"] = other / mine
    return found


def _over(times: Mapping[str, list[float]], name: str) -> float | None:
    return median(times[name]) / median(times["weft"]) if name in times else None


def counts(ours: Run, theirs: Run) -> dict[str, Any]:
    """Return calls, tokens and hits of both sides.

    `prompt_tokens` and `hit_rate` are in the clients' terms: every call sends its whole prompt.
    """
    assert ours.log is not None and theirs.log is not None
    stats = [answer.stats for answer in ours.answers if isinstance(answer, Result)]
    predicted = sum(each.hits_predicted for each in stats)
    measured = sum(each.hits_measured for each in stats)
    return {
        "rows": len(ours.answers),
        "calls": len(theirs.log.calls),
        "tokens": sum(each.generated_tokens for each in stats),
        "prompt_tokens": theirs.log.prompt_tokens,
        "hit_rate_of_ideal": ours.log.rate_of_ideal,
        "missed_tokens": ours.log.ideal - ours.log.hits,
        "hit_rate": 1 - (ours.log.prompt_tokens - ours.log.hits) / theirs.log.prompt_tokens,
        "requests_hit_rate_of_ideal": theirs.log.rate_of_ideal,
        "predicted_equals_measured": predicted == measured,
        "steps": {"weft": ours.engine.steps, "requests": theirs.engine.steps},
    }


def profile(run: Run) -> dict[str, float]:
    """Return where a noted run's time went, and how full its steps were."""
    assert run.trace is not None
    steps = run.trace.steps
    model = sum(step.model_seconds for step in steps)
    sample = sum(step.sample_seconds for step in steps)
    fed = sum(step.running + step.prefill_tokens for step in steps)
    return {
        "steps": len(steps),
        "tokens_per_step": fed / max(1, len(steps)),
        "prefill_tokens": sum(step.prefill_tokens for step in steps),
        "decode_tokens": sum(step.running for step in steps),
        "model_s": model,
        "sample_s": sample,
        "engine_host_s": sum(step.host_seconds for step in steps),
        "between_steps_s": run.seconds - model - sample - sum(s.host_seconds for s in steps),
    }


def agreement(ours: Sequence[Any], theirs: Sequence[Answer]) -> dict[str, Any]:
    """Return which rows differ between weft and the clients, with the first difference."""
    differing = [
        number
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True))
        if not same_outcome(one, other)
    ]
    found: dict[str, Any] = {"equal_rows": len(ours) - len(differing), "differing": differing}
    if differing:
        first = differing[0]
        found["first_difference"] = [_said(ours[first]), _said(theirs[first])]
    return found


def same_outcome(one: Any, other: Answer) -> bool:
    """Return whether both sides have the same value and bound names, or both failed."""
    if isinstance(one, BaseException) or other.error is not None:
        return isinstance(one, BaseException) and other.error is not None
    return same(one.value, other.value) and same(one.values, other.values)


def same(one: Any, other: Any) -> bool:
    """Return whether values are equal, numbers within the tolerance."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return one == other


def _said(outcome: Any) -> str:
    error = outcome if isinstance(outcome, BaseException) else getattr(outcome, "error", None)
    return f"{type(error).__name__}: {error}"[:300] if error else str(outcome.values)[:300]
