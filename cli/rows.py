"""Rows of a batch on the command line: read, completed by `--arg`, and where their results go."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..ir import strict_json
from ..ir.diagnostics import Note, RunError, WeftError, reason
from ..ir.display.units import counted
from ..ir.source import Span
from .output import check_file


class BadRows(RunError):
    """A rows file that cannot be read, or a line of it that is no JSON object."""

    template = "{path}{line}: {problem}"
    hint = "one JSON object a line, with the program's parameters as keys"


class WithoutRows(RunError):
    """An option of a batch for a single run."""

    template = "{flag} is {what}, and there are no --rows"


class OutIsRows(RunError):
    """An output file that would take the place of the rows."""

    template = "--out {path} is the file of --rows, and would take its place"
    hint = "give --out another file"


class RowsFailed(RunError):
    """Rows that failed while the others went on; the first is told."""

    template = "{failed} of {rows} failed, the first of them so:\n{first}"


NEEDS_ROWS = {
    "--out": (
        "where the results of --rows go", "add --rows FILE, or use --json and redirect the output"
    ),
    "--keep-going": ("about the rows that do not fail", "add --rows FILE"),
}  # fmt: skip
"""Options that mean nothing without rows: what each is, and what to do."""


def check_out(rows: Path | None, out: Path | None, keep_going: bool) -> None:
    """Raise where rows' options ask for what there is not.

    WithoutRows, OutIsRows, NotWritten.
    """
    if rows is None:
        for flag, given in (("--out", out is not None), ("--keep-going", keep_going)):
            if given:
                raise WithoutRows(flag=flag, what=NEEDS_ROWS[flag][0], hint=NEEDS_ROWS[flag][1])
    check_file(out, "--out")
    if rows is None or out is None:
        return
    from ..runtime.journal import plain

    plain(out)
    if out.exists() and rows.exists() and out.samefile(rows):
        raise OutIsRows(path=out)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON lines file; raises BadRows."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # U+2028 may stand in a string
    except (OSError, UnicodeDecodeError) as error:
        raise BadRows(path=path, line="", problem=reason(error)) from None
    for number, line in _written(lines):
        try:
            row = strict_json.loads(line)
        except (ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            problem = "it is nested too deeply" if deep else str(error)
            raise BadRows(path=path, line=f":{number}", problem=problem) from None
        if not isinstance(row, dict):
            raise BadRows(path=path, line=f":{number}", problem="this is no JSON object")
        yield row


def _written(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold a row, with their numbers from 1."""
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


@contextmanager
def telling_the_line(path: Path | None) -> Generator[None]:
    """Let an error of a row, which counts from 0, name the row's line in the file, too."""
    try:
        yield
    except WeftError as error:
        row = error.fields.get("row")
        if path is None or not path.is_file() or not isinstance(row, int):
            raise
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
        places = [Span(str(path), line, 1, line, 2) for line, _ in _written(lines)]
        notes = tuple(Note(f"row {row} stands here (rows count from 0)", place)
                      for place in places[row : row + 1])  # fmt: skip
        raise type(error)(
            span=error.span, notes=error.notes + notes, source=error.source, **error.fields
        ) from None


def completed(
    rows: Iterable[Mapping[str, Any]], arguments: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """Return rows with what they leave out taken from `--arg`, and a remark.

    It tells where a row wins over `--arg`, and where there are no rows: an empty file is no error,
    as a batch may have nothing to do, but may be the wrong file.
    """
    found, won = [], dict.fromkeys(arguments, 0)
    for row in rows:
        for name in arguments.keys() & row.keys():
            won[name] += 1
        found.append({**arguments, **row})
    if not found:
        return found, "the file of --rows has no rows: nothing is run"
    told = [f"{name} ({'all' if count == len(found) else count} of {counted(len(found), 'row')})"
            for name, count in won.items() if count]  # fmt: skip
    names = ", ".join(told)
    return found, f"rows win over --arg where they have the field: {names}" if told else ""
