"""Compiles a model's Triton kernels side by side, before anything is launched.

At its first launch each would be compiled while a program waits for it, one after another, and
those that only some steps need in the middle of a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...ir.core import Operation, Term
from ...ir.schedule import Schedule
from ...ir.types import DTYPE_NAMES, dtype_of
from ..cache import KernelCache
from .source import launch_options

MOST_WORKERS = 16

_HELD = {"u32": "i32"}
"""Elements that lie in tensors of another dtype."""


def precompile(kernels: Sequence[tuple[Any, Operation, Schedule]]) -> None:
    """Compile kernels for the current GPU, if there is one, and load them: Triton's functions, what
    they are emitted from, and their schedules. What Triton's cache has is taken from there. A
    Triton that cannot compile several kernels at a time compiles each at its first launch.
    """
    import torch

    if not torch.cuda.is_available():
        return
    try:
        from triton import knobs
        from triton.runtime._async_compile import AsyncCompileMode
    except ImportError:
        return
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    compiled = []
    with ThreadPoolExecutor(workers) as pool, alone(Path(knobs.cache.dir)):
        with AsyncCompileMode(pool):
            for function, kernel, schedule in kernels:
                arguments = stand_ins(function, kernel)
                launched = launch_options(schedule)
                compiled.append(function.warmup(*arguments, grid=(1,), **launched))
        load(compiled, pool, torch.cuda.current_device())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process compile into Triton's cache, a folder, as ranks would at once, for as
    long as a lock is waited for.

    To Triton 3.6 a launcher is a module `__triton_launcher` that each process puts where it
    belongs, and then imports. Python knows imported files by their inodes: of one that another
    process replaces between its being opened and loaded, the inode is free, and the next
    launcher that gets it is taken for that one ("function takes exactly 17 arguments (40
    given)"). Whoever waits finds all compiled.
    """
    with ExitStack() as held:
        with suppress(OSError):  # a folder that takes no lock takes no launchers
            held.enter_context(KernelCache(folder).locked(["launchers"]))
        yield


def load(compiled: Sequence[Any], pool: ThreadPoolExecutor, device: int) -> None:
    """Load compiled kernels onto a device, side by side, but for those whose launchers are the
    same: they have the same types of arguments and, to Triton 3.6, one file, which is written once.
    """
    alike: dict[tuple[str, ...], list[Any]] = {}
    for kernel in compiled:
        kernel = kernel.result() if hasattr(kernel, "future") else kernel
        signature = getattr(getattr(kernel, "src", None), "signature", {})
        alike.setdefault(tuple(map(str, signature.values())), []).append(kernel)
    list(pool.map(_load, alike.values(), [device] * len(alike)))


def _load(kernels: Sequence[Any], device: int) -> None:
    """Load kernels one after another; a launcher is a C file that is compiled, too."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    for kernel in kernels:
        if hasattr(kernel, "_init_handles"):
            kernel._init_handles()


def stand_ins(function: Any, kernel: Operation) -> list[Any]:
    """Return what Triton takes for the arguments of one of its functions."""
    found = [stand_in(value.type) for value in kernel.regions[0].arguments]
    described = getattr(function, "__globals__", {}).get("described")
    return found if described is None else list(described(*found))


def stand_in(type: Term) -> Any:
    """Return what Triton takes for an argument of a type: a dtype for an aligned buffer, any number
    for a scalar."""
    import torch

    if type.name != "buffer":
        return 2
    dtype = dtype_of(type)
    return getattr(torch, DTYPE_NAMES[_HELD.get(dtype, dtype)])
