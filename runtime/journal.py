"""The journal of a run over rows: a finished row is on disk before the next one is reported.

One JSON line a row, appended and synced. A line that a crash has torn is cut off when the
journal is opened again; a row counts as finished only for the same plan, model, seed and row. What
another plan, model or seed has finished is kept under another name, never written over.
One run at a time holds a journal: two would write over each other's lines.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from ..ir.diagnostics import RunError, Warning
from ..ir.display.units import counted
from ..ir.values import portable_json

OURS = ("key", "run")
"""What a line of a journal has beside an outcome."""

HEAD = b'{"row": '
"""What each line of a journal begins with."""


class JournalFailed(RunError):
    """A journal or an output file that cannot be read or written."""

    template = "cannot {action} {path}: {problem}"
    hint = "the {finished} rows finished so far are kept; run the same command again to go on"


class NoPlainFile(JournalFailed):
    """An output that is a folder, a pipe, a terminal or another device."""

    template = "results of rows are written to a file, and {path} is none"
    hint = "leave out --out: they are printed, one a line"


class JournalHeld(JournalFailed):
    """A journal that another run is writing."""

    template = "another run is writing {path}"
    hint = "wait until it has ended, or give this one another --out (from Python: out, journal)"


class NoJournal(JournalFailed):
    """A journal's place where something else stands, which would be lost."""

    template = "{path} {problem}"
    hint = "give the journal a file of its own"


def plain(out: Path) -> Path:
    """Return the file that a link leads to, else `out`; raises NoPlainFile for a device or a
    folder."""
    if out.exists() and not out.is_file():
        raise NoPlainFile(path=str(out))
    return out.resolve() if out.is_symlink() else out


def journal_of(out: Path | None, journal: str | Path | None) -> Path | None:
    """Return where a run keeps its journal: beside its output unless asked. Raises NoJournal."""
    if journal is None:
        return None if out is None else out.with_name(out.name + ".journal")
    place = Path(journal)
    if out is not None and place.resolve() == out.resolve():
        raise NoJournal(path=place, problem="cannot be both the output and the journal")
    return place


def run_identity(plan: str, model: str, seed: int) -> dict[str, Any]:
    """Return what the rows of a run have in common, as their lines in a journal name it."""
    return {"model": model, "seed": seed, "plan": hashlib.sha256(plan.encode()).hexdigest()[:12]}


def row_key(plan: str, model: str, seed: int, row: Mapping[str, Any]) -> str:
    """Return the hash under which a row's result may be used again."""
    text = json.dumps([plan, model, seed, row], sort_keys=True, default=repr, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Journal:
    """Finished rows by number, on disk."""

    def __init__(self, path: Path, run: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.entries: dict[int, dict[str, Any]] = {}
        self._run = dict(run or {})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened(path)
            self._load()
            self._keep_another_runs()
        except OSError as error:
            raise self._failed("open", path, error) from None

    def finished(self, row: int, key: str) -> dict[str, Any] | None:
        """Return a row's entry, if it was computed under the same key and did not fail."""
        entry = self.entries.get(row)
        return entry if entry and entry["key"] == key and "error" not in entry else None

    def append(self, row: int, key: str, outcome: Mapping[str, Any]) -> None:
        """Write and sync a finished row; raises JournalFailed."""
        entry = {"row": row, "key": key, "run": self._run, **outcome}
        line = json.dumps(entry, ensure_ascii=False, default=_plain).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed("write", self.path, error) from None
        self.entries[row] = json.loads(line)

    def write_output(self, out: Path, rows: Iterable[int]) -> None:
        """Write the rows' outcomes in order to `out`, all or nothing; raises JournalFailed."""
        part = out.with_name(out.name + ".part")
        try:
            with part.open("w", encoding="utf-8") as file:
                for row in rows:
                    entry = {k: v for k, v in self.entries[row].items() if k not in OURS}
                    file.write(portable_json(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(out)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise self._failed("write", out, error) from None

    def close(self, remove: bool = False) -> None:
        """Close the file; with `remove`, the run is complete and the journal may go."""
        if remove:  # while it is held: another run may have it as soon as it is closed
            self.path.unlink(missing_ok=True)
        try:
            self._file.close()
        except OSError:
            pass  # a write that failed has been reported; closing may try it again

    def _load(self) -> None:
        """Read the entries, and cut off what a crash has left of the last one."""
        whole = 0
        for line in self._file:
            entry = _entry(line)
            if entry is None:
                if not whole and not _torn(line):
                    self._file.close()
                    raise NoJournal(path=self.path, problem="is no journal of rows")
                break
            self.entries[entry["row"]] = entry
            whole += len(line)
        self._file.seek(whole)
        self._file.truncate()

    def _keep_another_runs(self) -> None:
        """Set a journal of another program, model or seed aside, and begin one of this run."""
        runs = [entry.get("run") or {} for entry in self.entries.values() if "error" not in entry]
        others = [run for run in runs if run and self._run and run != self._run]
        if not others:
            return
        kept = next(place for place in self._other_names() if not place.exists())
        self.path.rename(kept)
        self._file.close()
        self._file, self.entries = _opened(self.path), {}
        warning = Warning(
            f"{kept} keeps {counted(len(others), 'finished row')} of another run "
            f"({_difference(others[0], self._run)}): this one begins anew",
            hint="give this run another --out (from Python: out, journal), and rename the journal "
            "back, to go on with the other one",
        )
        warnings.warn(str(warning), stacklevel=2)

    def _other_names(self) -> Iterator[Path]:
        return (self.path.with_name(f"{self.path.name}.{number}") for number in count(1))

    def _failed(self, action: str, path: Path, error: OSError) -> JournalFailed:
        problem = error.strerror or str(error)
        return JournalFailed(
            action=action, path=str(path), problem=problem, finished=len(self.entries)
        )


def _opened(path: Path) -> BinaryIO:
    """Open `path`, made if need be, for this run alone; raises JournalHeld and OSError.

    The system lets go of it when the run's process ends, however that comes about.
    """
    while True:
        path.touch()
        file = path.open("r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise JournalHeld(path=str(path)) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks
                file.close()
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # a run that ended just now has removed what was opened here


def _difference(other: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Say what of another run is not as in this one."""
    named = [f"{name} {other.get(name)}, not {run[name]}" for name in ("model", "seed")
             if other.get(name) != run[name]]  # fmt: skip
    return "; ".join([*named, *["another program"] * (other.get("plan") != run["plan"])])


def _entry(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("row"), int) and "key" in entry
    return entry if whole and isinstance(entry.get("run", {}), dict) else None


def _torn(line: bytes) -> bool:
    """Say whether a line may be the beginning of an entry: a crash may leave zeros for the rest."""
    left = line.rstrip(b"\0")
    return not line.endswith(b"\n") and left[: len(HEAD)] == HEAD[: len(left)]


def _plain(value: Any) -> Any:
    return repr(value)
