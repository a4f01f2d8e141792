"""A choice that was timed once on a machine, kept in a file: read, or measured and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Kept = TypeVar("Kept")
"""A dataclass of JSON values."""


def kept(
    path: Path, read: Callable[[Mapping[str, Any]], Kept], measure: Callable[[], Kept],
    keep: Callable[[bytes], None],
) -> Kept:  # fmt: skip
    """Return what a file says; where it is missing or broken, what is measured, which is kept.

    `read` raises ValueError or TypeError for what it does not know.
    """
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass  # nothing was kept, or by another version
    found = measure()
    keep(json.dumps(asdict(found)).encode())  # type: ignore[call-overload]
    return found
