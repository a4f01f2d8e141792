"""The figures of a host and its GPU that offloading is priced by, at one point of their error bars.

A `Hardware` holds every figure with its error bar; a `HostedGpu` picks the worst, the expected or
the best of each, so that a prediction made three times is an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from ..hardware import Hardware, NoSuchFigure, Rate

ATTENTION_CORES = 1 / 4
"""The share of the cores that attention has where the CPU computes experts beside it."""

ATTENTION = ("attention beside copies", "attention")
"""What attention is priced by, the first of these that was measured: pages are on the link while it
runs."""

CASES = ("max", "median", "min")
"""Best, expected and worst figures: `low`, `expected` and `high` seconds."""


@dataclass(frozen=True)
class HostedGpu:
    """A GPU with a host: rates in FLOP/s and bytes/s, capacities in bytes, costs in s.

    `dram` is what the host's processors read; `dram_shared` bounds what copies, attention and CPU
    experts move together; `cpu_vector` is the rate of attention's kernel (`ATTENTION`), and
    `cpu_vector_divided` that on `ATTENTION_CORES` of the cores (0: as large a share of it); a row
    of attention takes `row_start` beside its keys;
    `staging` is a copy from pageable to pinned memory (bytes copied a second); `up` and `down` are
    the link with one direction busy, `both_ways` the bytes of both when both are (0: as many as
    alone); `disk` is 0 without one. Python takes `task_start` to begin
    a task of a pipeline, and `call_start` for each kernel or copy that the task calls. Between two
    steps the host divides rows into micro-batches and looks for the largest logits: that takes
    `sequence_start` for each sequence and `logit_read` for each of its logits, while pages go on.
    """

    gpu_flops: float
    gpu_bandwidth: float
    gpu_launch: float
    gpu_memory: float
    cpu_flops: float
    cpu_vector: float
    cpu_start: float
    dram: float
    dram_shared: float
    host_memory: float
    staging: float
    up: float
    down: float
    copy_start: float
    disk: float
    task_start: float = 0.0
    call_start: float = 0.0
    sequence_start: float = 0.0
    logit_read: float = 0.0
    both_ways: float = 0.0
    cpu_vector_divided: float = 0.0
    row_start: float = 0.0

    def contention(self, rate: float) -> float:
        """Return by how much a second of copies up is drawn out by reads of so many bytes/s.

        Host memory gives to both in proportion: with f = B / (rate + up), a second of reads takes
        1 / f, in which copies lose 1 / f - 1; likewise the other way round. At most 1.
        """
        return min(1.0, max(0.0, (rate + self.up) / self.dram_shared - 1.0))

    def beside_copies(self) -> HostedGpu:
        """Return the machine while pages go up the link: copies take of host memory what they need,
        and the processors what that leaves."""
        left = max(self.dram_shared - self.up, self.dram / 8)
        return replace(self, dram=min(self.dram, left), staging=min(self.staging, left / 2))

    def divided(self) -> HostedGpu:
        """Return the machine where attention and the CPU's experts have cores of their own."""
        return replace(
            self, cpu_vector=self.cpu_vector_divided or self.cpu_vector * ATTENTION_CORES,
            cpu_flops=self.cpu_flops * (1 - ATTENTION_CORES),
            row_start=self.row_start / ATTENTION_CORES,
        )  # fmt: skip

    @staticmethod
    def of(
        hardware: Hardware,
        case: str = "median",
        *,
        gpu: str = "gpu",
        cpu: str = "cpu",
        dtype: str = "bf16",
        launch: str | None = None,
    ) -> HostedGpu:
        """Return a hardware's figures; raises NoSuchFigure where it has no GPU, host or link."""

        def pick(rate: Rate, cost: bool = False) -> float:
            swapped = {"min": "max", "max": "min"}.get(case, case) if cost else case
            return float(getattr(rate, swapped))

        def started(mode: str) -> float:
            return pick(host.launch_cost(mode), cost=True) if mode in host.launch else 0.0

        device, host = hardware.level(gpu), hardware.level(cpu)
        up, down = hardware.link(cpu, gpu), hardware.link(gpu, cpu)
        attention = next((name for name in ATTENTION if name in host.vector), "f32")
        by_threads = host.vector_by_threads.get("attention", {})
        beside = host.vector_rate(attention).median
        alone = host.vector.get("attention", host.vector_rate(attention)).median
        starts = host.launch_cost("parallel" if "parallel" in host.launch else None)
        return HostedGpu(
            gpu_flops=pick(device.matmul_rate(dtype)),
            gpu_bandwidth=pick(device.main.read),
            gpu_launch=pick(device.launch_cost(launch), cost=True),
            gpu_memory=device.main.capacity,
            cpu_flops=pick(host.matmul_rate(dtype)),
            cpu_vector=pick(host.vector_rate(attention)),
            cpu_start=pick(starts, cost=True),
            dram=pick(host.main.read),
            dram_shared=max(pick(host.main.shared or host.main.read), pick(host.main.read)),
            host_memory=host.main.capacity,
            staging=pick(host.main.copy) / 2,
            up=pick(up.bandwidth),
            down=pick(down.bandwidth),
            copy_start=pick(up.latency, cost=True) if up.latency else 0.0,
            disk=_disk(hardware, cpu, pick),
            task_start=started("task"),
            call_start=started("call"),
            sequence_start=started("sequence"),
            logit_read=started("logit"),
            row_start=started("attention row"),
            both_ways=pick(up.together) + pick(down.together)
            if up.together and down.together
            else 0.0,
            cpu_vector_divided=beside
            / alone
            * _on_threads(
                {count: pick(rate) for count, rate in by_threads.items()},
                host.threads * ATTENTION_CORES,
            ),
        )


def _on_threads(rates: Mapping[int, float], threads: float) -> float:
    """Return the rate on so many threads, on straight lines between those that were measured; 0
    where none was."""
    known = [(0, 0.0), *sorted(rates.items())]
    for (few, low), (many, high) in pairwise(known):
        if threads <= many:
            return low + (high - low) * (threads - few) / (many - few)
    return known[-1][1]


def _disk(hardware: Hardware, cpu: str, pick: Callable[[Rate], float]) -> float:
    """The bandwidth from the disk to the host; 0 where the hardware describes no disk."""
    try:
        return pick(hardware.link("disk", cpu).bandwidth)
    except NoSuchFigure:
        return 0.0
