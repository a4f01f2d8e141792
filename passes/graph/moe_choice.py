"""Chooses how a model larger than the GPU is run: what the cost model says is fastest, and fits.

The search (`cost_model.hrm.search`) proposes micro-batches, the place of attention and a share of
experts for the CPU; each proposal is fitted to the memory that the executor really takes, and the
one with the least predicted time is kept. What a user has decided is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from ...cost_model.hardware import Hardware
from ...cost_model.hrm.grid import Grid
from ...cost_model.hrm.machine import HostedGpu
from ...cost_model.hrm.memory import GPU_MARGIN, HOST_MARGIN, Batch, gpu_lines, host_lines
from ...cost_model.hrm.model import Site
from ...cost_model.hrm.popularity import Popularity
from ...cost_model.hrm.prediction import NoDiskFigures, Prediction, predict
from ...cost_model.hrm.search import Found, refined
from ...cost_model.hrm.shape import MoeShape, Workload
from ...cost_model.placement import Home, Placement
from ...cost_model.policy import Policy
from ...ir.diagnostics import CapacityError
from ...ir.display.units import bytes_text
from ...ir.offload.page_formats import WIDE
from .moe_fit import Room, Wish, fit_policy, pages_on_gpu, wish_of, with_disk

Fit = Callable[[Wish], Policy]
"""Places pages in the memory that there is; raises CapacityError."""

WARMTH = (Home.RESIDENT, Home.STREAMED, Home.DISK, Home.CPU)
"""Where a policy has the pages that are used most, and so on: the coldest are the CPU's."""

USUAL = Wish(0, "cgo", 4, 0)
"""What is taken where neither the user nor a search has said anything. CGOPipe was ahead of the
ring, S2, S3 and S4 in every setting that was measured; the ring fits where CGOPipe does not."""


def usual(wish: Wish) -> Wish:
    """Return a wish with the usual decisions."""
    return replace(wish, schedule=USUAL.schedule, micro_batches=USUAL.micro_batches,
                   cpu_experts=USUAL.cpu_experts)  # fmt: skip


@dataclass(frozen=True)
class Open:
    """What a user has left open (empty, 0, -1), and decided otherwise."""

    schedule: str = ""
    micro_batches: int = 0
    cpu_experts: float = -1
    pages_per_expert: int = 1
    kv_gpu: float = -1.0

    @property
    def all_decided(self) -> bool:
        """Whether nothing is left to search."""
        counts = self.micro_batches and self.cpu_experts >= 0 and self.pages_per_expert
        return bool(self.schedule and counts) and (self.schedule != "s4" or self.kv_gpu >= 0)

    def over(self, wish: Wish) -> Wish:
        """Return a wish with what was decided in the place of what it says."""
        schedule = self.schedule or ("s4" if self.kv_gpu > 0 else wish.schedule)
        share = wish.kv_gpu if self.kv_gpu < 0 else self.kv_gpu
        return replace(
            wish, schedule=schedule, kv_gpu=share if schedule == "s4" else 0.0,
            micro_batches=self.micro_batches or wish.micro_batches,
            cpu_experts=wish.cpu_experts if self.cpu_experts < 0 else self.cpu_experts,
            pages_per_expert=self.pages_per_expert or wish.pages_per_expert,
        )  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """A policy, and what a person should know of how it came about."""

    policy: Policy
    remarks: tuple[str, ...] = ()
    prediction: Prediction | None = None


