"""Files that are written whole or not at all: what was there stays until all of the new is."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: str | Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes; a pipe, a terminal or a device gets them as it is, and behind
    a link the file that it names. OSError passes, and leaves nothing behind."""
    path, data = Path(file), content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = path.resolve()
    draft = draft_of(path)
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def draft_of(path: Path) -> Path:
    """Return the name beside a file under which this process writes it first."""
    return path.with_name(f".{path.name}.{os.getpid()}")
