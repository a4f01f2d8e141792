"""Probes of this CPU's ceilings: reads, copies, FMA chains, matrix products, kernel launches.

Each probe runs a known amount of work once and returns seconds; `cost_model.calibrate` turns them
into a hardware description. Reads have several candidates, of which the fastest counts: on Zen 4
torch's row sums and maxima reach what a hand-written AVX-512 loop reads.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...ir.core import Operation
from ...ir.parser import parse_module
from ...ir.schedule import Schedule
from ...ir.types import DTYPE_NAMES
from ..threads import available_cores

STREAM_BYTES = 256 << 20
"""The least size of the buffer that stands for main memory."""

BEYOND = 4
"""How many times the last cache's size that buffer has at least: servers have 300 MiB of cache."""

FMA_CHAINS, FMA_ROUNDS = 12, 500_000
"""Vectors that are multiplied and added to in turn: each of two units has a result some four cycles
later, and sixteen registers hold them all."""

PRODUCT = 1024
"""Rows and columns of the products: past start-up costs, and within a millisecond's."""

LAUNCHES = 2000
PAIRS, CALLS = 2, 200
"""Pairs of threads that share the interpreter, and what each thread does how often."""


@dataclass(frozen=True)
class Measure:
    """A probe, and the work that one run of it does: bytes, FLOPs, or launches."""

    probe: Callable[[], float]
    amount: float


