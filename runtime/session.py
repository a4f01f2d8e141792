"""Rows in flight on one engine: started few at a time, driven together, freed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from time import perf_counter
from typing import Any

from ..ir.budget import Limits
from ..ir.diagnostics import RunError
from .engine import Engine
from .interrupts import Turn, heard_between_steps
from .memory.upcoming import KnownPrompts, UpcomingRows
from .programs.events import Listener
from .programs.instance import Instance
from .programs.machine import Machine
from .programs.tasks import Root, TaskLoop
from .programs.tools import called_from_tool, tool_pool
from .results import Result, Stats
from .schedule.admission import Admission, Claim
from .schedule.forecast import Forecast
from .schedule.garbage import seldom_collected
from .schedule.row_costs import Hits
from .schedule.row_order import in_prefix_order

Job = tuple[int, Mapping[str, Any]]
"""A row's number and its arguments, complete and checked."""

Outcome = tuple[int, Result | Exception]


OPEN = 4
"""Rows that are open at most, for each that a step takes: those that wait for their turn keep
steps full where others fork or end, and the longest go first."""

LOOK_AHEAD = 4
"""Jobs looked at ahead, for each that may be open."""


class NoTurn(RunError):
    """A program that a tool on a virtual clock runs."""

    template = "a tool whose time is simulated cannot run programs: it is called inside a step"
    hint = "give the tool a value to return, or run without a simulated executor"


class Host:
    """An engine with its task loop; sessions of several threads share it, one step at a time."""

    def __init__(self, machine: Machine, engine: Engine, known: KnownPrompts | None = None) -> None:
        self.machine = machine
        self.engine = engine
        executor = engine.executor
        self.forecast = Forecast(
            machine.programs, machine.function, machine.tokenizer,
            Limits(executor.page_size, executor.context_length), executor.num_pages,
            executor.max_batch,
        )  # fmt: skip
        dear = getattr(executor, "tokens_are_dear", False)
        rows = executor.max_batch if dear else None
        self.admission = Admission(engine.kv, self.forecast.limits, rows)
        self.loop = TaskLoop(engine, tool_pool(executor, machine.records), machine.texts.gather)
        self.lock = Turn()
        self.tickets = count()
        self.upcoming = engine.tree.upcoming = UpcomingRows(known)
        engine.know_streams()


