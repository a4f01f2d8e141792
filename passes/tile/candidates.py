"""Schedules worth trying for a kernel, ranked by what a roofline with their limits says.

On a CPU one core has its share of the memory's rate and starts sooner. On a GPU the rate is that
of the bytes on their way (Little's law): resident programs, each with the stages of a tile of
loads, against what the memory needs under way to be busy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from ...cost_model.hardware import Level
from ...ir.core import Operation, Region, walk
from ...ir.dialects.tile import extents_of
from ...ir.schedule import Schedule
from ...ir.types import DTYPE_BYTES, dtype_of

LATENCY = 650e-9
"""Seconds until a load from a GPU's memory is there, and bytes must be under way."""

SHARED = 227 << 10
"""Bytes of shared memory of a multiprocessor of Hopper that programs may have."""

WARPS = 64
"""Warps that a multiprocessor holds."""


@dataclass(frozen=True)
class Demand:
    """What one launch of a kernel does: FLOPs, bytes, their dtype, and how many programs it has."""

    flops: float
    bytes: float
    programs: int
    dtype: str = "f32"
    dense: bool = False


@dataclass(frozen=True)
class Candidate:
    """A schedule, and the seconds of a launch that it is ranked by."""

    schedule: Schedule
    seconds: float


def ranked(kernel: Operation, base: Schedule, demand: Demand, level: Level) -> list[Candidate]:
    """Return schedules by predicted seconds, best first; of equals the one nearest to `base`."""
    price = _on_gpu if level.kind == "gpu" else _on_cpu
    options = _gpu_options(kernel, base) if level.kind == "gpu" else _cpu_options(kernel, base)
    found = [Candidate(option, price(kernel, option, demand, level)) for option in options]
    return sorted(found, key=lambda each: (each.seconds, _distance(each.schedule, base)))


def _distance(schedule: Schedule, base: Schedule) -> int:
    return sum(a != b for a, b in zip(vars(schedule).values(), vars(base).values(), strict=True))


def _cpu_options(kernel: Operation, base: Schedule) -> Iterable[Schedule]:
    """Yield one core or all, and for products how many sums and streams there are at a time."""
    unrolls, streams = {base.unroll}, {base.streams}
    if _has(kernel.regions[0], "tile.dot"):
        unrolls, streams = {base.unroll, 2, 8}, {base.streams, 0, 1, 4}
    for parallel in (True, False):
        for unroll in sorted(unrolls):
            for stream in sorted(streams):
                yield replace(base, parallel=parallel, unroll=unroll, streams=stream)


def _on_cpu(kernel: Operation, schedule: Schedule, demand: Demand, level: Level) -> float:
    threads = min(level.threads, demand.programs) if schedule.parallel else 1
    share = max(1, threads) / level.threads
    modes = level.launch
    start = modes.get("parallel" if schedule.parallel else "serial") or level.launch_cost()
    return max(_seconds(demand, level, share)) + start.median


def _gpu_options(kernel: Operation, base: Schedule) -> Iterable[Schedule]:
    """Yield for loops of products how many stages are under way; if warps are not specialised, how
    many there are, and where a kernel's registers are bounded, no bound."""
    piped = _streamed_bytes(kernel) > 0
    counts, bounds = {base.num_warps}, {base.registers}
    if not base.specialised:
        counts, bounds = counts | {2, 4, 8}, bounds | {0}
    for warps in sorted(counts):
        for stages in sorted({base.num_stages, 2, 3, 4}) if piped else (base.num_stages,):
            for registers in sorted(bounds, reverse=True):
                yield replace(base, num_warps=warps, num_stages=stages, registers=registers)


def _on_gpu(kernel: Operation, schedule: Schedule, demand: Demand, level: Level) -> float:
    tile = _streamed_bytes(kernel)
    shared = tile * schedule.num_stages
    fitting = SHARED // shared if shared else WARPS
    if fitting < 1:
        return float("inf")  # it does not fit, and would not compile
    resident = min(fitting, WARPS // schedule.num_warps)
    programs = min(resident, -(-demand.programs // max(1, level.threads)))
    each = tile * max(1, schedule.num_stages - 1) or 16 * 32 * schedule.num_warps
    needed = level.main.read.median * LATENCY / max(1, level.threads)
    memory, compute = _seconds(demand, level, 1.0)
    return max(memory / min(1.0, programs * each / needed), compute) + level.launch_cost().median


def _seconds(demand: Demand, level: Level, share: float) -> tuple[float, float]:
    """Return the memory's and the processor's seconds, with a share of each."""
    rate = (level.matmul_rate if demand.dense else level.vector_rate)(demand.dtype).median
    return (demand.bytes / (level.memory_for(demand.bytes).read.median * share),
            demand.flops / (rate * share))  # fmt: skip


def _streamed_bytes(kernel: Operation) -> int:
    """Return the bytes that a round of the innermost loop with a product loads, 0 without one."""
    loops = [op for op in walk(kernel.regions[0].operations) if op.name == "tile.for"]
    sizes = [
        sum(
            prod(int(extent) for extent in extents_of(op.result.type))
            * DTYPE_BYTES[dtype_of(op.operands[0].type)]
            for op in walk(loop.regions[0].operations) if op.name == "tile.load"
        )
        for loop in loops
        if _has(loop.regions[0], "tile.dot") and not _has(loop.regions[0], "tile.for")
    ]  # fmt: skip
    return max(sizes, default=0)


def _has(region: Region, name: str) -> bool:
    return any(operation.name == name for operation in walk(region.operations))
