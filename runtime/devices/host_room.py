"""Whether a model fits this machine's memory, asked before its weights are read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ...ir.display.units import sizes
from .device import GIB, ModelTooLarge

NARROWER = {"f32": ("bf16", 2), "bf16": ("int8", 2)}
"""The next narrower format, and how many times fewer bytes its weights have."""


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take, by the kernel and by its control group;
    None where neither says."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # "max" where there is no bound
        group = root / "sys/fs/cgroup"
        most, used = (int((group / f"memory.{n}").read_text()) for n in ("max", "current"))
        found.append(most - used + _cached(group))
    return min(found, default=None)


def _cached(group: Path) -> int:
    """Return the bytes of files that a control group counts as used, and drops when it must."""
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return sum(int(size) for name, size in lines if name in ("active_file", "inactive_file"))


def require_host_room(model: str, format: str, weights: int, kv: int, step: int = 0) -> None:
    """Raise ModelTooLarge unless weights, keys and values, and the buffers of a step, in bytes, fit
    what is free."""
    free, working = available_bytes(), kv + step
    if free is None or weights + working <= free:
        return
    hint = "a GPU with more memory runs it (--target cuda)"
    if step > weights + kv:
        hint = f"a step of so many tokens takes {step / GIB:.1f} GiB: lower max_tokens or max_batch"
    if format in NARROWER:
        narrower, times = NARROWER[format]
        if weights // times + working <= free:
            hint = f"it fits with --weights {narrower}"
    if (left := free - weights - step) > 0 and kv > weights:  # as asked for: the model would fit
        hint = f"lower kv_memory (--kv-memory): {left / GIB:.1f} GiB are left for keys and values"
    raise ModelTooLarge(
        **sizes(need=weights + working, weights=weights, working=working, free=free,
                over=weights + working - free),
        model=model, format=format, device="this machine", hint=hint,
    )  # fmt: skip
