"""`weft check`: everything that is wrong with programs, for people, editors and build servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..compiler.checking import STDIN, Findings, check_file
from ..ir.diagnostics import Warning, WeftError
from ..ir.display.units import counted
from .errors import with_lines
from .live import as_json
from .render import emit, remarks


def check(files: Sequence[Path], tools: Path | None, json: bool) -> None:
    """Print what is wrong with each file (`-`: standard input); exit with 1 if anything is."""
    files = [STDIN if str(file) == "-" else file for file in files]
    found = {file: check_file(file, tools) for file in files}
    if json:
        emit(as_json({"files": [_record(file, one) for file, one in found.items()]}))
    else:
        for file, one in found.items():
            _print(file, one)
    if any(one.errors for one in found.values()):
        raise SystemExit(1)


def _print(file: Path, found: Findings) -> None:
    for error in found.errors:
        emit(with_lines(error).render() + "\n")
    for warning in found.warnings:
        emit(f"{warning}\n")
    tools = f", {counted(found.tools, 'tool')}" if found.tools else ""
    right = f"nothing is wrong in {counted(found.programs, 'program')}{tools}"
    said = counted(len(found.errors), "error") if found.errors else right
    said += f", {counted(len(found.warnings), 'warning')}" if found.warnings else ""
    remarks().print(f"{file}: {said}", markup=False)


def _record(file: Path, found: Findings) -> dict[str, Any]:
    return {
        "file": str(file),
        "errors": [{"kind": error.kind, **_said(error)} for error in found.errors],
        "warnings": [_said(warning) for warning in found.warnings],
    }


def _said(what: WeftError | Warning) -> dict[str, Any]:
    """Return a message with its place; lines and columns from 1, the end column exclusive."""
    span = what.span
    place = {} if span is None else {
        "source": span.source, "line": span.line, "column": span.column,
        "end_line": span.end_line, "end_column": span.end_column,
    }  # fmt: skip
    hint = what.hint_text if isinstance(what, WeftError) else what.hint
    return {"message": what.message, "hint": hint, **place}
