"""A compiled program that runs: one call, many rows with a journal, or as a stream of events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..ir.constraints.token_table import TokenTable
from ..ir.core import Module
from ..ir.display.units import bytes_text
from ..ir.display.view import Facts, Listing, Shown, View
from ..ir.vocabulary import Tokenizer
from .engine import Engine
from .execution.sampler import SampleKernel, sample_rows
from .execution.step import ModelExecutor
from .journal import Journal, journal_of, plain, run_identity
from .programs.arguments import bind_arguments, unnamed
from .programs.events import Event, Finished, Listener
from .programs.machine import Machine
from .results import Progress, Result, Rows
from .rows import RowRun, these_rows
from .schedule.policy import Policy
from .session import Host, Session
from .tracing.trace import Trace


class Report(Protocol):
    """What the compilation can tell of itself."""

    def diff(self, pass_name: str) -> str:
        """Return what a pass changed."""
        ...

    def explain(self) -> str:
        """Return what each pass did, and did not."""
        ...


class Prefixes(Protocol):
    """What the program's calls send, as far as it is known before they do."""

    def tree(self, rows: Sequence[Mapping[str, Any]] = ()) -> Any:
        """Return the prefix tree of a batch."""
        ...

    def known(self, arguments: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """Return the ids with which the prompts of a row begin."""
        ...


class Executable(Shown):
    """A plan on a model. Runs from several threads share the model's batches and its cache.

    `stages` gives what each stage of the compilation made, by name.
    """

    def __init__(
        self,
        plan: Module,
        name: str,
        executor: ModelExecutor,
        tokenizer: Tokenizer,
        *,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        tables: Mapping[str, TokenTable] | None = None,
        stages: Mapping[str, Any] | None = None,
        report: Report | None = None,
        model: str = "",
        seed: int = 0,
        sample: SampleKernel = sample_rows,
        policy: Policy | None = None,
        trace: Trace | None = None,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.plan = plan
        self.name = name
        self.model = model
        self.seed = seed
        self.stages: Mapping[str, Any] = {} if stages is None else stages
        self._report = report
        self.machine = Machine(plan, name, tokenizer, executor.vocab_size, tools or {}, tables)
        self.engine = Engine(executor, sample, policy, trace)
        if self.engine.held is not None:
            self.engine.held.take(self.machine.constraints.matchers())
        self._prefixes = prefixes
        self._host = Host(self.machine, self.engine, prefixes.known if prefixes else None)
        self._most = executor.max_batch

    def run(self, /, *values: Any, **arguments: Any) -> Result:
        """Run the program once; raises WeftError. Arguments go by name: `values` are refused."""
        bound = self._bound(values, arguments)
        for ended in self.session().steps(iter([(0, bound)])):
            for _, outcome in ended:
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome
        raise AssertionError("a session ends with its row")

    def run_rows(
        self,
        rows: Iterable[Mapping[str, Any]],
        out: str | Path | None = None,
        journal: str | Path | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        keep_going: bool = False,
    ) -> Rows:
        """Run the program over rows of named arguments, many at a time.

        With `out`, outcomes are written there as JSON lines in row order once all rows are done;
        until then finished rows stand in `journal` (default: beside `out`), so that the same call
        after a crash goes on where that one stopped; one of another program, model or seed is kept
        under another name, with a warning. A row that fails ends the run with its error,
        or with `keep_going` is noted as failed: the same call again runs such rows alone. Without
        it a list of rows is checked before any row runs. Raises WeftError.
        """
        rows = these_rows(rows)
        path = plain(Path(out)) if out is not None else None
        place, book = journal_of(path, journal), None
        if place is not None:
            book = Journal(place, run_identity(str(self.plan), self.model, self.seed))
        return RowRun(self, book, progress, keep_going).run(rows, path)

    def stream(self, /, *values: Any, **arguments: Any) -> Iterator[Event]:
        """Run the program once and yield events as they happen; the last one is `Finished`.

        Closing the iterator cancels the run and frees all it holds.
        """
        ticks = self._events(self._bound(values, arguments))
        try:
            for events in ticks:
                yield from events
        finally:
            ticks.close()

    async def arun(self, /, *values: Any, **arguments: Any) -> Result:
        """Run the program once without blocking the event loop; several may run together."""
        result: Result | None = None
        async for event in self.astream(*values, **arguments):
            if isinstance(event, Finished):
                result = event.result
        assert result is not None
        return result

    async def astream(self, /, *values: Any, **arguments: Any) -> AsyncIterator[Event]:
        """Run the program once and yield events as they happen, asynchronously."""
        ticks = self._events(self._bound(values, arguments))
        try:
            while (events := await _in_thread(ticks)) is not None:
                for event in events:
                    yield event
        finally:
            ticks.close()

    def diff(self, pass_name: str) -> str:
        """Return what a pass changed, as a unified diff of the IR text; raises WeftError."""
        return self._report.diff(pass_name) if self._report else ""

    def explain(self) -> str:
        """Return what each pass did and what it left undone, with the source lines."""
        return self._report.explain() if self._report else ""

    def prefix_tree(self, rows: Sequence[Mapping[str, Any]] = ()) -> Any:
        """Return the prefix tree of all calls of a batch, before any runs; `str` shows it.

        Without rows, that of one row whose arguments are not known.
        """
        if self._prefixes is None:
            return None
        return self._prefixes.tree([self.check_row(*row) for row in enumerate(these_rows(rows))])

    def view(self) -> View:
        """Return what it runs on, its parameters, what it has run so far, and its plan."""
        executor, engine = self.engine.executor, self.engine
        memory = bytes_text(executor.num_pages * executor.page_bytes)
        parameters = ", ".join(
            f"{p['name']}: {p['type']}" for p in self.machine.function["parameters"]
        )
        facts = (
            ("model", self.model), ("parameters", parameters or "none"),
            ("KV memory", f"{executor.num_pages:,} pages of {executor.page_size} tokens, {memory}"),
            ("a step takes", f"{executor.max_batch} sequences, {executor.max_tokens} tokens"),
            ("so far", f"{engine.steps:,} steps, {engine.computed_tokens:,} tokens computed"),
        )  # fmt: skip
        plan = Listing(str(self.plan), "ir", "plan", folded=True)
        return View("executable", f"@{self.name}", (Facts(facts), plan))

    def check_row(self, row: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that a row's fields give; raises BadArguments."""
        return bind_arguments(self.machine.function, self.machine.records, fields, row)

    def session(self, listener: Listener | None = None) -> Session:
        """Return what runs rows, started few at a time, on the shared engine."""
        return Session(self._host, self.seed, listener, self._most)

    def _bound(self, values: tuple[Any, ...], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call; raises BadArguments."""
        if values:
            raise unnamed(self.machine.function, values)
        return bind_arguments(self.machine.function, self.machine.records, arguments)

    def _events(self, values: Mapping[str, Any]) -> Any:
        """Return an iterator that yields the events of each step."""
        events: deque[Event] = deque()
        steps = self.session(events.append).steps(iter([(0, values)]))
        try:
            for ended in steps:
                for _, outcome in ended:
                    if isinstance(outcome, Exception):
                        raise outcome
                    events.append(Finished(outcome))
                taken = list(events)
                events.clear()
                yield taken
        finally:
            steps.close()  # type: ignore[attr-defined]


async def _in_thread(ticks: Iterator[list[Event]]) -> list[Event] | None:
    """Return the next events; a cancelled wait still lets the step that runs come to its end."""
    step = asyncio.ensure_future(asyncio.to_thread(next, ticks, None))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait([step])
        raise
