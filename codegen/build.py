"""Tile kernels to loaded CPU code: one shared object for many kernels, from the cache if it can."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..ir.core import Operation
from ..ir.diagnostics import CapacityError, KernelError, Warning
from ..ir.printer import print_operation
from ..ir.schedule import Schedule
from .cache import CacheFull, KernelCache, default_folder, host_signature, key_of, named_cpu
from .kernel import BuildStatistics, Kernel
from .threads import ensure_threads
from .tvm.emit import emit_tvm, identifier, kernel_name

BUILD_BYTES = 8 << 20
"""Room for temporary files of a build: a library of all kernels of a model is about 1 MB."""

Report = Callable[[Warning], None]
Emitter = Callable[[], str]


class BuildFailed(KernelError):
    """Generated text that the compiler refused."""

    template = "kernels {names} do not compile: {problem}"
    hint = "this is a fault of weft; `weft dump --stage source` shows the generated text"


class NoRoomToBuild(CapacityError):
    """A disk of temporary files that has no room for what a compiler writes."""

    template = "no space left to compile kernels in {folder}"
    hint = "free some space, or give another folder for temporary files (TMPDIR)"


class RuntimeMissing(KernelError):
    """No CPU kernel runtime is installed."""

    template = "libtvm_runtime.so was not found"
    hint = "install the package apache-tvm"


class SameName(KernelError):
    """Two kernels of one library with one name."""

    template = "two kernels are named {name}"


def compile_kernels(
    kernels: Sequence[tuple[Operation, Schedule]],
    target: str = "cpu",
    cache: Path | None = None,
    report: Report | None = None,
) -> dict[str, Kernel]:
    """Compile kernels into one library, or load it from the cache; return them by name.

    `cache` is the folder of compiled kernels (default: the user's). `report` hears warnings.
    """
    if target != "cpu":
        raise BuildFailed(names="", problem=f"this builder makes CPU code, not code for {target}")
    if not kernels:
        return {}
    start = time.perf_counter()
    names = [identifier(kernel_name(operation)) for operation, _ in kernels]
    for name in names:
        if names.count(name) > 1:
            raise SameName(name=name)
    tiles = [print_operation(operation) for operation, _ in kernels]
    schedules = [repr(schedule) for _, schedule in kernels]
    key = key_of(
        *tiles, *schedules, host_signature(), emitter_digest(), version("apache-tvm"), target
    )
    emitters = [partial(emit_tvm, operation, schedule) for operation, schedule in kernels]
    library, cached = _library(key, emitters, names, KernelCache(cache or default_folder()), report)
    module = load_library(library)
    statistics = BuildStatistics(cached, time.perf_counter() - start, key, len(kernels))
    return {
        kernel_name(operation): Kernel(
            kernel_name(operation), module[name], emitter, tile, statistics, target,
            inspector=lambda what, emitter=emitter: inspect_source(emitter(), what),
        )
        for (operation, _), name, emitter, tile in zip(kernels, names, emitters, tiles, strict=True)
    }  # fmt: skip


@cache
def emitter_digest() -> str:
    """Return a hash of the emitter's own source: kernels of an older emitter are not reused."""
    folder = Path(__file__).parent
    files = [folder / "tile_analysis.py", *sorted((folder / "tvm").glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def module_text(sources: Sequence[str]) -> str:
    """Return the TVMScript module that holds some kernels."""
    body = "\n".join("    " + line for source in sources for line in source.splitlines())
    return f"@I.ir_module\nclass Weft:\n{body}\n"


def load_library(path: Path) -> Any:
    """Load compiled kernels; needs the runtime library only, not the compiler."""
    ensure_threads()
    _runtime()
    import tvm_ffi

    return tvm_ffi.load_module(str(path))


def inspect_source(source: str, what: str) -> str:
    """Return a kernel's LLVM IR (`llvm`) or `assembly`, by compiling it again."""
    executable = _compile(module_text([source]), [""], places=True)
    return executable.mod.inspect_source({"llvm": "ll", "assembly": "s"}[what])


def llvm_of(sources: Mapping[str, str]) -> str:
    """Return the LLVM IR of kernels (TVMScript by name), compiled as one module."""
    executable = _compile(module_text(list(sources.values())), list(sources), places=True)
    return executable.mod.inspect_source("ll")


def assemble(llvm: str) -> str:
    """Return the assembly of a module of LLVM IR that TVM has made."""
    import tvm

    with tempfile.TemporaryDirectory(prefix="weft-assemble-") as folder:
        path = Path(folder) / "kernels.ll"
        path.write_text(llvm, encoding="utf-8")
        return tvm.runtime.load_module(str(path)).inspect_source("s")


def _library(
    key: str,
    emitters: Sequence[Emitter],
    names: list[str],
    cache: KernelCache,
    report: Report | None,
) -> tuple[Path, bool]:
    """Return the library under a key, and whether it was there already; where the cache takes
    none, it lies in a temporary folder, and the user is told."""

    def unkept(why: str, hint: str = "give another folder (WEFT_CACHE)") -> Path:
        _report(Warning(f"{why}; kernels are not kept", hint=hint), report)
        return Path(tempfile.mkdtemp(prefix="weft-kernels-"))

    found = cache.find(key)
    if found is not None:
        return found, True
    try:
        if not cache.writable():
            folder = unkept(f"the kernel cache {cache.folder} cannot be written")
            return _build(emitters, names, folder), False
    except CacheFull as full:
        return _build(emitters, names, unkept(full.message, full.hint_text)), False
    with cache.locked(key):
        found = cache.find(key)
        if found is not None:
            return found, True
        with tempfile.TemporaryDirectory(prefix="weft-build-") as folder:
            built = _build(emitters, names, Path(folder))
            try:
                return cache.put(key, built, {"kernels": names}), False
            except CacheFull as full:  # what took so long serves this run at least
                return Path(shutil.copy(built, unkept(full.message, full.hint_text))), False


def _build(emitters: Sequence[Emitter], names: list[str], folder: Path) -> Path:
    path, disk = folder / "kernels.so", shutil.disk_usage(folder)
    if disk.total and disk.free < BUILD_BYTES:  # LLVM would end the process
        raise NoRoomToBuild(folder=folder.parent)
    _compile(module_text([emitter() for emitter in emitters]), names).export_library(str(path))
    return path


def _compile(text: str, names: list[str], places: bool = False) -> Any:
    """Compile TVMScript; with `places`, its machine code can be found line by line."""
    import tvm
    from tvm.target import codegen

    cpu = named_cpu() or codegen.llvm_get_system_cpu()
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "fast-math": True})
    try:
        return tvm.compile(_read(text, places), target=target)
    except Exception as error:
        raise BuildFailed(names=", ".join(names), problem=str(error)) from error


def _read(text: str, places: bool) -> Any:
    """Return the IRModule of TVMScript."""
    import tvm

    from .tvm.macros import macros
    from .tvm.read import read_module

    if not places:
        with suppress(Exception):  # TVM's parser takes more, and tells the line of what is wrong
            return read_module(text)
    return tvm.script.from_source(text, extra_vars=macros())


@cache
def _runtime() -> ctypes.CDLL:
    """Make the thread pool's symbols visible to kernels, without importing the compiler."""
    import tvm_ffi  # noqa: F401  (the runtime library needs it loaded)

    spec = importlib.util.find_spec("tvm")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).rglob("libtvm_runtime.so")):
            return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    raise RuntimeMissing()


def _report(warning: Warning, report: Report | None) -> None:
    if report is not None:
        report(warning)
    else:
        warnings.warn(str(warning), stacklevel=3)
