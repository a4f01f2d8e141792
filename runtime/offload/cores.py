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

LAUNCHING = 8
"""The threads that launch and copy have one core of so many, where there are as many: beside 28
threads of experts on cores of their own a step of Mixtral's took 0.56 s, and 0.69 s beside 30 on
any."""

LAUNCHERS = ("gpu", "down", "up", "pages")
"""Queues whose threads compute nothing."""

SPINS = "TVM_THREAD_POOL_SPIN_COUNT"
"""How often a waiting thread of the kernels' pool looks again before it sleeps: TVM's own 300,000
are milliseconds, in which it keeps the next pool from the cores that both have."""


def divided(
    threads: int, experts: bool, micro_batches: int = 2, cores: Sequence[int] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the cores of the queues: at most `threads` compute.

    With a single micro-batch attention and experts take turns on all of them, else each has its
    share. Attention that computes alone has all, if those that launch and copy have some too; with
    few cores nothing is divided then, nor where there are not two.
    """
    free = sorted(os.sched_getaffinity(0)) if cores is None else list(cores)
    computing = free[: min(threads or len(free), len(free) - len(free) // LAUNCHING)]
    launching = tuple(free[len(free) - len(free) // LAUNCHING :])
    if len(computing) < 2 or not (experts or launching):
        return {}
    found: dict[str, tuple[int, ...]] = dict.fromkeys(LAUNCHERS, launching) if launching else {}
    if not experts:
        return found | {"cpu": tuple(computing)}
    mine = max(len(computing) // ATTENTION, 1) if micro_batches > 1 else 0
    found["cpu"] = tuple(computing[: mine or len(computing)])
    return found | {"cpu_experts": tuple(computing[mine:])}


def sleep_soon() -> None:
    """Let waiting threads of the kernels' pools sleep soon; before the first kernel runs."""
    os.environ.setdefault(SPINS, "1000")


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
