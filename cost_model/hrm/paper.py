"""The policy search of MoE-Lightning as it was published (ASPLOS 2025, equations 12 to 14).

Kept as the form to compare with: it reproduces what the authors' optimizer prints. What it leaves
out is what `hrm.predict` adds: P V, projections, hidden states, launches, fill and drain, prefill,
whole experts, and that copies and attention share the host's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from ..hardware import Hardware
from .shape import MoeShape, Workload

GIB = float(1 << 30)


@dataclass(frozen=True)
class PaperMachine:
    """The six figures of the paper's H (table 1), and which shares of memory may be used.

    `residual_on_gpu`: whether prefill keeps the residual stream of all sequences in GPU memory
    (as the published code does), or moves it out (a line that it has beside it).
    """

    gpu_memory: float
    host_memory: float
    link: float
    gpu_bandwidth: float
    host_bandwidth: float
    gpu_flops: float
    host_flops: float
    gpu_share: float = 0.86
    host_share: float = 0.8
    residual_on_gpu: bool = True

    @staticmethod
    def of(hardware: Hardware, dtype: str = "bf16") -> PaperMachine:
        """Return the six figures of a described machine, medians; memory as it is."""
        gpu, host, link = hardware.level("gpu"), hardware.level("cpu"), hardware.link("cpu", "gpu")
        return PaperMachine(
            gpu.main.capacity, host.main.capacity, link.bandwidth.median, gpu.main.read.median,
            host.main.read.median, gpu.matmul_rate(dtype).median, host.matmul_rate(dtype).median,
        )  # fmt: skip


L4 = PaperMachine(24 * GIB, 185 * GIB, 16 * GIB, 285 * GIB, 100 * GIB, 104e12, 1.6e12)
"""The published constants of an L4. The sample's host memory is not recorded: 185 GiB is fitted,
the one of 180 to 199 GiB that gives the published policy, so agreement says nothing about it."""


@dataclass(frozen=True)
class PaperPolicy:
    """A solution: N = micro_batch * micro_batches, r_w, T of eq. 12 in s a layer."""

    micro_batch: int
    micro_batches: int
    resident: float
    layer_s: float
    throughput: float
    bound: str

    @property
    def batch(self) -> int:
        """N."""
        return self.micro_batch * self.micro_batches


def solve(
    shape: MoeShape,
    workload: Workload,
    machine: PaperMachine,
    micro_batch: int,
    micro_batches: int,
) -> PaperPolicy | None:
    """Return the best r_w of one (micro_batch, n_ub), or None where memory does not suffice.

    The published LP minimises T / N over r_w alone (A_g = 0, F_g = 1). Only the link's time falls
    with r_w, so the least r_w that makes the link no longer the bound is optimal.
    """
    low, high = _resident_range(shape, workload, machine, micro_batch, micro_batches)
    if low > high:
        return None
    busy = max(layer_times(shape, workload, machine, micro_batch, micro_batches, 1.0).values())
    resident = min(high, max(low, 1.0 - busy * machine.link / _layer_bytes(shape)))
    times = layer_times(shape, workload, machine, micro_batch, micro_batches, resident)
    bound = max(times, key=lambda name: times[name])
    seconds, batch = times[bound], micro_batch * micro_batches
    steps = seconds * (workload.new - 1) * shape.layers
    throughput = batch * workload.new / steps if steps else float("inf")
    return PaperPolicy(micro_batch, micro_batches, resident, seconds, throughput, bound)


def layer_times(
    shape: MoeShape,
    workload: Workload,
    machine: PaperMachine,
    micro_batch: int,
    micro_batches: int,
    resident: float,
    attention: str = "cpu",
) -> dict[str, float]:
    """Return the terms of eq. 12 for one layer in s: T is the largest of them."""
    gpu = _gpu_s(shape, machine, micro_batch)
    link = _layer_bytes(shape) * (1.0 - resident)
    flops, moved = _attention(shape, workload, micro_batch)
    cpu = max(flops / machine.host_flops, moved / machine.host_bandwidth)
    if attention == "gpu":
        cpu = 0.0
        gpu += max(flops / machine.gpu_flops, moved / machine.gpu_bandwidth)
        keys = micro_batch * micro_batches * workload.mean_context
        link += 4.0 * keys * _kv_width(shape)
    return {"link": link / machine.link, "gpu": gpu * micro_batches, "cpu": cpu * micro_batches}


def micro_batch_grid() -> Iterator[int]:
    """Yield 1, 2, 3, 4, 36, 68, ...: the micro-batches that the published search tries."""
    yield from (1, 2, 3)
    yield from count(4, 32)


def search(
    shape: MoeShape,
    workload: Workload,
    machine: PaperMachine,
    micro_batches_of: Iterable[int] | None = None,
) -> PaperPolicy | None:
    """Return the policy of the published search: of equals the last one tried; None: none fits.

    For each micro-batch of the grid, n_ub grows while throughput does and memory lasts.
    """
    best: PaperPolicy | None = None
    for micro_batch in micro_batch_grid() if micro_batches_of is None else micro_batches_of:
        tried = _climb(shape, workload, machine, micro_batch)
        if tried is None:
            if micro_batches_of is None:
                break
            continue
        if best is None or tried.throughput >= best.throughput:
            best = tried
    return best


def _climb(
    shape: MoeShape, workload: Workload, machine: PaperMachine, micro_batch: int
) -> PaperPolicy | None:
    best: PaperPolicy | None = None
    for number in count(1):
        tried = solve(shape, workload, machine, micro_batch, number)
        if tried is None or (best is not None and tried.throughput < best.throughput):
            return best
        best = tried
    return best


def _layer_bytes(shape: MoeShape) -> float:
    """W_L = 2 3 h1 h2 n_e: two bytes an element always."""
    return 6.0 * shape.width * shape.ffn * shape.experts


def _kv_width(shape: MoeShape) -> float:
    """h_kv = h1 / g: supposes that heads times head width is the model's width."""
    return shape.width * shape.kv_heads / shape.heads