@dataclass(frozen=True)
class Scene:
    """What policies are priced for.

    `gpu_pages` are the bytes that the executor leaves for pages on the GPU, `host_pages` those
    beside the CPU (0: any); a pass of prefill has `max_tokens` rows.
    """

    shape: MoeShape
    workload: Workload
    machine: HostedGpu
    hardware: Hardware
    gpu_pages: float
    host_pages: float
    max_tokens: int
    popularity: Popularity | None = None

    def site(self, batch: int, schedule: str) -> Site:
        """Return the memory in which the search has as much room for pages as the executor."""
        usual = Batch(batch, -(-batch // USUAL.micro_batches), "cpu", self.max_tokens, 1)
        beside = sum(gpu_lines(self.shape, self.workload, usual).values())
        host = self.machine.host_memory
        if self.host_pages:
            lines = sum(host_lines(self.shape, self.workload, usual).values())
            host = (self.host_pages + lines) / (1 - HOST_MARGIN)
        gpu = (self.gpu_pages + beside) / (1 - GPU_MARGIN)
        return Site(self.machine, gpu, host, schedule=schedule, popularity=self.popularity)


def as_it_fits(policy: Policy, room_of: Callable[[Wish], Room]) -> Chosen:
    """Return a given policy; with fewer resident pages, and then more experts on the CPU, where the
    executor has less room on the GPU than it was made for, and with more of them on disk where host
    memory has less. Raises CapTooSmall and HostTooSmall."""
    room, remarks, fitted = room_of(wish_of(policy)), [], policy
    over = pages_on_gpu(policy) * room.page - room.left
    if over > 0:
        fitted = _with_less(policy, room_of)
        remarks.append(
            f"its pages take {bytes_text(over)} more than the GPU has beside "
            f"{bytes_text(room.working)} of activations and buffers: fewer lie there"
        )
    placed = tuple(with_disk(_kept_on_disk(fitted, policy), room_of(wish_of(fitted))))
    more = sum(len(layer.disk) for layer in placed) - sum(len(x.disk) for x in policy.layers)
    if more > 0:
        remarks.append(f"{more} pages more come from disk: host memory holds no more")
    fitted = replace(fitted, layers=placed, overlap=policy.overlap,
                     prefill_tokens=policy.prefill_tokens)  # fmt: skip
    return Chosen(fitted, (f"policy given{''.join(f', but {text}' for text in remarks)}",))


def _with_less(policy: Policy, room_of: Callable[[Wish], Room]) -> Policy:
    """Return the policy with fewer pages on the GPU: those that it has there, and away from the
    CPU, first."""
    wish, layers, experts = wish_of(policy), len(policy.layers), policy.experts
    order = [sorted(range(len(layer)), key=lambda page: WARMTH.index(layer.home(page)))
             for layer in policy.layers]  # fmt: skip
    try:
        return fit_policy(layers, experts, room_of(wish), wish, order)
    except CapacityError:
        if policy.page_format in WIDE:
            raise
        for more in range(int(wish.cpu_experts) + 1, experts + 1):
            wider = replace(wish, cpu_experts=more)
            with suppress(CapacityError):
                return fit_policy(layers, experts, room_of(wider), wider, order)
        raise


def _kept_on_disk(fitted: Policy, policy: Policy) -> list[Placement]:
    """Return the placements with the pages on disk that the given policy has there, unless they are
    elsewhere than in host memory now."""
    both = zip(fitted.layers, policy.layers, strict=True)
    disk = Home.DISK.value
    return [
        Placement("".join(disk if (now, asked) == (Home.STREAMED.value, disk) else now
                          for now, asked in zip(layer.homes, given.homes, strict=True)))
        for layer, given in both
    ]  # fmt: skip


def choose(wish: Wish, asked: Open, scene: Scene, fit: Fit) -> Chosen:
    """Return the fastest policy that fits, of the search's proposals and the usual one; a short
    ring where none does.

    Raises CapacityError where nothing fits.
    """
    plain = _fitting(asked.over(usual(wish)), asked, fit)
    proposals, why = [plain], ""
    try:
        proposals = [*_near(asked, plain, search(wish.batch, asked, scene, plain)), plain]
    except (CapacityError, ImportError) as error:
        why = str(error).partition("\n")[0]
    best: Chosen | None = None
    for proposal in dict.fromkeys(proposals):
        if proposal.cpu_experts > scene.shape.experts:
            continue
        try:
            policy = fit(proposal)
        except CapacityError:
            continue
        try:
            found = predict(
                policy, scene.shape, scene.workload, scene.hardware, known=scene.popularity
            )
        except NoDiskFigures as error:
            return Chosen(fit(plain), (f"no policy was searched: {error.message}",))
        if best is None or _seconds(found, scene) < _seconds(best.prediction, scene):
            best = Chosen(policy, (), found)
    if best is None:
        return Chosen(fit(plain))  # says what is missing
    return replace(best, remarks=tuple(_remarks(best, asked, scene, why)))


def _fitting(plain: Wish, asked: Open, fit: Fit) -> Wish:
    """Return the usual wish, with a ring that may be short where two layers' pages do not fit."""
    try:
        fit(plain)
    except CapacityError:
        return asked.over(replace(plain, schedule="ring"))
    return plain


def search(batch: int, asked: Open, scene: Scene, plain: Wish) -> Found:
    """Return the search's best policy for a batch of so many sequences."""
    attention = {"": ("cpu", "gpu"), "s4": ("gpu",)}.get(asked.schedule, ("cpu",))
    if asked.kv_gpu > 0:
        attention = ("gpu",)
    shares = Grid().kv_gpu if asked.kv_gpu < 0 else (asked.kv_gpu,)
    cpu = (False, True) if asked.cpu_experts < 0 else (asked.cpu_experts > 0,)
    if scene.shape.page_format in WIDE:  # the CPU's kernels read what is not packed
        cpu = (False,)
    grid = Grid(exact=batch, parts=asked.micro_batches, attention=attention, cpu_experts=cpu,
                pages_per_expert=asked.pages_per_expert, kv_gpu=shares,
                prefill_tokens=(scene.max_tokens,))  # fmt: skip
    site = scene.site(batch, plain.schedule)
    return refined(scene.shape, scene.workload, site, grid)


def _near(asked: Open, plain: Wish, found: Found) -> Iterator[Wish]:
    """Yield what was found as a wish, and its neighbours: here layers have the same pages."""
    batch = found.batch
    pages = sum(count for (home, _), count in found.counts.items() if home == "cpu")
    cpu, each = pages / found.model.layers, batch.pages_per_expert
    schedule = "s4" if batch.attention == "gpu" else found.site.schedule
    for count in dict.fromkeys((round(cpu), int(cpu), int(cpu) + 1 if cpu else 0, 0)):
        wish = replace(plain, schedule=schedule, micro_batches=batch.micro_batches,
                       cpu_experts=count / each, pages_per_expert=each,
                       kv_gpu=batch.kv_gpu)  # fmt: skip
        yield asked.over(wish)


def _seconds(found: Prediction | None, scene: Scene) -> float:
    assert found is not None
    return found.prefill.expected + (scene.workload.new - 1) * found.step.expected


def _remarks(best: Chosen, asked: Open, scene: Scene, why: str) -> Iterator[str]:
    policy, found = best.policy, best.prediction
    assert found is not None
    how = f"no policy was searched: {why}" if why else "policy searched"
    known = [name for name in ("schedule", "micro_batches", "cpu_experts")
             if getattr(asked, name) not in ("", 0, -1) or
             (name == "cpu_experts" and asked.cpu_experts == 0)]  # fmt: skip
    given = f"; given: {', '.join(known)}" if known else ""
    load = scene.workload
    yield (f"{how}, for {policy.batch} sequences of {load.prompt:.0f} + {load.new} tokens on "
           f"{scene.hardware.name}{given}")  # fmt: skip
    cpu = max(len(layer.cpu) for layer in policy.layers) / policy.pages_per_expert
    yield (f"chosen: schedule {policy.schedule}, {policy.micro_batches} micro-batches, {cpu:g} "
           f"experts a layer on the CPU, a ring of {policy.ring}")  # fmt: skip
    yield (f"predicted: a step of {1e3 * found.step.expected:.3g} ms; bound by {found.bound}, "
           f"{min(found.bound_share, 1.0):.0%} of it")  # fmt: skip
