"""Probes of the disk under a folder: reads and writes of a file that no cache holds."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cpu import CpuProbes, LinkProbes, Measure, MemoryProbes

FILE_BYTES = 128 << 20
BLOCK = 4 << 20
FILE = "probe"


@contextmanager
def disk_probes(folder: Path) -> Iterator[tuple[CpuProbes, list[LinkProbes]] | None]:
    """Yield the probes of the disk that a folder is on, and of the ways to and from it.

    None where the folder has no room for the file of the probes, or cannot be written. The file
    is there while the probes may run. Reads go round the page cache where the system allows it
    (O_DIRECT); elsewhere the cache is asked to forget the file first.
    """
    place = _prepared(folder)
    if place is None:
        yield None
        return
    with place as path:
        yield _probes(Path(path) / FILE, float(shutil.disk_usage(folder).free))


def _prepared(folder: Path) -> tempfile.TemporaryDirectory[str] | None:
    """Return a new folder that holds the file of the probes; None where there can be none."""
    place = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < 4 * FILE_BYTES:
            return None
        place = tempfile.TemporaryDirectory(dir=folder, prefix="calibrate-")
        _write(Path(place.name) / FILE)
        _timed_read(Path(place.name) / FILE)
    except OSError:
        if place is not None:
            place.cleanup()
        return None
    return place


def _probes(file: Path, free: float) -> tuple[CpuProbes, list[LinkProbes]]:
    read = Measure(lambda: _timed_read(file), FILE_BYTES)
    write = Measure(lambda: _timed_write(file), FILE_BYTES)
    memory = MemoryProbes("disk", free, [read], [write])
    level = CpuProbes(1, [memory], {}, {}, {}, name="disk", kind="disk")
    links = [LinkProbes("disk", "cpu", [read]), LinkProbes("cpu", "disk", [write])]
    return level, links


def _write(file: Path) -> None:
    block = os.urandom(BLOCK)
    with file.open("wb") as out:
        for _ in range(FILE_BYTES // BLOCK):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())


def _timed_write(file: Path) -> float:
    start = time.perf_counter()
    _write(file)
    return time.perf_counter() - start


def _timed_read(file: Path) -> float:
    """Read the whole file in blocks; the buffer is aligned to a page, as O_DIRECT needs it."""
    descriptor = _open(file)
    try:
        with mmap.mmap(-1, BLOCK) as buffer, memoryview(buffer) as view:
            start = time.perf_counter()
            while os.readv(descriptor, [view]):
                pass
            return time.perf_counter() - start
    finally:
        os.close(descriptor)


def _open(file: Path) -> int:
    direct = getattr(os, "O_DIRECT", 0)
    try:
        return os.open(file, os.O_RDONLY | direct)
    except OSError:
        descriptor = os.open(file, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return descriptor