def _resident_range(
    shape: MoeShape, workload: Workload, machine: PaperMachine, micro_batch: int, number: int
) -> tuple[float, float]:
    """The least r_w that host memory allows, and the most that GPU memory does."""
    batch, prompt = micro_batch * number, workload.prompt
    width, layers, weights = shape.width, shape.layers, _layer_bytes(shape)
    dense = (4.0 * width**2 + 4.0 * width**2 * shape.kv_heads / shape.heads) * layers
    residual = 2.0 * width * batch if machine.residual_on_gpu else 4.0 * width * micro_batch
    prefill = (4.0 * width * micro_batch + residual) * prompt
    prefill += 8.0 * prompt * _kv_width(shape) * micro_batch
    working = 2.4 * micro_batch * shape.top_k * prompt * (width + 3.0 * shape.ffn)
    used = dense + max(4.0 * width * batch, prefill) + working
    free = machine.gpu_share * machine.gpu_memory - used
    if layers > 2:
        high = (free - 2 * weights) / weights / (layers - 2)
    else:
        high = 1.0 if free >= layers * weights else -1.0
    kv = 4.0 * (prompt + workload.new) * _kv_width(shape) * batch * layers
    room = machine.host_share * machine.host_memory - kv - 2.0 * width * batch * prompt
    low = 1.0 - room / (weights * (layers + 2))
    return max(0.0, low), min(1.0, high)


def _gpu_s(shape: MoeShape, machine: PaperMachine, micro_batch: int) -> float:
    """T_ffn^g of one micro-batch (eq. 14)."""
    flops = 6.0 * micro_batch * shape.width * shape.ffn * shape.top_k
    moved = 2.0 * micro_batch * (shape.width + shape.ffn) + _layer_bytes(shape)
    return max(flops / machine.gpu_flops, moved / machine.gpu_bandwidth)


def _attention(shape: MoeShape, workload: Workload, micro_batch: int) -> tuple[float, float]:
    """FLOPs and bytes of a micro-batch's attention, counting Q K but not P V, as published."""
    keys = micro_batch * workload.full_context
    flops = 2.0 * keys * (shape.width + shape.heads)
    return flops, 4.0 * (micro_batch * shape.width + keys * _kv_width(shape))
