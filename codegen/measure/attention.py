"""Probes of attention on the CPU: its kernel over pages of keys that no cache holds.

The kernel is what an offloaded step runs beside the link. One row is one query; what a row reads
differs with its keys and with how many threads share the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.core import Operation
from ...ir.schedule import Schedule
from ...ir.types import DTYPE_NAMES, dtype_of, shape_of
from ..build import compile_kernels
from ..threads import configure_threads
from .cpu import Measure

if TYPE_CHECKING:
    from torch import Tensor

KEYS = 512
"""Keys that a row of the probes sees."""

REPEATED = 3
"""Launches of a run."""


class AttentionProbe:
    """Attention's kernel of a step, and the pages of keys and values that it reads.

    `kernel` is what `passes.tile.attention.paged.attention` returns, `size` the bytes of keys and
    values that a launch reads at least. All launches share one pool of pages.
    """

    def __init__(
        self, kernel: Operation, threads: int, size: int, cache: Path | None = None
    ) -> None:
        import torch

        configure_threads(threads)
        self._kernel = next(iter(compile_kernels([(kernel, Schedule())], cache=cache).values()))
        self.threads = threads
        buffers = {value.name: value.type for value in kernel.regions[0].arguments}
        _, kv_heads, self._page, head_dim = map(_fixed, shape_of(buffers["k"]))
        self._width = _fixed(shape_of(buffers["q"])[1])
        heads = self._width // head_dim
        self.flops = (4.0 * head_dim + 5.0) * heads
        """FLOPs of a key that one row sees: Q K, softmax and P V, as the cost model counts them."""
        kind = getattr(torch, DTYPE_NAMES[dtype_of(buffers["k"])])
        each = kv_heads * self._page * head_dim
        self._pages = max(size // (2 * each * kind.itemsize), 1)
        shape = (self._pages, kv_heads, self._page, head_dim)
        self._k, self._v = (torch.full(shape, 0.5, dtype=kind) for _ in "kv")

    def measure(self, keys: int = KEYS, threads: int = 0) -> Measure:
        """Return the probe of rows of so many keys, on so many threads (0: all); its amount is
        FLOPs. The rows are as many as the pool's pages have keys for."""
        launch, given, _ = self.launch(keys)
        rows = len(given[0])
        return Measure(self._timed(launch, threads or self.threads),
                       REPEATED * rows * keys * self.flops)  # fmt: skip

    def row_start(self) -> Measure:
        """Return the probe of rows that see no key; its amount is rows.

        What a row takes beside its keys: its query, its place in the step, its output.
        """
        launch, given, _ = self.launch(0)
        return Measure(self._timed(launch, self.threads), REPEATED * len(given[0]))

    def by_threads(self, counts: Iterable[int]) -> dict[int, Measure]:
        """Return the probes of rows of `KEYS` on each number of threads."""
        return {count: self.measure(threads=count) for count in counts}

    def launch(self, keys: int) -> tuple[Callable[[], Any], tuple[Tensor, ...], Tensor]:
        """Return a launch over rows of so many keys, its inputs (q, page table, starts, lengths),
        and the tensor that it writes. No two rows share a page where there are enough."""
        import torch

        each = max(-(-keys // self._page), 1)
        rows = max(self._pages // each, 1)
        places = torch.randperm(max(self._pages, each), generator=torch.Generator().manual_seed(0))
        table = (places[: rows * each] % self._pages).to(torch.int32).view(rows, each)
        q, out = torch.randn(rows, self._width), torch.empty(rows, self._width)
        starts = torch.arange(rows + 1, dtype=torch.int32)
        lengths = torch.full((rows,), keys, dtype=torch.int32)
        sizes = (rows, rows, rows + 1, self._pages, each)
        given = (q, table, starts, lengths)
        return lambda: self._kernel.launch(*sizes, *given, self._k, self._v, out), given, out

    def _timed(self, launch: Callable[[], Any], threads: int) -> Callable[[], float]:
        def probe() -> float:
            _use_threads(threads)
            try:
                launch()  # warm: threads are awake
                start = time.perf_counter()
                for _ in range(REPEATED):
                    launch()
                return time.perf_counter() - start
            finally:
                _use_threads(self.threads)

        return probe


def _use_threads(count: int) -> None:
    """Let the calling thread's pool of kernels have so many threads from here on."""
    import tvm_ffi

    unbound = 1  # the mode where nobody binds threads to cores
    configure = tvm_ffi.get_global_func("runtime.config_threadpool", allow_missing=True)
    if configure is not None:
        with suppress(RuntimeError):
            configure(unbound, count)


def _fixed(extent: Any) -> int:
    return extent if isinstance(extent, int) else 0
