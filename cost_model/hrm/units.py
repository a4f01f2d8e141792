"""What one micro-batch costs in a decode step: sums over its tasks in all layers, and per page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .demands import Demand, Scene, demand
from .machine import HostedGpu
from .memory import Batch
from .shape import MoeShape, Workload
from .starts import CALLS_PER_PAGE, GATHERED, start_seconds

BEFORE = {
    "cpu": ("pre", "qkv_down", "append", "attend", "seen_up"),
    "gpu": ("pre", "kv_up", "append", "attend", "kv_down"),
}
"""Tasks of a micro-batch in a layer before its experts, by the place of attention."""

AFTER = ("route", "combine")
"""Tasks around the experts."""

CPU_ROWS = ("routed_down", "rows_up")
"""Tasks around the experts of the CPU."""

ENDS = ("embed", "head")
"""Tasks of a micro-batch outside of layers."""


@dataclass(frozen=True)
class Unit:
    """One micro-batch's decode step, all layers, in seconds of each resource when alone.

    `starts` are the interpreter's, of all tasks, and `gpu_starts` those of the GPU's kernels;
    `gather` is what brings a layer's keys together for the GPU, until their place is free again.

    `dram` is bytes of host memory traffic, and `contention` the share of a second of copies that a
    second of the CPU's tasks takes from them (and the other way round). `chain` is the dependent
    tasks of all layers one after another, without pages; `cpu_rows` what sending rows to the CPU
    adds to it; `fill` what comes before the first experts and after the last. Per page of each
    class of experts: seconds on the GPU, seconds on the CPU, bytes of host memory, contention.
    """

    up: float
    down: float
    gpu: float
    cpu: float
    dram: float
    contention: float
    chain: float
    cpu_rows: float
    fill: float
    starts: float
    gpu_starts: float
    gather: float
    page_gpu: tuple[float, ...]
    page_cpu: tuple[float, ...]
    page_dram: tuple[float, ...]
    page_contention: tuple[float, ...]


@dataclass(frozen=True)
class Pricing:
    """Makes units, each once: they depend on a micro-batch's size, not on how many there are."""

    shape: MoeShape
    workload: Workload
    machine: HostedGpu
    classes: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_units", {})

    def unit(self, batch: Batch, tokens: int) -> Unit:
        """Return the unit of a micro-batch of so many tokens."""
        key = (tokens, batch.attention, batch.kv_gpu, batch.cpu_experts, batch.pages_per_expert,
               batch.side_by_side)  # fmt: skip
        units: dict[tuple[object, ...], Unit] = self.__dict__["_units"]
        if key not in units:
            shared = replace(self, machine=self.machine.divided()) if batch.side_by_side else self
            units[key] = shared._unit(batch, tokens)
        return units[key]

    def _unit(self, batch: Batch, tokens: int) -> Unit:
        scene = self._scene(batch, tokens)
        machine, layers = self._machine, self.shape.layers
        kinds = (*BEFORE[batch.attention], *AFTER, "experts")  # experts: their launches
        rows = CPU_ROWS if batch.cpu_experts else ()
        tasks = [demand(kind, scene) * layers for kind in (*kinds, *rows)]
        tasks += [demand(kind, scene) for kind in ENDS]
        first = ("embed", *BEFORE[batch.attention], *AFTER, "head")
        pages = [self._page(batch, tokens, share) for _, share in self.classes]
        work = sum(on_cpu(task).seconds(machine) for task in tasks)
        read = sum(task.cpu_bytes for task in tasks)
        mine = tuple(kind for kind in kinds if demand(kind, scene).cpu_starts)
        mine += ("cpu_experts",) if batch.cpu_experts else ()
        return Unit(
            up=_total(link_up(task) for task in tasks).seconds(machine),
            down=_total(link_down(task) for task in tasks).seconds(machine),
            gpu=sum(on_gpu(task).seconds(machine) for task in tasks),
            cpu=work + self._started(mine * layers),
            dram=sum(task.dram for task in tasks),
            contention=machine.contention(read / work) if work else 0.0,
            chain=layers * self._chain(kinds, scene),
            cpu_rows=layers * self._chain(rows, scene),
            fill=self._chain(first, scene),
            starts=self._started((*kinds, *rows) * layers + ENDS),
            gather=self._gather(scene) if batch.attention == "gpu" else 0.0,
            gpu_starts=self._started(tuple(k for k in kinds if demand(k, scene).launches) * layers),
            page_gpu=tuple(gpu for gpu, _, _ in pages),
            page_cpu=tuple(cpu for _, cpu, _ in pages),
            page_dram=tuple(dram for _, _, dram in pages),
            page_contention=tuple(
                machine.contention(dram / cpu) if cpu else 0.0 for _, cpu, dram in pages
            ),  # fmt: skip
        )

    def _gather(self, scene: Scene) -> float:
        around = self._started(("kv_up", "append", "attend", "kv_down"))
        return demand("kv_up", scene).up / self._machine.staging / GATHERED + around

    def _started(self, kinds: tuple[str, ...]) -> float:
        return sum(start_seconds(kind, self.machine) for kind in kinds)

    def _chain(self, kinds: tuple[str, ...], scene: Scene) -> float:
        """Seconds of dependent tasks one after another, each started when the one before is."""
        alone = sum(demand(kind, scene).seconds(self._machine) for kind in kinds)
        return alone + self._started(kinds)

    @property
    def _machine(self) -> HostedGpu:
        """The machine while pages are copied, as they are all the time where there are any."""
        return self.machine.beside_copies()

    def _page(self, batch: Batch, tokens: int, share: float) -> tuple[float, float, float]:
        """Seconds on either processor and host traffic of one page of an expert of this share."""
        scene = self._scene(batch, tokens, share)
        gpu, cpu = demand("experts", scene, (0,)), demand("cpu_experts", scene, (0,))
        alone = [without_starts(each).seconds(self._machine) for each in (gpu, cpu)]
        calls = CALLS_PER_PAGE * self.machine.call_start
        return alone[0], alone[1] + calls, cpu.dram

    def _scene(self, batch: Batch, tokens: int, share: float | None = None) -> Scene:
        shares = () if share is None else (share,) * self.shape.experts
        return Scene(
            self.shape, batch.pages_per_expert, tokens, self.workload.mean_context,
            batch.attention, batch.kv_gpu, shares, self.workload.beside, self.workload.prompt,
            self.workload.prompt_context,
        )  # fmt: skip


