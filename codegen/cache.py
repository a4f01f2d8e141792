"""The kernel cache on disk: content-addressed kernels in shared objects, checked before they are
loaded."""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic, time

from ..ir.diagnostics import CapacityError, reason

LOCK_SECONDS = 300
"""How long another process that builds the same is waited for: it may have been stopped."""
DRAFT_SECONDS = 24 * 3600
"""The age at which a draft is that of a process that was killed: to write one takes minutes."""
DRAFTS = "*.*.????????"
"""What drafts of a cache's files are called: the file's name, and eight letters of `mkstemp`."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says of a write that finds no room: on the disk, or within the user's limits."""


class CacheFull(CapacityError):
    """A disk that has no room for a kernel."""

    template = "no space left for a compiled kernel in {folder} ({problem})"
    hint = "free some space, or give another cache folder (WEFT_CACHE)"


def default_folder() -> Path:
    """Return the folder of a user's kernels."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("weft")) / "kernels"


def named_cpu() -> str:
    """Return the CPU that WEFT_CPU names, as LLVM does (`sapphirerapids`); empty: this machine's.

    Kernels for a named CPU can be carried to machines of that kind, which need no compiler then.
    """
    return os.environ.get("WEFT_CPU", "")


@cache
def host_signature() -> str:
    """Return a short name of this CPU's kind: code for one kind may not run on another."""
    if named_cpu():
        return hashlib.sha256(f"cpu {named_cpu()}".encode()).hexdigest()[:16]
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features")
    found: dict[str, str] = {"machine": platform.machine()}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in wanted:
                found.setdefault(key.strip(), value.strip())
    except OSError:
        found["processor"] = platform.processor()
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def key_of(*parts: str) -> str:
    """Return the content address of everything that decides what a kernel's binary is."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    return digest.hexdigest()[:40]


def forget_drafts(folder: Path, pattern: str = DRAFTS) -> None:
    """Remove what killed processes of this user have left in a folder; what cannot go stays."""
    old = time() - DRAFT_SECONDS
    for path in folder.glob(pattern):
        with suppress(OSError):
            found = path.lstat()
            if found.st_mtime < old and found.st_uid == os.getuid():
                shutil.rmtree(path) if stat.S_ISDIR(found.st_mode) else path.unlink()


def temporary_folder() -> Path:
    """Return a new folder for what the cache does not take, which goes when this process ends."""
    folder, owner = Path(tempfile.mkdtemp(prefix="weft-kernels-")), os.getpid()

    @atexit.register
    def forget() -> None:
        if os.getpid() == owner:  # and not in a process that was forked from it
            shutil.rmtree(folder, ignore_errors=True)

    return folder


@dataclass(frozen=True)
class KernelCache:
    """A folder of libraries `<key>.so`, each with a `<key>.json` that says what it must be, and of
    files `<key of a kernel>.kernel` that name the library that a kernel was compiled into."""

    folder: Path

    def find(self, kernels: Mapping[str, str]) -> dict[str, Path]:
        """Return the libraries of those kernels (names and keys) that are there; a library counts
        if it is whole and made for this CPU."""
        keys = {name: self._text(f"{key}.kernel") for name, key in kernels.items()}
        libraries = {key: self._library(key) for key in {*keys.values()} if key}
        return {name: library for name, key in keys.items() if (library := libraries.get(key))}

    def _library(self, key: str) -> Path | None:
        library = self.folder / f"{key}.so"
        try:
            record = json.loads(self._text(f"{key}.json"))
            content = library.read_bytes()
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict):
            return None
        whole = record.get("sha256") == hashlib.sha256(content).hexdigest()
        return library if whole and record.get("host") == host_signature() else None

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text()
        except (OSError, ValueError):
            return ""

    def put(self, key: str, library: Path, kernels: Mapping[str, str]) -> Path:
        """Move a library of kernels (names and keys) into the cache; its record makes it valid."""
        content = library.read_bytes()
        record = {"sha256": hashlib.sha256(content).hexdigest(), "host": host_signature(),
                  "kernels": [*kernels]}  # fmt: skip
        target = self.folder / f"{key}.so"
        self.write(target, content)
        self.write(self.folder / f"{key}.json", json.dumps(record, indent=1).encode())
        for kernel in kernels.values():
            self.write(self.folder / f"{kernel}.kernel", key.encode())
        return target

    @contextmanager
    def locked(self, keys: Iterable[str], wait: bool = True) -> Iterator[set[str]]:
        """Hold locks of kernels, so that no two processes build the same one; yield the keys whose
        locks are held: without `wait`, those that nobody else builds.

        Who has waited LOCK_SECONDS goes on without: each file is put there whole, by either. All
        who wait take locks in one order, so that none waits for one who waits for it. Kernels whose
        keys begin alike share a lock, so that a folder has a few of these files.
        """
        import filelock

        self.folder.mkdir(parents=True, exist_ok=True)
        end, held, groups = monotonic() + LOCK_SECONDS, set[str](), dict[str, list[str]]()
        for key in keys:
            groups.setdefault(key[:2], []).append(key)
        with ExitStack() as locks:
            for begin, group in sorted(groups.items()):
                lock = filelock.FileLock(self.folder / f"{begin}.lock")
                with suppress(filelock.Timeout):
                    lock.acquire(timeout=max(0.0, end - monotonic()) if wait else 0)
                    locks.callback(lock.release)
                    held.update(group)
            yield held

    def writable(self) -> bool:
        """Tell whether files can be made in the folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                return True
        except OSError as error:
            if error.errno in NO_ROOM:
                raise CacheFull(folder=self.folder, problem=reason(error)) from None
            return False

    def write(self, path: Path, content: bytes) -> None:
        """Write a file so that others see the old one or the whole new one."""
        name = None
        try:
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=path.name + ".")
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            os.chmod(name, 0o755 if path.suffix == ".so" else 0o644)
            os.replace(name, path)
        except OSError as error:
            if name is not None:
                Path(name).unlink(missing_ok=True)
            if error.errno in NO_ROOM:
                raise CacheFull(folder=self.folder, problem=reason(error)) from None
            raise
