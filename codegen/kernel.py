"""A compiled kernel: what the runtime launches, and what a person may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..ir.display.view import Facts, Listing, Shown, View


@dataclass(frozen=True)
class BuildStatistics:
    """How a kernel came to be: from the cache or compiled, and in how many seconds."""

    cached: bool
    seconds: float
    key: str
    kernels_in_library: int = 1


@dataclass(frozen=True)
class Kernel(Shown):
    """One kernel, ready to run.

    `launch(*arguments)` takes torch tensors and numbers in the order of the kernel's arguments;
    it is the loaded function itself, so that a launch costs as little as a call can.
    `tile` is the tile IR, `emitter` gives the TVMScript or Triton text when it is asked for.
    """

    name: str
    launch: Callable[..., Any]
    emitter: Callable[[], str] = field(repr=False, compare=False)
    tile: str
    statistics: BuildStatistics
    target: str = "cpu"
    inspector: Callable[[str], str] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def source(self) -> str:
        """The generated text."""
        return self.emitter()

    def inspect(self, what: str) -> str:
        """Return the kernel as `llvm` or `assembly` (CPU), `ptx` or `sass` (GPU)."""
        if self.inspector is None:
            raise ValueError(f"kernel {self.name} cannot be shown as {what}")
        return self.inspector(what)

    def view(self) -> View:
        """Return how it was built, its tile IR, and the text that was emitted from that."""
        built = self.statistics
        how = "from the cache" if built.cached else "compiled"
        facts = (("target", self.target), ("built", f"{how} in {1000 * built.seconds:.0f} ms, with "
                  f"{built.kernels_in_library} kernels"))  # fmt: skip
        source = Listing(self.source, "python", "emitted text", folded=True)
        return View(
            "kernel", self.name, (Facts(facts), Listing(self.tile, "ir", "tile IR"), source)
        )
