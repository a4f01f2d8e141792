"""The CPU's two pools of threads, the kernels' and the library's: how many, and how they wait.

A step's kernels run on TVM's pool, the library's products (torch's, of many rows) on OpenMP's. A
worker that waits spins before it sleeps; while those of one pool spin, the other's find no core.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping

from ..ir.diagnostics import Warning

SPIN_COUNT = 300
"""Rounds that a waiting worker of the kernels' pool spins: from launch to launch of one step."""

LIBRARY_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""How the library's workers wait: they sleep, with GNU's OpenMP after some 50 us of spinning.

GNU's usual wait is 300,000 rounds: milliseconds, in which the kernels' workers wait for a core.
"""

MOST_SPINS = 20_000
"""Rounds of the library's wait, about a millisecond, after which both pools may still share."""


def available_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def let_library_sleep() -> None:
    """Say how the library's workers wait, unless the user has; OpenMP reads it as it is loaded.

    Once torch is loaded it is too late, and nothing is said: see `library_yields`.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in LIBRARY_WAIT):
        os.environ.update(LIBRARY_WAIT)


def library_yields() -> bool:
    """Return whether the library's workers leave the cores to the kernels' soon enough.

    If not (torch was loaded before weft, or the user wants an active wait) the library's products
    are best done by the caller alone.
    """
    spins = os.environ.get("GOMP_SPINCOUNT", "")
    if spins:
        return spins.isdecimal() and int(spins) <= MOST_SPINS
    return os.environ.get("OMP_WAIT_POLICY", "").strip().upper() == "PASSIVE"


def without_library_wait(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `let_library_sleep` says: for another engine's process."""
    ours = all(environment.get(name) == value for name, value in LIBRARY_WAIT.items())
    return {k: v for k, v in environment.items() if not (ours and k in LIBRARY_WAIT)}


def configure_threads(threads: int = 0, spin: int | None = None) -> int:
    """Set the pool's size (0: every core); must run before the first parallel kernel does.

    Threads are never bound to cores: binding would pin the caller too. `spin` is SPIN_COUNT unless
    the user's environment says another; with 0 workers sleep at once.
    """
    chosen = threads or available_cores()
    os.environ["TVM_NUM_THREADS"] = str(chosen)
    os.environ["TVM_BIND_THREADS"] = "0"
    os.environ.setdefault("RAYON_NUM_THREADS", str(chosen))  # the tokenizer's pool
    if spin is None:
        os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(SPIN_COUNT))
    else:
        os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = str(spin)
    return chosen


def share_cores(threads: int) -> None:
    """Give the kernels' pool and the library's (torch) as many threads each; see above.

    Warns of more threads than cores: those that wait for a core hold up each launch.
    """
    import torch

    cores = available_cores()
    if threads > cores:
        message = f"{threads} threads share {cores} cores, and wait for one another"
        hint = f"--threads {cores} (WEFT_THREADS={cores}), or 0: every core"
        warnings.warn(str(Warning(message, hint=hint)), stacklevel=2)
    torch.set_num_threads(configure_threads(threads))


def ensure_threads() -> None:
    """Configure the pool with defaults if nobody has."""
    if "TVM_NUM_THREADS" not in os.environ:
        configure_threads()
