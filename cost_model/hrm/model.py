"""Builds the linear model of a batch: rows of seconds from units, rows of bytes from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .linear import HOMES, RING, Limit, LinearModel, Row
from .machine import HostedGpu
from .memory import GPU_MARGIN, HOST_MARGIN, Batch, gpu_lines, host_lines
from .popularity import Popularity
from .prefill import prefill_rows
from .shape import MoeShape, Workload
from .starts import RESUMED, start_seconds
from .units import Pricing, Unit

ON_GPU = ("resident", "streamed", "disk")


@dataclass(frozen=True)
class Site:
    """Where a model is to run: the machine's figures, the memory that may be used, the schedule.

    Without `popularity` all experts are used alike. `staged`: pages pass through pinned memory.
    """

    machine: HostedGpu
    gpu_memory: float
    host_memory: float
    disk: float = 0.0
    schedule: str = "ring"
    staged: bool = False
    popularity: Popularity | None = None
    homes: tuple[str, ...] = HOMES


def pricing(shape: MoeShape, workload: Workload, site: Site) -> Pricing:
    """Return what prices the micro-batches of all batches on a site."""
    known = site.popularity
    classes = known.classes if known else ((shape.experts, 1.0 / shape.experts),)
    return Pricing(shape, workload, site.machine, classes)


def linear_model(
    shape: MoeShape, workload: Workload, batch: Batch, site: Site, prices: Pricing | None = None,
    memory: LinearModel | None = None,
) -> LinearModel:  # fmt: skip
    """Return the model of one batch on one site; `memory`: what its `memory_model` is taken to
    be."""
    prices = prices or pricing(shape, workload, site)
    units = [(prices.unit(batch, tokens), count) for tokens, count in batch.sizes.items()]
    rows = _Rows(shape, batch, site, units, len(prices.classes))
    return replace(
        memory or memory_model(shape, workload, batch, site, prices.classes),
        step=rows.step(),
        prefill=prefill_rows(shape, workload, batch, site.machine, len(prices.classes)),
        step_overhead=units[0][0].fill,
        prefill_overhead=0.0 if workload.overlap else shape.layer_bytes / site.machine.up,
    )


def memory_model(
    shape: MoeShape, workload: Workload, batch: Batch, site: Site,
    classes: Sequence[tuple[int, float]],
) -> LinearModel:  # fmt: skip
    """Return the model of one batch without its seconds: what memories hold."""
    pages = shape.layers * batch.pages_per_expert
    return LinearModel(
        step=(),
        prefill=(),
        limits=_limits(shape, workload, batch, site, len(classes)),
        totals=tuple(members * pages for members, _ in classes),
        layers=shape.layers,
        steps=workload.steps,
        allowed=_homes(batch, site),
    )


def _homes(batch: Batch, site: Site) -> tuple[str, ...]:
    left_out = set() if batch.cpu_experts else {"cpu"}
    if not (site.disk and site.machine.disk):
        left_out.add("disk")
    return tuple(home for home in site.homes if home not in left_out)


@dataclass(frozen=True)
class _Rows:
    """The rows of a decode step, from the units of its micro-batches."""

    shape: MoeShape
    batch: Batch
    site: Site
    units: list[tuple[Unit, int]]
    classes: int

    def step(self) -> tuple[Row, ...]:
        """Seconds of each resource in a decode step."""
        machine, page = self.site.machine, self._page
        copy = page / machine.up + machine.copy_start
        rows = [
            self._dram(),
            Row("link", self._sum("up"), self._ringed(copy)),
            *self._cpu(),
            Row("gpu", self._sum("gpu"), self._paged("page_gpu", ON_GPU)),
            Row("link down", self._sum("down")),
            Row("interpreter", self._sum("starts"), self._ringed(start_seconds("page", machine))),
            *self._chains(),
            self._drawn_out_link(copy),
            self._drawn_out_cpu(copy),
        ]
        if self.batch.attention == "gpu":
            rows.append(self._gathered(copy))
        if self.site.staged:
            rows.append(Row("staging", 0.0, self._ringed(page / machine.staging)))
        if machine.disk:
            rows.append(Row("disk", 0.0, self._each({"disk": page / machine.disk})))
        if self.site.schedule == "ring" and self.batch.micro_batches > 2:
            rows.append(self._refill(copy))
        return tuple(rows)

    @property
    def _page(self) -> float:
        return self.shape.page_bytes(self.batch.pages_per_expert)

    def _sum(self, name: str) -> float:
        return sum(getattr(unit, name) * count for unit, count in self.units)

    def _paged(self, name: str, homes: tuple[str, ...]) -> dict[tuple[str, int], float]:
        costs = [sum(getattr(u, name)[n] * count for u, count in self.units)
                 for n in range(self.classes)]  # fmt: skip
        return {(home, n): cost for n, cost in enumerate(costs) for home in homes}

    def _each(self, costs: Mapping[str, float]) -> dict[tuple[str, int], float]:
        return {(home, n): cost for n in range(self.classes) for home, cost in costs.items()}

    def _ringed(self, cost: float) -> dict[tuple[str, int], float]:
        return self._each({"streamed": cost, "disk": cost})

    def _cpu(self) -> list[Row]:
        """The host's processors: attention, and experts, side by side or in turn."""
        experts = self._paged("page_cpu", ("cpu",))
        if self.batch.side_by_side:
            return [Row("cpu", self._sum("cpu"), {}), Row("cpu experts", 0.0, experts)]
        return [Row("cpu", self._sum("cpu"), experts)]

    def _dram(self) -> Row:
        """All traffic of host memory: copies, staging, attention, CPU experts, the disk."""
        copied = self._page * (3.0 if self.site.staged else 1.0)
        each = self._each({"streamed": copied, "disk": 2.0 * self._page})
        each |= self._paged("page_dram", ("cpu",))
        row = Row("host memory", self._sum("dram"), each)
        return row.scaled(1.0 / self.site.machine.dram_shared)

    def _gathered(self, copy: float) -> Row:
        """Copies up, and the gathering of keys that they wait for.

        There are two places for keys on the GPU, so that behind a layer's pages those of two
        micro-batches come at once; each of the others is gathered when a place is free.
        """
        serial = self.shape.layers * max(self.batch.micro_batches - 2, 1)
        fixed = self._sum("up") + serial * self.units[0][0].gather
        return Row("link behind gathering", fixed, self._ringed(copy), roof=False)

    def _drawn_out_link(self, copy: float) -> Row:
        """Copies up, drawn out by what the CPU reads meanwhile."""
        drawn_out = self._sum("cpu") * self._contention
        pages = self._paged("page_cpu", ("cpu",))
        slow = {key: cost * self.units[0][0].page_contention[key[1]] for key, cost in pages.items()}
        fixed = self._sum("up") + drawn_out + self._paused
        each = {**self._ringed(copy), **slow}
        return Row("link beside the CPU", fixed, each, roof=False)

    def _drawn_out_cpu(self, copy: float) -> Row:
        """Attention and experts of the CPU, drawn out by copies that read host memory meanwhile."""
        unit = self.units[0][0]
        experts = unit.page_contention[0] if self.batch.cpu_experts else 0.0
        share = max(self._contention, experts)
        fixed = self._sum("cpu") + self._sum("up") * share
        pages = {} if self.batch.side_by_side else self._paged("page_cpu", ("cpu",))
        each = {**self._ringed(copy * share), **pages}
        return Row("cpu beside the link", fixed, each, roof=False)

    @property
    def _paused(self) -> float:
        """Seconds in which pages wait for small copies, where they have a queue of their own."""
        copies = self.shape.layers * (2 if self.batch.cpu_experts else 1)
        return RESUMED * copies * self.batch.micro_batches * (self.site.schedule == "ring")

    @property
    def _contention(self) -> float:
        return self.units[0][0].contention

    def _chains(self) -> list[Row]:
        """A micro-batch's layer begins when its layer before has ended, whatever overlaps."""
        unit = self.units[0][0]
        gpu = {(home, n): cost for n, cost in enumerate(unit.page_gpu) for home in ON_GPU}
        rows = [Row("latency", unit.chain, gpu)]
        if self.batch.cpu_experts:
            cpu = {("cpu", n): cost for n, cost in enumerate(unit.page_cpu)}
            rows.append(Row("latency of CPU experts", unit.chain + unit.cpu_rows, cpu))
        return rows

    def _refill(self, copy: float) -> Row:
        """A ring of R slots, w of them full: until a layer ends only R - w pages can come ahead.

        So a layer takes w - (R - w) copies, and its middle micro-batches, one after the other;
        the R - w copies within those draw them out.
        """
        middle = 1.0 - 2.0 / self.batch.micro_batches
        gpu = max(self._sum("gpu"), self._sum("gpu_starts"))
        cpu = self._sum("cpu")
        share = self._contention * cpu / max(gpu, cpu)
        each = {
            **self._ringed((2.0 - share) * copy),
            RING: (share - 1.0) * self.shape.layers * copy,
        }
        return Row("ring", max(gpu, cpu) * middle + self._paused, each, roof=False)