class Session:
    """Runs jobs; `steps` yields, after each step, the rows that have just ended."""

    def __init__(
        self, host: Host, seed: int = 0, listener: Listener | None = None, most: int = 32
    ) -> None:
        self._host = host
        self._seed = seed
        self._listener = listener
        self.window = LOOK_AHEAD * most
        """How many jobs are looked at to start those together whose prompts begin alike."""
        self._most = OPEN * most
        self._next: tuple[Job, Claim] | None = None
        self._open: dict[Instance, Root] = {}
        self._ended: list[Outcome] = []
        self._closed = False
        self._for_a_tool = called_from_tool.get() is not None
        self._goes_before = False
        """The next row starts without room of its own: those that have it wait for that row."""

    def steps(self, jobs: Iterator[Job]) -> Iterator[list[Outcome]]:
        """Run all jobs, at most `most` at a time; closing the iterator cancels what is open.

        Raises NoTurn where a simulated tool asks for it.
        """
        if called_from_tool.get() == "here":
            raise NoTurn()
        with heard_between_steps(), seldom_collected():
            self._closed = False
            try:
                try:
                    yield from self._steps(jobs)
                finally:
                    self._close()
            finally:
                self._close()  # Ctrl-C may have come before a line of the first, and ended that

    def _steps(self, jobs: Iterator[Job]) -> Iterator[list[Outcome]]:
        host, more = self._host, True
        with host.lock:
            if not host.loop:
                host.engine.kv.peak = host.engine.kv.live
                host.engine.forget_answers()
        ordered = in_prefix_order(jobs, host.forecast, self.window)
        host.upcoming.waiting = ordered.ahead
        while more or self._open or self._ended:
            more, pause = self._fill(ordered), None
            with host.lock:
                if not self._ended and (self._open or more):
                    pause = host.loop.step()
            if pause is not None and not self._ended:
                if more and self._for_a_tool and not self._open:
                    self._goes_before = True
                else:
                    pause.wait()
            ended, self._ended = self._ended, []
            yield ended

    def _fill(self, jobs: in_prefix_order) -> bool:
        """Start the rows that may; return whether one is left that waits for memory or a place.

        Where steps run ahead of the host, the engine says when it is enough for the next step: the
        others become ready while that runs.
        """
        engine, started, began = self._host.engine, 0, perf_counter()
        while True:
            if engine.ahead and started:
                left = len(jobs.ahead) + (self._next is not None)
                rest = left * (perf_counter() - began) / started
                if engine.steps_now(started, rest):
                    return True
            if self._next is None:
                job = next(jobs, None)
                if job is None:
                    return False
                rows = len(self._open) + 1 + len(jobs.ahead)
                self._next = job, self._host.forecast.claim(job[1], rows)
            job, claim = self._next
            with self._host.lock:
                left = None if jobs.more else 1 + len(jobs.ahead)
                if len(self._open) >= self._most or not self._may_open(claim, left):
                    return True
                self._next = None
                self._start(job, claim)
                started += 1
                if engine.ahead:
                    self._host.loop.advance()

    def _may_open(self, claim: Claim, left: int | None) -> bool:
        """Say whether the first of the rows that are `left` (None: it is not known how many) may
        start, if need be by what the open ones can no longer hold.

        One that a tool runs always may where only tools can go on: the row that called the tool
        would keep its room until the call's time is over, and computes its KV again instead.
        """
        admission, engine = self._host.admission, self._host.engine
        last = left is not None and left + self._host.loop.under_way <= engine.executor.max_batch
        if self._goes_before or admission.may_open(claim, last):
            self._goes_before = False
            return True
        for instance in self._open:
            if instance.spared:
                admission.spare(instance.ticket, instance.spared)
                instance.spared = 0
        return admission.may_open(claim, last)

    def _start(self, job: Job, claim: Claim) -> None:
        host, (row, arguments) = self._host, job
        instance = Instance(
            host.machine, host.engine, row, next(host.tickets), arguments, self._seed,
            self._listener,
        )  # fmt: skip
        instance.most_ahead = claim.ahead
        host.admission.open(instance.ticket, claim)
        host.upcoming.opened(arguments)
        trace = host.engine.trace
        record = trace.begins(instance.ticket, row) if trace is not None else None

        def done(value: Any, error: BaseException | None) -> None:
            del self._open[instance]
            host.upcoming.closed(arguments)
            instance.free(remember=error is None)
            if record is not None:
                record.end = perf_counter()
            hits = host.engine.hits.take(instance.ticket)
            failed = isinstance(error, Exception)
            outcome = error if failed else self._result(instance, value, hits)
            known = outcome.stats.own_tokens if isinstance(outcome, Result) else None
            host.admission.close(instance.ticket, known)
            self._ended.append((row, outcome))

        self._open[instance] = host.loop.start(instance.run(), done)

    def _close(self) -> None:
        """Cancel what is open; once, as others set what is waited for meanwhile."""
        host = self._host
        with host.lock:
            if self._closed:
                return
            host.upcoming.none_waits()
            host.forecast.forget()
            self._cancel()
            self._closed = True

    def _cancel(self) -> None:
        for instance, root in self._open.items():
            self._host.loop.cancel(root)
            self._host.admission.close(instance.ticket)
            self._host.upcoming.closed(instance.arguments)
            instance.free(remember=False)
            self._host.engine.take_prefix_hits(instance.ticket)
        self._open.clear()

    def _result(self, instance: Instance, value: Any, hits: Hits) -> Result:
        engine, meter = self._host.engine, instance.meter
        first = meter.first_token
        stats = Stats(
            seconds=perf_counter() - meter.started,
            first_token_seconds=None if first is None else first - meter.started,
            prompt_tokens=meter.prompt_tokens,
            generated_tokens=meter.generated_tokens,
            deduplicated_tokens=meter.deduplicated_tokens,
            sent_tokens=hits.sent,
            hits_predicted=hits.predicted,
            hits_measured=hits.measured,
            peak_kv_pages=engine.kv.peak,
            peak_kv_bytes=engine.kv.peak * engine.executor.page_bytes,
            margin=meter.margin,
        )
        decode, ids = self._host.machine.tokenizer.decode, instance.stream_ids
        text = lambda: decode(ids.tolist())  # noqa: E731
        return Result(value, dict(instance.trunk.bound), text, stats, instance.row)
