"""A run over rows: checked, journaled, resumed, summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import RunError, WeftError
from .journal import Journal, row_key
from .programs.arguments import BadArguments
from .results import Progress, Result, Rows, Stats, Totals
from .session import Job

if TYPE_CHECKING:
    from .executable import Executable

KEPT = 1024
"""Rows of a list whose arguments, checked before any row runs, are kept until it does."""


class NoRows(RunError):
    """What was given as rows is one row, a text, or nothing that has elements."""

    template = "{kind} is no rows"
    hint = "give a list, or another iterable, of dicts: one dict of named arguments for each row"


def these_rows(rows: Any) -> Iterable[Mapping[str, Any]]:
    """Return what is given as rows; raises NoRows."""
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise NoRows(kind=type(rows).__name__)
    return rows


class RowRun:
    """One run over rows."""

    def __init__(
        self,
        executable: Executable,
        journal: Journal | None,
        progress: Callable[[Progress], None] | None,
        keep_going: bool,
    ) -> None:
        self._executable = executable
        self._session = executable.session()
        self._journal = journal
        self._report = progress or (lambda progress: None)
        self._keep_going = keep_going
        self._plan = "" if journal is None else str(executable.plan)
        self._checked: dict[int, dict[str, Any]] = {}
        self._keys: dict[int, str] = {}
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._progress = Progress()
        self._totals, self._stats = Totals(), Stats(rows=0)
        self._started = perf_counter()

    def run(self, rows: Iterable[Mapping[str, Any]], out: Path | None) -> Rows:
        """Run all rows; the journal is closed whatever happens, and goes when all is written.

        It stays where rows have failed: the same run again computes those alone.
        """
        complete = False
        try:
            if isinstance(rows, Sequence):
                if not self._keep_going:
                    self._check(rows)
                self._progress.total = len(rows)
                self._session.window = len(rows) + 1  # so that their end is seen
            self._run(rows)
            if self._journal is not None and out is not None:
                self._journal.write_output(out, sorted(self._outcomes))
                complete = not self._progress.failed
        finally:
            if self._journal is not None:
                self._journal.close(remove=complete)
        return self._rows()

    def _check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Look at each row before any runs; raises BadArguments."""
        for number, row in enumerate(rows):
            values = self._executable.check_row(number, row)
            if number < KEPT:
                self._checked[number] = values

    def _run(self, rows: Iterable[Mapping[str, Any]]) -> None:
        engine = self._executable.engine
        steps, preemptions = engine.steps, engine.preemptions
        running = self._session.steps(self._jobs(rows))
        try:
            for ended in running:
                for row, outcome in ended:
                    self._end(row, outcome)
        finally:
            running.close()  # type: ignore[attr-defined]
            self._stats = self._totals.stats(
                perf_counter() - self._started, engine.steps - steps,
                engine.preemptions - preemptions,
            )  # fmt: skip

    def _jobs(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Job]:
        """Yield the rows that still have to run; one whose fields are wrong has failed."""
        executable = self._executable
        for number, row in enumerate(rows):
            try:
                values = self._checked.pop(number, None) or executable.check_row(number, row)
            except BadArguments as error:
                if self._journal is not None:
                    self._keys[number] = ""  # it has no arguments to know it by
                self._end(number, error)
                continue
            if self._journal is None or not self._known(self._journal, number, values):
                yield number, values
        self._tell(None)

    def _known(self, journal: Journal, number: int, values: Mapping[str, Any]) -> bool:
        """Say whether a row is done already; its outcome is then taken from the journal."""
        executable = self._executable
        key = row_key(self._plan, executable.model, executable.seed, values)
        known = journal.finished(number, key)
        if known is None:
            self._keys[number] = key
            return False
        self._outcomes[number] = known
        self._progress.resumed += 1
        self._progress.done += 1
        return True

    def _end(self, row: int, outcome: Result | Exception) -> None:
        if isinstance(outcome, Exception):
            if not self._keep_going or not isinstance(outcome, WeftError):
                raise outcome
            entry: dict[str, Any] = {"error": str(outcome)}
            self._progress.failed += 1
        else:
            entry = {"value": outcome.value, "values": outcome.values}
            self._totals.add(outcome.stats)
        if self._journal is not None:
            self._journal.append(row, self._keys.pop(row), entry)
        self._outcomes[row] = entry
        self._progress.done += 1
        self._tell(row)

    def _tell(self, row: int | None) -> None:
        self._progress.last_row = row
        self._progress.generated_tokens = self._totals.generated_tokens
        self._progress.seconds = perf_counter() - self._started
        self._report(self._progress)

    def _rows(self) -> Rows:
        numbers = sorted(self._outcomes)
        return Rows(
            values=[self._outcomes[number].get("value") for number in numbers],
            errors={
                number: self._outcomes[number]["error"]
                for number in numbers
                if "error" in self._outcomes[number]
            },
            stats=self._stats,
            resumed=self._progress.resumed,
        )
