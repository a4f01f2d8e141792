"""The CPU kernels' thread pool: how many threads, and how they wait."""

from __future__ import annotations

import os

SPIN_COUNT = 20_000
"""Rounds that a waiting worker spins: enough to stay awake from launch to launch of one step."""


def available_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure_threads(threads: int = 0, spin: int = SPIN_COUNT) -> int:
    """Set the pool's size (0: every core); must run before the first parallel kernel does.

    Threads are never bound to cores: binding would pin the caller too. With `spin = 0` workers
    sleep at once, which is what a process wants that keeps another pool busy as well.
    """
    chosen = threads or available_cores()
    os.environ["TVM_NUM_THREADS"] = str(chosen)
    os.environ["TVM_BIND_THREADS"] = "0"
    os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = str(spin)
    return chosen


def share_cores(threads: int) -> None:
    """Give the kernels' pool and the library's (torch) as many threads each; see above."""
    import torch

    torch.set_num_threads(configure_threads(threads))


def ensure_threads() -> None:
    """Configure the pool with defaults if nobody has."""
    if "TVM_NUM_THREADS" not in os.environ:
        configure_threads()
