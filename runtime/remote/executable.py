"""A program compiled for an endpoint: runs, rows and streams, as a compiled program has them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any

from ...ir.core import Module, Operation
from ...ir.diagnostics import WeftError
from ...ir.display.view import Facts, Listing, View
from ..executable import Executable, Report
from ..programs.events import Listener
from ..programs.tasks import Root, TaskLoop
from ..programs.tools import ToolPool
from ..results import Result, Stats
from ..session import Job, Outcome
from .address import Address
from .endpoint import Choices, Endpoint
from .instance import RemoteInstance
from .pool import Pool
from .program import ConstraintOf, PatternOf, RemoteProgram
from .question import Asked
from .service import Service, need_packages


class RemoteExecutable(Executable):
    """A program on an endpoint. It has no plan: its program IR runs as it is."""

    def __init__(
        self,
        module: Module,
        name: str,
        address: Address,
        choices: Choices,
        asked: Asked,
        constraint_of: ConstraintOf,
        pattern_of: PatternOf,
        *,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        stages: Mapping[str, Any] | None = None,
        report: Report | None = None,
        seed: int = 0,
    ) -> None:
        need_packages()
        self.plan = module
        self.name = name
        self.model = str(address)
        self.seed = seed
        self.stages = {} if stages is None else stages
        self._report = report
        self.machine = RemoteProgram(module, name, tools or {}, constraint_of, pattern_of)
        self.engine = Endpoints(address, choices, self.machine)
        self._asked = asked
        self._most = choices.concurrency

    def view(self) -> View:
        """Return where it runs, the calls that it has made, and its program."""
        made = f"{self.engine.steps:,}, {self.engine.retries:,} of them made again"
        facts = (("model", self.model), ("at once", f"{self._most} calls"), ("calls so far", made))
        program = Listing(str(self.plan), "ir", "program", folded=True)
        return View("executable", f"@{self.name}", (Facts(facts), program))

    def session(  # type: ignore[override]  # it has the steps of a session, and no engine
        self, listener: Listener | None = None
    ) -> RemoteSession:
        """Return what runs rows, as many at once as calls may be under way."""
        return RemoteSession(
            self.machine, self.engine, self._asked, self.seed, listener, self._most
        )  # fmt: skip


class Endpoints:
    """The endpoint of a model, and those that `with client` names; each is looked at once."""

    trace = None
    preemptions = 0

    def __init__(self, address: Address, choices: Choices, program: RemoteProgram) -> None:
        self._main = address
        self._choices = choices
        self._program = program
        self._known: dict[str, Endpoint] = {}
        self._lock = threading.Lock()
        self._checked = False

    @property
    def steps(self) -> int:
        """The calls that were made."""
        return sum(endpoint.service.counts.calls for endpoint in self._known.values())

    @property
    def retries(self) -> int:
        """The calls that were made again after a failure."""
        return sum(endpoint.service.counts.retries for endpoint in self._known.values())

    def of(self, operation: Operation) -> Endpoint:
        """Return the endpoint of a statement: its client's, with its adapter as the model."""
        client, adapter = operation.attribute("client"), operation.attribute("adapter")
        address = Address.parse(client) if client else self._main
        return self._get(Address(address.base, adapter) if adapter else address)

    def check(self) -> None:
        """Raise what can be known before the first call: adapters that a model list lacks.

        An endpoint without a list says at the call what it does not know.
        """
        with self._lock:
            if self._checked:
                return
        for name, operation in self._program.adapters.items():
            endpoint = self.of(operation)
            listed = endpoint.service.names()
            if listed and name not in listed:
                raise _placed(endpoint.service.unknown("adapter", name), operation)
        self._checked = True

    def _get(self, address: Address) -> Endpoint:
        with self._lock:
            key = str(address)
            if key not in self._known:
                self._known[key] = Endpoint(Service(address, self._choices), self._choices)
            return self._known[key]


def _placed(error: WeftError, operation: Operation) -> WeftError:
    return type(error)(span=operation.span, **error.fields)


class RemoteSession:
    """Runs jobs; `steps` yields, after each round of news, the rows that have just ended."""

    def __init__(
        self,
        program: RemoteProgram,
        endpoints: Endpoints,
        asked: Asked,
        seed: int,
        listener: Listener | None,
        most: int,
    ) -> None:
        self._program = program
        self._endpoints = endpoints
        self._asked = asked
        self._seed = seed
        self._listener = listener
        self._most = most
        self._pool = Pool(most)
        self._loop = TaskLoop(self._pool, ToolPool(program.records))  # type: ignore[arg-type]
        self._open: dict[RemoteInstance, Root] = {}
        self._ended: list[Outcome] = []

    def steps(self, jobs: Iterator[Job]) -> Iterator[list[Outcome]]:
        """Run all jobs, some at a time; closing the iterator cancels what is open."""
        more = True
        try:
            self._endpoints.check()
            while more or self._open or self._ended:
                while more and len(self._open) < self._most:
                    job = next(jobs, None)
                    more = job is not None
                    if job is not None:
                        self._start(*job)
                if self._open and not self._ended and (pause := self._loop.step()) is not None:
                    pause.wait()
                ended, self._ended = self._ended, []
                yield ended
        finally:
            for root in self._open.values():
                self._loop.cancel(root)
            self._open.clear()
            self._pool.close()

    def _start(self, row: int, arguments: Mapping[str, Any]) -> None:
        instance = RemoteInstance(
            self._program, self._endpoints.of, self._asked, row, arguments, self._seed,
            self._listener,
        )  # fmt: skip

        def done(value: Any, error: BaseException | None) -> None:
            del self._open[instance]
            outcome = error if isinstance(error, Exception) else self._result(instance, value)
            self._ended.append((row, outcome))

        self._open[instance] = self._loop.start(instance.run(), done)

    def _result(self, instance: RemoteInstance, value: Any) -> Result:
        first = instance.first_token
        stats = Stats(
            seconds=perf_counter() - instance.started,
            first_token_seconds=None if first is None else first - instance.started,
            prompt_tokens=instance.prompt_tokens,
            generated_tokens=instance.generated_tokens,
            steps=instance.calls,
        )
        text = instance.stream.text(self._asked.format)
        return Result(value, dict(instance.trunk.bound), lambda: text, stats, instance.row)
