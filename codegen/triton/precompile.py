"""Compiles a model's Triton kernels side by side, before anything is launched.

At its first launch each would be compiled while a program waits for it, one after another, and
those that only some steps need in the middle of a run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...ir.core import Operation, Term
from ...ir.schedule import Schedule
from ...ir.types import DTYPE_NAMES, dtype_of
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
        from triton.runtime._async_compile import AsyncCompileMode
    except ImportError:
        return
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    compiled = []
    with ThreadPoolExecutor(workers) as pool:
        with AsyncCompileMode(pool):
            for function, kernel, schedule in kernels:
                arguments = stand_ins(function, kernel)
                launched = launch_options(schedule)
                compiled.append(function.warmup(*arguments, grid=(1,), **launched))
        list(pool.map(_load, compiled, [torch.cuda.current_device()] * len(compiled)))


def _load(kernel: Any, device: int) -> None:
    """Load a compiled kernel onto a device; its launcher is a C file that is compiled, too."""
    import torch

    torch.cuda.set_device(device)
    kernel = kernel.result() if hasattr(kernel, "future") else kernel
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
