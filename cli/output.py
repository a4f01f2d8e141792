"""Files that commands write: refused before any work is done, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.diagnostics import WeftError, reason
from ..ir.whole_file import draft_of, write_whole
from ..options import BadOption

if TYPE_CHECKING:
    from ..plots.style import Picture


class NotWritten(WeftError):
    """A file that cannot be made or written."""

    kind = "file error"
    template = "{path} cannot be written: {problem}"
    hint = "give {option} a file in a folder that exists and can be written"


def check_file(path: Path | None, option: str) -> None:
    """Raise NotWritten where no file could be written: a folder, or no place for one."""
    if path is None:
        return
    if path.is_dir():
        raise NotWritten(path=path, option=option, problem="it is a folder")
    if not path.absolute().parent.is_dir():
        problem = f"there is no folder {path.parent}"
        raise NotWritten(path=path, option=option, problem=problem)
    try:
        _try(path)
    except OSError as error:
        raise failed(path, option, error) from None


def write_file(path: Path, option: str, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes; what was there before stays until all is written.

    Raises NotWritten.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise failed(path, option, error) from None


def check_picture(path: Path | None) -> None:
    """Raise where `--plot` names no file of a picture, or none can be drawn or written.

    BadOption, NoPictures, NotWritten.
    """
    if path is None:
        return
    if path.suffix not in (".svg", ".png"):
        raise BadOption(problem=f"--plot {path} is neither .svg nor .png")
    from ..compiler.stages import require_pictures

    require_pictures()
    check_file(path, "--plot")


def write_picture(picture: Picture, path: Path) -> None:
    """Write a picture of `--plot` as the file's suffix says; raises NotWritten."""
    drawn = picture.svg() if path.suffix == ".svg" else picture.png(dots_per_inch=144)
    write_file(path, "--plot", drawn)


def _try(path: Path) -> None:
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(None, "it may not be written")
    if path.is_file() or not path.exists():
        draft = draft_of(path.resolve())
        draft.touch()
        draft.unlink()


def failed(path: Path, option: str, error: OSError) -> NotWritten:
    """Return the error of a file that the system refused."""
    return NotWritten(path=path, option=option, problem=reason(error))
