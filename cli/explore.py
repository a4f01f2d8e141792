"""`weft explore`: writes one page that shows a compilation, and says where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.diagnostics import WeftError, reason
from .hardware import hardware_here
from .render import emit, remarks
from .rows import completed, read_rows
from .run import written_arguments

PAGE = "index.html"


class FolderNotWritable(WeftError):
    """An output folder that cannot be made or written."""

    kind = "file error"
    template = "the page cannot be written to {folder}: {problem}"
    hint = "give --out a folder that can be written"


@dataclass(frozen=True)
class ExploreOptions:
    """The options of `weft explore`, as the command line has them."""

    file: Path
    out: Path
    model: str
    program: str | None
    arg: list[str] | None
    rows: Path | None
    tools: Path | None
    weights: str
    threads: int
    assembly: str
    ptx: str


def explore(options: ExploreOptions) -> None:
    """Write the page; a program that does not compile still has one, and its error is raised."""
    from ..explore.build import Wish
    from ..explore.build import explore as explored
    from ..explore.page import page
    from ..frontend.open import tools_of
    from ..options import Options

    arguments = written_arguments(options.arg)
    rows: list[dict[str, Any]] = [arguments] if arguments else []
    if options.rows is not None:
        rows, remark = completed(read_rows(options.rows), arguments)
        if remark:
            remarks().print(remark, markup=False)
    chosen = Options.from_env().changed(weights=options.weights)
    if options.threads:
        chosen = chosen.changed(threads=options.threads)
    _writable(options.out)
    wish = Wish(
        options.file, options.model, options.program, chosen, rows,
        _part(options.assembly), tools_of(options.tools) if options.tools else None,
        _part(options.ptx),
    )  # fmt: skip
    with remarks().status("compiling") as status:
        found = explored(wish, hardware_here(), lambda text: status.update(text))
    path = options.out / PAGE
    _write(path, page(found))
    emit(str(path))
    if found.error is not None:
        raise found.error


def _part(text: str) -> str | None:
    """Return the part of names that `all`, `none` or a part stands for."""
    return {"none": None, "all": ""}.get(text, text)


def _writable(folder: Path) -> None:
    """Make the folder, before anything takes time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".{PAGE}").touch()
        (folder / f".{PAGE}").unlink()
    except OSError as error:
        problem = reason(error)
        raise FolderNotWritable(folder=folder, problem=problem) from None


def _write(path: Path, text: str) -> None:
    """Write the page so that an older one is there until the new one is whole."""
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        problem = reason(error)
        raise FolderNotWritable(folder=path.parent, problem=problem) from None
