"""Token tables on disk, beside the compiled kernels: content-addressed, checked when read."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .cache import CacheFull, KernelCache, default_folder

_MARK = 32
"""Bytes of the digest that stands before the data."""


@dataclass(frozen=True)
class TableCache:
    """Implements `ir.constraints.tables.Store`: files `<key>.table`; None is the user's folder.

    A file that is not whole counts as none, and a folder that cannot be written keeps nothing,
    nor does a full one: a table takes less to make than a run that ends for it.
    """

    folder: Path | None = None

    def find(self, key: str) -> bytes | None:
        """Return what was put under a key, if it is whole."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        data = content[_MARK:]
        return data if hashlib.sha256(data).digest() == content[:_MARK] else None

    def put(self, key: str, data: bytes) -> None:
        """Keep data under a key; others see the old file or the whole new one."""
        path = self._path(key)
        cache = KernelCache(path.parent)
        with suppress(CacheFull):
            if cache.writable():
                cache.write(path, hashlib.sha256(data).digest() + data)

    def _path(self, key: str) -> Path:
        return (self.folder or default_folder()) / f"{key}.table"
