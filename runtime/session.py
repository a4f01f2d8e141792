"""Rows in flight on one engine: started few at a time, driven together, freed whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import count
from time import perf_counter
from typing import Any

from .engine import Engine
from .events import Listener
from .instance import Instance
from .machine import Machine
from .results import Result, Stats
from .tasks import Root, TaskLoop
from .tools import ToolPool

Job = tuple[int, Mapping[str, Any]]
"""A row's number and its arguments, complete and checked."""

Outcome = tuple[int, Result | Exception]

OPEN_BELOW = 0.7
"""New rows start while open ones use less than this share of the KV memory."""


class Host:
    """An engine with its task loop; sessions of several threads share it, one step at a time."""

    def __init__(self, machine: Machine, engine: Engine) -> None:
        self.machine = machine
        self.engine = engine
        self.loop = TaskLoop(engine, ToolPool(machine.records))
        self.lock = threading.Lock()
        self.tickets = count()


class Session:
    """Runs jobs; `steps` yields, after each step, the rows that have just ended."""

    def __init__(
        self, host: Host, seed: int = 0, listener: Listener | None = None, most: int = 32
    ) -> None:
        self._host = host
        self._seed = seed
        self._listener = listener
        self._most = most
        self._open: dict[Instance, Root] = {}
        self._ended: list[Outcome] = []

    def steps(self, jobs: Iterator[Job]) -> Iterator[list[Outcome]]:
        """Run all jobs, at most `most` at a time; closing the iterator cancels what is open."""
        host, more = self._host, True
        if not host.loop:
            host.engine.kv.peak = host.engine.kv.live
            host.engine.forget_answers()
        try:
            while more or self._open or self._ended:
                while more and self._may_open():
                    job = next(jobs, None)
                    more = job is not None
                    if job is not None:
                        with host.lock:
                            self._start(*job)
                if self._open:
                    with host.lock:
                        if not self._ended:
                            host.loop.step()
                ended, self._ended = self._ended, []
                yield ended
        finally:
            with host.lock:
                self._cancel()

    def _may_open(self) -> bool:
        """Whether another row may start: rows wait while those open need most of the KV memory."""
        kv = self._host.engine.kv
        return not self._open or (
            len(self._open) < self._most and kv.live < OPEN_BELOW * kv.num_pages
        )

    def _start(self, row: int, arguments: Mapping[str, Any]) -> None:
        host = self._host
        instance = Instance(
            host.machine, host.engine, row, next(host.tickets), arguments, self._seed,
            self._listener,
        )  # fmt: skip

        def done(value: Any, error: BaseException | None) -> None:
            del self._open[instance]
            instance.free(remember=error is None)
            outcome = error if isinstance(error, Exception) else self._result(instance, value)
            self._ended.append((row, outcome))

        self._open[instance] = host.loop.start(instance.run(), done)

    def _cancel(self) -> None:
        for instance, root in self._open.items():
            self._host.loop.cancel(root)
            instance.free(remember=False)
            self._host.engine.take_prefix_hits(instance.ticket)
        self._open.clear()

    def _result(self, instance: Instance, value: Any) -> Result:
        engine, meter = self._host.engine, instance.meter
        hits = engine.hits.take(instance.ticket)
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
        text = self._host.machine.tokenizer.decode(instance.stream_ids)
        return Result(value, dict(instance.trunk.bound), text, stats, instance.row)