def on_gpu(task: Demand) -> Demand:
    """Return the part of a task that the GPU runs."""
    return Demand(gpu_flops=task.gpu_flops, gpu_bytes=task.gpu_bytes, launches=task.launches)


def on_cpu(task: Demand) -> Demand:
    """Return the part of a task that the host's processors run."""
    return Demand(
        cpu_flops=task.cpu_flops, cpu_vector=task.cpu_vector, cpu_bytes=task.cpu_bytes,
        cpu_starts=task.cpu_starts, cpu_rows=task.cpu_rows,
    )  # fmt: skip


def link_up(task: Demand) -> Demand:
    """Return the part of a task that the link to the GPU carries."""
    return Demand(up=task.up, copies=task.copies if task.up else 0.0)


def link_down(task: Demand) -> Demand:
    """Return the part of a task that the link from the GPU carries."""
    return Demand(down=task.down, copies=task.copies if task.down else 0.0)


def without_starts(task: Demand) -> Demand:
    """Return the arithmetic and traffic of a task, which grow with its pages."""
    return Demand(
        gpu_flops=task.gpu_flops, gpu_bytes=task.gpu_bytes, cpu_flops=task.cpu_flops,
        cpu_bytes=task.cpu_bytes,
    )  # fmt: skip


def _total(demands: Iterable[Demand]) -> Demand:
    total = Demand()
    for each in demands:
        total = total + each
    return total
