"""Times of a policy's pipeline by simulation: fill, drain and waits, which no sum has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir.offload.pipeline import Kind, Pipeline, Task
from ...ir.offload.schedules import build_pipeline
from ..pipelines import pipeline_shape
from ..policy import Policy
from ..simulate import Cost, Timeline
from .demands import Scene, demand
from .machine import HostedGpu
from .popularity import Popularity
from .shape import MoeShape, Workload
from .starts import GATHERED, RESUMED, simulate_started
from .units import on_cpu, on_gpu

UNDER_WAY = float(3 * (32 << 20))
"""Bytes of pages that are under way where they have a queue of their own: what another copy up
waits for before it has the link."""

FEW, SEVERAL = 3, 6
"""Layers of the two runs whose difference gives the time of a layer."""

WHOLE = 256
"""Layers times micro-batches up to which a model whose layers differ is run as it is."""


@dataclass(frozen=True)
class SimulatedStep:
    """A decode step of all layers by simulation, and the timeline of those that were run."""

    seconds: float
    timeline: Timeline


def task_costs(
    tasks: Sequence[Task],
    policy: Policy,
    shape: MoeShape,
    workload: Workload,
    machine: HostedGpu,
    known: Popularity | None = None,
) -> dict[str, Cost]:
    """Return the cost of each task: seconds alone, and what it takes of what is shared."""
    sizes = policy.micro_batch_sizes()
    base = Scene(shape, policy.pages_per_expert, 0, workload.mean_context, policy.attention,
                 policy.kv_gpu, (), workload.beside, workload.prompt,
                 workload.prompt_context)  # fmt: skip
    made: dict[tuple[str, int, tuple[int, ...], tuple[float, ...]], Cost] = {}
    found = {}
    for task in tasks:
        tokens = sizes[task.micro_batch] if task.micro_batch >= 0 else 0
        pages = task.pages
        if task.kind == "cpu_experts":
            pages = policy.layers[task.layer % len(policy.layers)].cpu
        shares = known.shares[task.layer % len(policy.layers)] if known and pages else ()
        key = (task.kind.value, tokens, pages, shares)
        if key not in made:
            made[key] = _cost(*key, base, machine)
        found[task.name] = made[key]
    if any(task.queue == "pages" for task in tasks):
        for task in tasks:
            if task.queue == "up":
                cost = found[task.name]
                uses = {**cost.uses, "up": cost.uses.get("up", 0.0) + RESUMED * machine.up}
                seconds = cost.seconds + UNDER_WAY / machine.up + RESUMED
                found[task.name] = replace(cost, seconds=seconds, uses=uses)
    return found


def _cost(
    kind: str, tokens: int, pages: tuple[int, ...], shares: tuple[float, ...], base: Scene,
    machine: HostedGpu,
) -> Cost:  # fmt: skip
    asked = demand(kind, replace(base, tokens=tokens, shares=shares), pages)
    uses = {
        "gpu": on_gpu(asked).seconds(machine),
        "cpu": on_cpu(asked).seconds(machine),
        "up": asked.up,
        "down": asked.down,
        "link": asked.up + asked.down,
        "dram": asked.dram,
        "disk": asked.disk,
    }
    return Cost(asked.seconds(machine), {name: use for name, use in uses.items() if use})


def gather_cost(
    tokens: int, policy: Policy, shape: MoeShape, workload: Workload, machine: HostedGpu
) -> Cost:
    """Return the cost of bringing a micro-batch's pages of keys together in pinned memory.

    They lie scattered: the thread that starts the copy gathers them first, read and written, at
    `GATHERED` of a plain copy's rate.
    """
    scene = Scene(shape, policy.pages_per_expert, tokens, workload.mean_context, policy.attention,
                  policy.kv_gpu)  # fmt: skip
    moved = demand("kv_up", scene).up
    return Cost(moved / machine.staging / GATHERED, {"dram": 2.0 * moved})


def capacities(machine: HostedGpu) -> dict[str, float]:
    """Return what tasks share: processors, both ways of the link, host memory, the disk."""
    shared = {"gpu": 1.0, "cpu": 1.0, "up": machine.up, "down": machine.down,
              "dram": machine.dram_shared}  # fmt: skip
    bounds = {"link": machine.both_ways, "disk": machine.disk}
    return {**shared, **{name: bound for name, bound in bounds.items() if bound}}


def run(
    pipeline: Pipeline,
    policy: Policy,
    shape: MoeShape,
    workload: Workload,
    machine: HostedGpu,
    known: Popularity | None = None,
) -> Timeline:
    """Return the timeline of a pipeline that runs a policy."""
    sizes = policy.micro_batch_sizes()
    if policy.widest:
        machine = machine.beside_copies()
    shared = capacities(machine)
    if policy.micro_batches > 1 and any(layer.cpu for layer in policy.layers):
        machine, shared["cpu"] = machine.divided(), 2.0
    costs = task_costs(pipeline.tasks, policy, shape, workload, machine, known)
    gathered = {
        task.name: gather_cost(sizes[task.micro_batch], policy, shape, workload, machine)
        for task in pipeline.of_kind(Kind.KV_UP)
    }
    return simulate_started(
        pipeline,
        costs,
        shared,
        machine,
        gathered,
        [len(layer.cpu) for layer in policy.layers],
    )


def simulated_step(
    policy: Policy,
    shape: MoeShape,
    workload: Workload,
    machine: HostedGpu,
    *,
    staged: bool = False,
    known: Popularity | None = None,
) -> SimulatedStep:
    """Return the time of one decode step; where a model has many layers, and they are alike or have
    many micro-batches, it is extrapolated from a few."""
    layers = len(policy.layers)

    def line(kept: Sequence[int]) -> Timeline:
        some = replace(policy, layers=tuple(policy.layers[n] for n in kept))
        shares = known and Popularity(tuple(known.shares[n] for n in kept))
        pipeline = build_pipeline(policy.schedule, pipeline_shape(some, staged=staged))
        return run(pipeline, some, shape, workload, machine, shares)

    alike = len(set(policy.layers)) == 1
    if layers <= SEVERAL or (not alike and layers * policy.micro_batches <= WHOLE):
        few, several = max(1, layers // 2), layers
    else:
        few, several = FEW, SEVERAL
    first, last = (line(spread(layers, count)) for count in (few, several))
    between = policy.batch * (machine.sequence_start + machine.logit_read * shape.vocabulary)
    short, long = (_period(each, between) for each in (first, last))
    each = (long - short) / (several - few) if several > few else long
    return SimulatedStep(long + (layers - several) * each, last)


def _period(line: Timeline, between: float) -> float:
    """Return the seconds from a step to the next: its last logits are there, and looked at, and its
    last page is."""
    heads = [end for name, end in line.end.items() if name.startswith(Kind.HEAD.value)]
    return max(line.seconds, max(heads, default=0.0) + between)


def spread(layers: int, count: int) -> tuple[int, ...]:
    """Return so many layers, evenly from the first to the last: their mean is like that of all."""
    return tuple((2 * n + 1) * layers // (2 * count) for n in range(count))