def _limits(
    shape: MoeShape, workload: Workload, batch: Batch, site: Site, classes: int
) -> tuple[Limit, ...]:
    """GPU memory, host memory, disk, and a ring that holds what a layer passes through it."""
    page = shape.page_bytes(batch.pages_per_expert)

    def each(cost: float, *homes: str) -> dict[tuple[str, int], float]:
        return {(home, n): cost for n in range(classes) for home in homes}

    def used(lines: Callable[..., dict[str, float]]) -> float:
        return sum(lines(shape, workload, batch).values())

    times = 1.0 if site.schedule == "ring" else 2.0
    spare = 2.0 * times  # a layer may pass a page more than the mean, and one comes ahead
    held = shape.gpu_page_bytes(batch.pages_per_expert)
    resident = {**each(held, "resident"), RING: held}
    slots = {**each(times / shape.layers, "streamed", "disk"), RING: -1.0}
    return (
        Limit(Row("GPU memory", used(gpu_lines), resident), site.gpu_memory * (1 - GPU_MARGIN)),
        Limit(Row("host memory", used(host_lines), each(page, "streamed", "cpu")),
              site.host_memory * (1 - HOST_MARGIN)),
        Limit(Row("disk", 0.0, each(page, "disk")), site.disk),
        Limit(Row("ring", 0.0, slots), -spare),
    )  # fmt: skip