@dataclass(frozen=True)
class MemoryProbes:
    """Reads and copies of a buffer that fits one memory; a copy's bytes are read plus written."""

    name: str
    capacity: float
    read: Sequence[Measure]
    copy: Sequence[Measure]
    shared: Measure | None = None
    by_threads: dict[int, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class LinkProbes:
    """Copies from one level to another, as `cost_model.calibrate` takes them."""

    source: str
    target: str
    bandwidth: Sequence[Measure]
    pageable: Measure | None = None
    together: Measure | None = None
    latency: Measure | None = None


@dataclass(frozen=True)
class CpuProbes:
    """Everything measured of one CPU."""

    threads: int
    memories: Sequence[MemoryProbes]
    matmul: dict[str, list[Measure]]
    vector: dict[str, list[Measure]]
    launch: dict[str, Measure]
    name: str = "cpu"
    kind: str = "cpu"
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    vector_by_threads: dict[str, dict[int, Measure]] = field(default_factory=dict)


def cpu_probes(threads: int = 0, cache: Path | None = None) -> CpuProbes:
    """Return the probes for `threads` threads (0: every core); compiles three small kernels."""
    import torch

    chosen = threads or available_cores()
    torch.set_num_threads(chosen)
    kernels = probe_kernels(chosen, cache)
    return CpuProbes(
        threads=chosen,
        memories=_memories(chosen),
        matmul={dtype: _matmul(dtype, PRODUCT) for dtype in ("f32", "bf16")},
        vector={"f32": [_fma(kernels["fma"], chosen)]},
        launch={
            "serial": _launches(kernels["empty_serial"], 1),
            "parallel": _launches(kernels["empty_parallel"], chosen),
            "task": _hand_overs(),
            "call": _calls(),
        },
        versions={name: version(name) for name in ("torch", "apache-tvm")},
        device=" ".join([cpu_name(), *vector_units()]),
    )


def vector_units() -> list[str]:
    """Return which of the units that matrix products use this CPU has, as Linux names them."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return [unit for unit in wanted if unit in flags]


def cpu_name() -> str:
    """Return the processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def cache_sizes() -> dict[str, int]:
    """Return the bytes of the data caches that one core sees, by name (L1, L2, L3), on Linux."""
    found: dict[str, int] = {}
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, size = (entry / "type").read_text().strip(), (entry / "size").read_text().strip()
        if kind != "Instruction" and size.endswith("K"):
            found["L" + (entry / "level").read_text().strip()] = int(size[:-1]) << 10
    return found


def _sizes(threads: int) -> list[tuple[str, int, float]]:
    """Return name, bytes to measure with, and bytes that fit, of each memory, fastest first.

    A cache is measured half full; a core's own caches count once a thread. A shared L3 of a
    virtual machine has other tenants, so only half of it is taken to be there.
    """
    caches = cache_sizes()
    sizes: list[tuple[str, int, float]] = []
    if "L2" in caches:
        sizes.append(("L2", caches["L2"] * threads // 2, caches["L2"] * threads * 0.75))
    if "L3" in caches:
        sizes.append(("L3", caches["L3"] // 4, caches["L3"] * 0.5))
    return [*sizes, ("memory", beyond_caches(), float(_main_memory()))]


def _main_memory() -> int:
    import os

    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 8 << 30


def _memories(threads: int) -> list[MemoryProbes]:
    """Return the probes of each memory; main memory's also for fewer threads."""
    probes = [_memory(name, size, capacity) for name, size, capacity in _sizes(threads)]
    main = probes[-1]
    by_threads = {
        count: _with_threads(main.read[0], count, threads) for count in thread_counts(threads)
    }
    return [*probes[:-1], replace(main, by_threads=by_threads)]


def thread_counts(threads: int) -> list[int]:
    """Return the numbers of threads that are measured: powers of two, and all."""
    return sorted({min(threads, 1 << power) for power in range(threads.bit_length() + 1)})


def beyond_caches() -> int:
    """Return bytes that no cache holds."""
    return max(STREAM_BYTES, BEYOND * cache_sizes().get("L3", 0))


def _with_threads(measure: Measure, count: int, usual: int) -> Measure:
    import torch

    def probe() -> float:
        torch.set_num_threads(count)
        try:
            return measure.probe()
        finally:
            torch.set_num_threads(usual)

    return Measure(probe, measure.amount)


def _memory(name: str, size: int, capacity: float) -> MemoryProbes:
    import torch

    rows = torch.randn(size // 4 // 4096 or 1, 4096)
    half = rows.numel() // 2
    source, target = rows.view(-1)[:half], rows.view(-1)[half : 2 * half]
    repeats = max(1, (64 << 20) // size)
    bytes_read, bytes_copied = rows.numel() * 4 * repeats, half * 8 * repeats
    reads: list[Callable[[], Any]] = [rows.amax, rows.sum, lambda: rows.sum(1)]
    copies: list[Callable[[], Any]] = [lambda: target.copy_(source)]
    return MemoryProbes(
        name,
        capacity,
        [Measure(_repeated(read, repeats), bytes_read) for read in reads],
        [Measure(_repeated(copy, repeats), bytes_copied) for copy in copies],
    )


def _matmul(dtype: str, size: int) -> list[Measure]:
    """Square products in torch."""
    import torch

    kind = getattr(torch, DTYPE_NAMES[dtype])
    a, b = (torch.randn(size, size).to(kind) for _ in "ab")
    out = torch.empty(size, size, dtype=kind)
    return [Measure(_repeated(lambda: torch.mm(a, b, out=out), 4), 4 * 2.0 * size**3)]


def fma_lanes() -> int:
    """Return the lanes of the chains together: of 16 a vector with AVX-512, of 8 else."""
    from ..tvm.registers import vector_registers

    return FMA_CHAINS * (16 if vector_registers(16) > FMA_CHAINS else 8)


def _fma(kernel: Any, threads: int) -> Measure:
    """Chains of FMAs in registers, a program a thread."""
    import torch

    out = torch.empty(threads, fma_lanes())
    flops = 2.0 * fma_lanes() * FMA_ROUNDS * threads
    return Measure(_repeated(lambda: kernel.launch(threads, FMA_ROUNDS, out), 1), flops)


def _launches(kernel: Any, programs: int) -> Measure:
    import torch

    out = torch.empty(programs)
    return Measure(_repeated(lambda: kernel.launch(programs, out), LAUNCHES), LAUNCHES)


def _hand_overs() -> Measure:
    """Threads that wake each other in turn: how a task of a pipeline begins after another."""
    return Measure(_at_once(PAIRS, lambda mine, other: [_turn(mine, other) for _ in range(CALLS)]),
                   2 * CALLS)  # fmt: skip


def _turn(mine: threading.Event, other: threading.Event) -> None:
    mine.wait()
    mine.clear()
    other.set()


def _calls() -> Measure:
    """Calls of a library on next to nothing, from as many threads as a pipeline has queues: they
    share one interpreter."""
    import torch

    x, y = torch.zeros(8), torch.zeros(8)

    def call(mine: threading.Event, other: threading.Event) -> None:
        for _ in range(CALLS):
            torch.add(x[:4], y[:4])

    return Measure(_at_once(PAIRS, call), CALLS)


def _at_once(pairs: int, work: Callable[[threading.Event, threading.Event], Any]
             ) -> Callable[[], float]:  # fmt: skip
    """Return a probe of pairs of threads that do the same work, each pair with two events."""

    def probe() -> float:
        threads = []
        for _ in range(pairs):
            one, two = threading.Event(), threading.Event()
            one.set()
            threads += [
                threading.Thread(target=work, args=each) for each in ((one, two), (two, one))
            ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    return probe


def _repeated(run: Callable[[], Any], times: int) -> Callable[[], float]:
    def probe() -> float:
        run()  # warm: caches hold what they can, threads are awake
        start = time.perf_counter()
        for _ in range(times):
            run()
        return time.perf_counter() - start

    return probe


def probe_kernels(threads: int, cache: Path | None = None) -> dict[str, Any]:
    """Compile the kernels of the probes, or load them: empty ones, and chains of FMAs."""
    from ..build import compile_kernels
    from ..threads import configure_threads

    configure_threads(threads)
    serial, parallel = Schedule(parallel=False), Schedule(parallel=True)
    return compile_kernels(
        [
            (_kernel(_EMPTY.replace("NAME", "empty_serial")), serial),
            (_kernel(_EMPTY.replace("NAME", "empty_parallel")), parallel),
            (_kernel(_FMA.replace("LANES", str(fma_lanes()))), parallel),
        ],
        cache=cache,
    )


def _kernel(text: str) -> Operation:
    return parse_module(text).operations[0]


_EMPTY = """
tile.kernel name = @NAME, grid = ["G"], requires = ["G >= 1"], writes = ["out"] {
|%G: index, %out: buffer<f32, [G]>|
  %pid = tile.program_id axis = 0 : index
  %zero = tile.full value = 0.0 : f32
  tile.store %out, %pid, %zero
  tile.return
}
"""

_FMA = """
tile.kernel name = @fma, grid = ["G"], requires = ["G >= 1"], writes = ["out"] {
|%G: index, %R: index, %out: buffer<f32, [G, LANES]>|
  %pid = tile.program_id axis = 0 : index
  %lane = tile.iota : tile<i32, [LANES]>
  %start = tile.map %lane, expr = "f32(a)" : tile<f32, [LANES]>
  %zero = tile.full value = 0 : index
  %end = tile.for %zero, %R, %start, step = 1 {
  |%i: index, %x: tile<f32, [LANES]>|
    %y = tile.map %x, expr = "a * 0.999 + 0.5" : tile<f32, [LANES]>
    tile.yield %y
  } : tile<f32, [LANES]>
  tile.store %out, %pid, %lane, %end
  tile.return
}
"""
