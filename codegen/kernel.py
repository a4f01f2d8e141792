"""A compiled kernel: what the runtime launches, and what a person may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BuildStatistics:
    """How a kernel came to be: from the cache or compiled, and in how many seconds."""

    cached: bool
    seconds: float
    key: str
    kernels_in_library: int = 1


@dataclass(frozen=True)
class Kernel:
    """One kernel, ready to run.

    `launch(*arguments)` takes torch tensors and numbers in the order of the kernel's arguments;
    it is the loaded function itself, so that a launch costs as little as a call can.
    `source` is TVMScript or Triton text, `tile` the tile IR.
    """

    name: str
    launch: Callable[..., Any]
    source: str
    tile: str
    statistics: BuildStatistics
    target: str = "cpu"
    inspector: Callable[[str], str] | None = field(default=None, repr=False, compare=False)

    def inspect(self, what: str) -> str:
        """Return the kernel as `llvm` or `assembly` (CPU), `ptx` or `sass` (GPU)."""
        if self.inspector is None:
            raise ValueError(f"kernel {self.name} cannot be shown as {what}")
        return self.inspector(what)
