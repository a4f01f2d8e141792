"""Which of the host's cores work for which queue, where several compute there at a time.

Attention and the experts of the CPU run side by side, each on a pool of threads of its own (two,
where a library computes the products). Pools that share cores wait for each other's time slices: of
32 cores, 24 threads took 11.4 ms for an expert beside 4 of another pool, and 7.5 ms on cores of
their own. So each queue has its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
import tvm_ffi

Cores = Mapping[str, tuple[int, ...]]
"""The cores of each queue; a queue that is not named runs on any, with all threads."""

WITHOUT_BINDING = 1
"""The mode of the kernels' pool that is given when nobody binds its threads (TVM_BIND_THREADS)."""

ATTENTION = 4
"""Attention has one core of so many: experts of the CPU move more bytes than it does."""


def divided(
    threads: int, experts: bool, micro_batches: int = 2, cores: Sequence[int] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the cores of attention and of experts: `threads` of them in all, each its share.

    Nothing is divided where attention computes alone, or never beside experts, as with a single
    micro-batch, or where there are not two cores.
    """
    free = sorted(os.sched_getaffinity(0)) if cores is None else list(cores)
    usable = free[: threads or len(free)]
    if not experts or micro_batches < 2 or len(usable) < 2:
        return {}
    mine = max(len(usable) // ATTENTION, 1)
    return {"cpu": tuple(usable[:mine]), "cpu_experts": tuple(usable[mine:])}


def keep_to(cores: Sequence[int]) -> None:
    """Let the calling thread, and the pools that it begins, have these cores and no more threads.

    Pools belong to the thread that first uses them, and their threads inherit its cores.
    """
    with suppress(OSError):  # a system that does not bind: a matter of speed alone
        os.sched_setaffinity(0, cores)
    torch.get_num_threads()  # a thread's first look at it takes over what others have set last
    torch.set_num_threads(len(cores))
    configure = tvm_ffi.get_global_func("runtime.config_threadpool", allow_missing=True)
    if configure is not None:
        configure(WITHOUT_BINDING, len(cores))
