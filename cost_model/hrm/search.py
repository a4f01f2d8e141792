"""Finds the best policy: every batch of a grid, solved exactly unless a bound rules it out.

Best first: what has the least bound on its seconds a token is looked at more closely, from a
family of batches to its members, to a tighter bound, to the exact solution. The first exact
solution that comes up is the best of the whole grid; those that follow come in order, so that a
few can be compared by simulation, which sees waits that no sum of resources has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import count

from ..placement import Home
from ..policy import Policy
from .bounds import lower_bound, may_hold
from .grid import Grid
from .linear import RING, Counts, LinearModel
from .memory import Batch
from .milp import solve
from .model import Site, linear_model, memory_model, pricing
from .popularity import Popularity
from .shape import MoeShape, Workload
from .spread import colder, placements
from .timed import simulated_step
from .trouble import explain_misfit

FAMILY, MEMBER, BOUNDED, SOLVED = range(4)


@dataclass(frozen=True)
class Found:
    """The best batch and its counts of pages; `tried` batches, of which `solved` by the solver."""

    batch: Batch
    counts: Counts
    model: LinearModel
    site: Site
    tried: int
    solved: int

    @property
    def seconds(self) -> float:
        """The time of all prompts and all steps."""
        return self.model.seconds(self.counts)


def search(shape: MoeShape, workload: Workload, site: Site, grid: Grid = Grid()) -> Found:  # noqa: B008
    """Return the policy of most generated tokens a second; raises CapacityError where none fits."""
    found = next(solutions(shape, workload, site, grid), None)
    if found is None:
        raise explain_misfit(shape, workload, site, grid.slices(shape)[-1])
    return found


def solutions(
    shape: MoeShape,
    workload: Workload,
    site: Site,
    grid: Grid = Grid(),  # noqa: B008
) -> Iterator[Found]:
    """Yield the batches of a grid, each with its best counts, the fastest a token first."""
    for slices in grid.slices(shape):  # raises UnevenPages
        shape.page_bytes(slices)
    return _Search(shape, workload, site, grid).solutions()


SIMULATED = 6
"""Solutions whose pipelines are simulated at the most."""


def refined(
    shape: MoeShape,
    workload: Workload,
    site: Site,
    grid: Grid = Grid(),  # noqa: B008
) -> Found:
    """Return the fastest of the first few solutions by simulation of their pipelines.

    It ends early where what follows is slower without waits than the best is with them.
    """
    best: tuple[float, Found] | None = None
    for number, found in enumerate(solutions(shape, workload, site, grid)):
        tokens = found.batch.batch
        if best is not None and (number >= SIMULATED or found.seconds / tokens >= best[0]):
            break
        policy = policy_of(found, shape)
        step = simulated_step(
            policy, shape, workload, site.machine, staged=site.staged, known=site.popularity
        ).seconds
        prefill = found.model.prefill_seconds(found.counts)
        each = (prefill + found.model.steps * step) / tokens
        if best is None or each < best[0]:
            best = (each, found)
    if best is None:
        raise explain_misfit(shape, workload, site, grid.slices(shape)[-1])
    return best[1]


class _Search:
    """One search: a heap of (bound a token, larger batches first, order, stage, batch, counts)."""

    def __init__(self, shape: MoeShape, workload: Workload, site: Site, grid: Grid) -> None:
        self.shape, self.workload, self.site, self.grid = shape, workload, site, grid
        self.prices = pricing(shape, workload, site)
        self.order = count()
        self.tried = self.solved = 0

    def model(self, batch: Batch) -> LinearModel:
        site = site_of(self.site, batch)
        return linear_model(self.shape, self.workload, batch, site, self.prices)

    def solutions(self) -> Iterator[Found]:
        memory = self.site.host_memory + self.site.gpu_memory
        families = self.grid.families(self.shape, self.workload, memory)
        heap = [self._entry(FAMILY, family, self._family_bound(family)) for family in families]
        heapify(heap)
        while heap:
            bound, _, _, stage, batch, counts = heappop(heap)
            if bound == float("inf"):
                break
            if stage == SOLVED:
                site = site_of(self.site, batch)
                yield Found(batch, counts, self.model(batch), site, self.tried, self.solved)
                continue
            for entry in self._closer(stage, batch):
                heappush(heap, entry)

    def _closer(self, stage: int, batch: Batch) -> list[tuple]:
        """Return what a batch becomes when looked at more closely; nothing where it cannot be."""
        if stage == FAMILY:
            members = self.grid.members(batch, self.workload)
            self.tried += len(members)
            bounds = [lower_bound(self.model(member), ()) for member in members]
            return [self._entry(MEMBER, m, b) for m, b in zip(members, bounds, strict=True)]
        if stage == MEMBER:
            return [self._entry(BOUNDED, batch, lower_bound(self.model(batch)))]
        self.solved += 1
        answer = solve(self.model(batch))
        return [] if answer is None else [self._entry(SOLVED, batch, answer[1], answer[0])]

    def _family_bound(self, family: Batch) -> float:
        """The bound of a batch with the memory of the smallest prefill group, the time of the
        largest."""
        smallest, largest = self.grid.ends(family, self.workload)
        site = site_of(self.site, family)
        least = memory_model(self.shape, self.workload, smallest, site, self.prices.classes)
        if not may_hold(least):
            return float("inf")
        fast = linear_model(self.shape, self.workload, largest, site, self.prices, least)
        return lower_bound(fast, ())

    def _entry(
        self, stage: int, batch: Batch, seconds: float, counts: Counts | None = None
    ) -> tuple:
        each = seconds / (batch.batch * self.workload.new)
        return (each, -batch.batch, next(self.order), stage, batch, counts)


def site_of(site: Site, batch: Batch) -> Site:
    """Return the site with the schedule that a batch needs: s4 where the GPU has attention."""
    return replace(site, schedule="s4") if batch.attention == "gpu" else site


def policy_of(found: Found, shape: MoeShape) -> Policy:
    """Return the policy record of what was found."""
    batch, site, known = found.batch, found.site, found.site.popularity
    members = [each for each, _ in known.classes] if known else [shape.experts]
    experts_of = known.experts_of if known else ()
    counts = colder(found.counts, [share for _, share in known.classes]) if known else found.counts
    layers = placements(counts, shape.layers, batch.pages_per_expert, members, experts_of)
    widest = max(len(layer.ringed) for layer in layers)
    least = widest if site.schedule == "ring" else 2 * widest
    slots = max(found.counts.get(RING, 0), least) if widest else 1  # a pool is never empty
    return Policy(
        batch=batch.batch, micro_batch=batch.micro_batch, attention=batch.attention,
        layers=layers, experts=shape.experts, pages_per_expert=batch.pages_per_expert, ring=slots,
        lead=min(batch.lead, batch.micro_batches), kv_gpu=batch.kv_gpu, schedule=site.schedule,
        page_format=shape.page_format, prefill_tokens=batch.prefill_tokens, overlap=batch.overlap,
    )  # fmt: skip


def batch_of(policy: Policy) -> Batch:
    """Return the batch of a policy: what its model is built for."""
    return Batch(
        policy.batch, policy.micro_batch, policy.attention, policy.prefill_tokens,
        policy.pages_per_expert, policy.lead, policy.kv_gpu, policy.share(Home.CPU) > 0,
        policy.overlap,
    )  # fmt: skip


def counts_of(policy: Policy, known: Popularity | None = None) -> dict[tuple[str, int], int]:
    """Return a policy's counts of pages, by home and class of experts, and of slots."""
    members = [each for each, _ in known.classes] if known else [policy.experts]
    class_of_rank = [number for number, each in enumerate(members) for _ in range(each)]
    total = {(home.name.lower(), n): 0 for home in Home for n in range(len(members))}
    for number, layer in enumerate(policy.layers):
        order = known.experts_of[number] if known else range(policy.experts)
        for rank, expert in enumerate(order):
            for page in policy.pages_of(expert):
                total[layer.home(page).name.lower(), class_of_rank[rank]] += 1
    return {**total, RING: policy.ring}
