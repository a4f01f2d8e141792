"""What a policy should reach: seconds with intervals, the bound, and what would lift it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...ir.diagnostics import CapacityError, ModelError
from ..hardware import Hardware
from ..placement import Home
from ..policy import Policy
from ..roofline import Interval
from .grid import Grid
from .linear import Counts, LinearModel
from .machine import CASES, HostedGpu
from .memory import gpu_lines, host_lines
from .model import Site, linear_model
from .popularity import Popularity
from .search import Found, batch_of, counts_of, search
from .shape import MoeShape, Workload
from .timed import simulated_step

LIFT = 1.25
"""By how much a figure is raised to see what it would bring."""


class NoDiskFigures(ModelError):
    """A policy with pages on disk, priced for a hardware that describes none."""

    template = "pages come from a disk that {hardware} says nothing of"
    hint = "measure it with `weft calibrate`, or add a level and a link `disk` to the file"


@dataclass(frozen=True)
class Prediction:
    """A policy's times in s, best to worst over the hardware's error bars.

    `step` is by simulation of the pipeline, `roofs` the seconds that each resource needs at the
    least in a step, and `bound` the largest of them.
    """

    policy: Policy
    step: Interval
    prefill: Interval
    throughput: Interval
    roofs: dict[str, float]
    bound: str
    gpu: dict[str, float]
    host: dict[str, float]

    @property
    def bound_share(self) -> float:
        """The bound's seconds over those of the step: 1 where nothing waits but for the bound."""
        return self.roofs[self.bound] / self.step.expected


def predict(
    policy: Policy,
    shape: MoeShape,
    workload: Workload,
    hardware: Hardware,
    *,
    staged: bool = False,
    known: Popularity | None = None,
) -> Prediction:
    """Return what a policy should reach on a hardware, without a search; raises NoDiskFigures."""
    if policy.share(Home.DISK) and not HostedGpu.of(hardware).disk:
        raise NoDiskFigures(hardware=hardware.name)
    batch, counts = batch_of(policy), counts_of(policy, known)
    workload = replace(workload, overlap=policy.overlap)
    steps: list[float] = []
    prefills: list[float] = []
    models: list[LinearModel] = []
    for case in CASES:
        machine = HostedGpu.of(hardware, case)
        disk = float("inf") if machine.disk else 0.0
        memory = (machine.gpu_memory, machine.host_memory)
        site = Site(machine, *memory, disk, policy.schedule, staged, known)
        model = linear_model(shape, workload, batch, site)
        models.append(model)
        prefills.append(model.prefill_seconds(counts))
        step = simulated_step(policy, shape, workload, machine, staged=staged, known=known)
        steps.append(step.seconds)
    tokens = policy.batch * workload.new
    rates = [tokens / (p + workload.steps * s) for p, s in zip(prefills, steps, strict=True)]
    expected = models[1]
    return Prediction(
        policy, Interval(*steps), Interval(*prefills), Interval(*reversed(rates)),
        {row.name: row.value(counts) for row in expected.step if row.roof}, expected.bound(counts),
        _memory(gpu_lines(shape, workload, batch), "resident pages", "ring", shape, policy, counts),
        _memory(host_lines(shape, workload, batch), "pages", "", shape, policy, counts),
    )  # fmt: skip


def _memory(
    lines: dict[str, float], pages: str, ring: str, shape: MoeShape, policy: Policy, counts: Counts
) -> dict[str, float]:
    """Return the lines of a memory with the pages that it holds."""
    size_of = shape.gpu_page_bytes if ring else shape.page_bytes
    page = size_of(policy.pages_per_expert)
    homes = ("resident",) if ring else ("streamed", "cpu")
    held = page * sum(count for (home, _), count in counts.items() if home in homes)
    more = {pages: held} | ({ring: page * policy.ring} if ring else {})
    return {name: size for name, size in {**lines, **more}.items() if size}


@dataclass(frozen=True)
class Lift:
    """A figure raised by a quarter, and the throughput that the best policy then has over now."""

    what: str
    gain: float


def lifts(found: Found, shape: MoeShape, workload: Workload, grid: Grid) -> list[Lift]:
    """Return what each figure of the site would bring, the most first; without waits.

    The batch may change, its micro-batch and the place of attention stay.
    """
    batch, site = found.batch, found.site
    near = replace(
        grid, micro_batches=(batch.micro_batch,), attention=(batch.attention,),
        kv_gpu=(batch.kv_gpu,), pages_per_expert=batch.pages_per_expert,
        prefill_tokens=(batch.prefill_tokens, 2 * batch.prefill_tokens),
    )  # fmt: skip
    before = search(shape, workload, site, near)  # what was found may be better by simulation only
    now = before.seconds / before.batch.batch
    made = []
    for what, change in _CHANGES.items():
        if change(site) == site:
            continue  # there is none of it, such as a disk
        try:
            other = search(shape, workload, change(site), near)
        except CapacityError:
            continue
        made.append(Lift(what, now / (other.seconds / other.batch.batch)))
    return sorted(made, key=lambda lift: -lift.gain)


def _machine(*names: str) -> Callable[[Site], Site]:
    def change(site: Site) -> Site:
        figures = {name: getattr(site.machine, name) * LIFT for name in names}
        return replace(site, machine=replace(site.machine, **figures))

    return change


_CHANGES: dict[str, Callable[[Site], Site]] = {
    "GPU memory": lambda site: replace(site, gpu_memory=site.gpu_memory * LIFT),
    "host memory": lambda site: replace(site, host_memory=site.host_memory * LIFT),
    "link to the GPU": _machine("up", "down"),
    "host memory bandwidth": _machine("dram", "dram_shared"),
    "CPU arithmetic": _machine("cpu_flops", "cpu_vector", "cpu_vector_divided"),
    "GPU memory bandwidth": _machine("gpu_bandwidth"),
    "GPU arithmetic": _machine("gpu_flops"),
    "disk": _machine("disk"),
}
