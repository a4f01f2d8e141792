"""Tile kernels to loaded CPU code: from the cache those that are there, and one shared object for
all others."""

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
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..ir import expression, types
from ..ir.core import Operation
from ..ir.diagnostics import CapacityError, KernelError, Warning
from ..ir.printer import print_operation
from ..ir.schedule import Schedule
from .cache import (
    CacheFull,
    KernelCache,
    default_folder,
    forget_drafts,
    host_signature,
    key_of,
    named_cpu,
    temporary_folder,
)
from .kernel import BuildStatistics, Kernel
from .threads import ensure_threads
from .tvm.emit import emit_tvm, identifier, kernel_name

BUILD_BYTES = 8 << 20
"""Room for temporary files of a build: a library of all kernels of a model is about 1 MB."""

BUILD_FOLDER, ASSEMBLY_FOLDER = "weft-build-", "weft-assemble-"

COMPILED_FOR = {"kind": "llvm", "fast-math": True}
"""What kernels are compiled for, but for the CPU."""

Report = Callable[[Warning], None]


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


@dataclass(frozen=True)
class Wanted:
    """A kernel that is asked for: its symbol, its content address, and what writes its text."""

    name: str
    key: str
    emitter: Callable[[], str]


def compile_kernels(
    kernels: Sequence[tuple[Operation, Schedule]],
    target: str = "cpu",
    cache: Path | None = None,
    report: Report | None = None,
) -> dict[str, Kernel]:
    """Load kernels from the cache, and compile those that it lacks; return them by name.

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
    made_by = host_signature(), emitter_digest(), version("apache-tvm"), target
    wanted = [
        Wanted(name, key_of(tile, repr(schedule), *made_by), partial(emit_tvm, operation, schedule))
        for name, tile, (operation, schedule) in zip(names, tiles, kernels, strict=True)
    ]
    there, built = _libraries(wanted, KernelCache(cache or default_folder()), report)
    modules = {path: load_library(path) for path in {*there.values(), *built.values()}}
    seconds, found = time.perf_counter() - start, {}
    for (operation, _), tile, one in zip(kernels, tiles, wanted, strict=True):
        name, emitter, library = kernel_name(operation), one.emitter, (there | built)[one.name]
        found[name] = Kernel(
            name, modules[library][one.name], emitter, tile,
            BuildStatistics(one.name in there, seconds, one.key, len(kernels)), target,
            inspector=lambda what, emitter=emitter: inspect_source(emitter(), what),
        )  # fmt: skip
    return found


@cache
def emitter_digest() -> str:
    """Return a hash of the emitter's source, of what it asks of the IR, and of what kernels are
    compiled for: kernels of an older emitter are not reused."""
    folder, asked = Path(__file__).parent, (expression, types)
    files = [folder / "tile_analysis.py", *sorted((folder / "tvm").glob("*.py"))]
    files += [Path(str(module.__file__)) for module in asked]
    parts = (repr(COMPILED_FOR).encode(), *(file.read_bytes() for file in files))
    return hashlib.sha256(b"".join(parts)).hexdigest()


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

    with _scratch(ASSEMBLY_FOLDER) as folder:
        path = Path(folder) / "kernels.ll"
        path.write_text(llvm, encoding="utf-8")
        return tvm.runtime.load_module(str(path)).inspect_source("s")


def _libraries(
    kernels: Sequence[Wanted], cache: KernelCache, report: Report | None
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the libraries of kernels by name: of those that were there, and of those that are
    compiled now; where the cache takes none, these lie in a temporary folder for as long as this
    process lives, and the user is told.
    """

    def unkept(why: str, hint: str = "give another folder (WEFT_CACHE)") -> Path:
        _report(Warning(f"{why}; kernels are not kept", hint=hint), report)
        return temporary_folder()

    there = cache.find({kernel.name: kernel.key for kernel in kernels})
    lacking = [kernel for kernel in kernels if kernel.name not in there]
    if not lacking:
        return there, {}
    try:
        if not cache.writable():
            folder = unkept(f"the kernel cache {cache.folder} cannot be written")
            return there, dict.fromkeys((one.name for one in lacking), _build(lacking, folder))
    except CacheFull as full:
        folder = unkept(full.message, full.hint_text)
        return there, dict.fromkeys((one.name for one in lacking), _build(lacking, folder))
    forget_drafts(cache.folder)
    built: dict[str, Path] = {}
    for wait in (False, True):  # what others build meanwhile is theirs, unless they come to nothing
        with cache.locked((kernel.key for kernel in lacking), wait) as held:
            there = cache.find({one.name: one.key for one in kernels if one.name not in built})
            mine = [one for one in lacking
                    if one.name not in there and (wait or one.key in held)]  # fmt: skip
            if mine:
                with _scratch(BUILD_FOLDER) as folder:
                    library = _build(mine, Path(folder))
                    named = {one.name: one.key for one in mine}
                    try:
                        library = cache.put(key_of(*named.values()), library, named)
                    except CacheFull as full:  # what took so long serves this run at least
                        library = Path(shutil.copy(library, unkept(full.message, full.hint_text)))
                built |= dict.fromkeys(named, library)
        lacking = [one for one in kernels if one.name not in there and one.name not in built]
        if not lacking:
            break
    return there, built


def _scratch(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder; such that killed processes have left long ago go before."""
    forget_drafts(Path(tempfile.gettempdir()), f"{prefix}*")
    return tempfile.TemporaryDirectory(prefix=prefix)


def _build(kernels: Sequence[Wanted], folder: Path) -> Path:
    path, disk = folder / "kernels.so", shutil.disk_usage(folder)
    if disk.total and disk.free < BUILD_BYTES:  # LLVM would end the process
        raise NoRoomToBuild(folder=folder.parent)
    text = module_text([kernel.emitter() for kernel in kernels])
    _compile(text, [kernel.name for kernel in kernels]).export_library(str(path))
    return path


def _compile(text: str, names: list[str], places: bool = False) -> Any:
    """Compile TVMScript; with `places`, its machine code can be found line by line."""
    import tvm
    from tvm.target import codegen

    cpu = named_cpu() or codegen.llvm_get_system_cpu()
    target = tvm.target.Target(COMPILED_FOR | {"mcpu": cpu})
    try:
        return tvm.compile(_read(text, places), target=target)
    except Exception as error:
        raise BuildFailed(names=", ".join(names), problem=str(error)) from error


def _read(text: str, places: bool) -> Any:
    """Return the IRModule of TVMScript."""
    import tvm

    from .tvm.macros import macros
    from .tvm.read import read_module

    with suppress(Exception):  # TVM's parser takes more, and tells the line of what is wrong
        return read_module(text, places)
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
