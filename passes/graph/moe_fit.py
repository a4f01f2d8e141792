"""A policy by what fits: as many pages resident as the GPU has room for, the rest streamed.

This is the plain rule; `weft tune` searches for a better policy with the cost model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...cost_model.placement import Home, Placement
from ...cost_model.policy import Policy
from ...ir.diagnostics import CapacityError
from ...ir.display.units import bytes_text, least_size, sizes

SPARE = 2
"""Slots beyond one layer's pages, at most, of a ring that has no room for two layers' pages."""


class CapTooSmall(CapacityError):
    """A cap of GPU memory below what one layer's work needs."""

    template = (
        "{cap} of GPU memory are {over} too few: weights besides experts take {weights}, "
        "activations, buffers and keys {working}, {libraries}and a ring of {ring} pages of {page} "
        "{pages}"
    )
    hint = (
        "give --gpu-memory at least {least}, or lower max_tokens, or --kv-memory where keys lie on "
        "the GPU, or compute experts on the CPU"
    )


class HostTooSmall(CapacityError):
    """Host memory below what must lie in it."""

    template = (
        "{host} of host memory are {over} too few: keys and values take {kv}, pages that the CPU "
        "computes {cpu}, pages on their way and buffers {rest}"
    )
    hint = "give --host-memory at least {least}, or lower --kv-memory"


@dataclass(frozen=True)
class Room:
    """Bytes: what there is, and what everything but pages of experts takes.

    `host` 0 means as much as is wanted. `kv` are keys and values in host memory, `buffers` what
    copies go through there; a page takes `page` of the GPU, and `stored` of host memory (0: as
    much). `libraries` is the GPU's memory that no tensor of ours is in.
    """

    gpu: int
    weights: int
    working: int
    page: int
    host: int = 0
    kv: int = 0
    buffers: int = 0
    libraries: int = 0
    stored: int = 0

    @property
    def left(self) -> int:
        """Bytes of GPU memory for pages; below 0 where the rest does not fit."""
        return self.gpu - self.libraries - self.weights - self.working


@dataclass(frozen=True)
class Wish:
    """What a user asks of a policy: schedule, sequences, micro-batches, CPU experts a layer (of
    which a part may be some of an expert's pages)."""

    batch: int
    schedule: str = "ring"
    micro_batches: int = 4
    cpu_experts: float = 0
    lead: int = 2
    page_format: str = "f32"
    pages_per_expert: int = 1
    kv_gpu: float = 0.0

    def cpu_pages(self, layers: int) -> list[int]:
        """Return the pages of each layer that the CPU computes; of a number that is not whole, some
        layers have one more than others."""
        ends = [int(n * self.cpu_experts * self.pages_per_expert + 1e-9) for n in range(layers + 1)]
        return [end - begin for begin, end in pairwise(ends)]


def wish_of(policy: Policy) -> Wish:
    """Return what a policy says, but for where each page lies."""
    cpu = sum(len(layer.cpu) for layer in policy.layers)
    each = policy.pages_per_expert
    return Wish(
        policy.batch, policy.schedule, policy.micro_batches, cpu / len(policy.layers) / each,
        policy.lead, policy.page_format, each, policy.kv_gpu,
    )  # fmt: skip


def pages_on_gpu(policy: Policy) -> int:
    """Return the pages of GPU memory that a policy has for experts: resident ones and the ring."""
    return sum(len(layer.resident) for layer in policy.layers) + max(policy.ring, 1)


def fit_policy(
    layers: int, experts: int, room: Room, wish: Wish, order: Sequence[Sequence[int]] = ()
) -> Policy:
    """Return the policy that keeps most experts resident; raises CapTooSmall and HostTooSmall.

    `order` lists each layer's pages, the most used first: the least used go to the CPU.
    """
    each = wish.pages_per_expert
    cpu = wish.cpu_pages(layers)
    counts = [experts * each - number for number in cpu]
    pages = room.left // room.page
    ring, widest = _ring, _least_passed(counts, pages, _ring)
    if widest < 0 and wish.schedule == "ring":
        ring, widest = _short_ring, _least_passed(counts, pages, _short_ring)
    if widest < 0:
        raise _cap_too_small(counts, room, wish)
    resident = [max(count - widest, 0) for count in counts]
    spare = pages - sum(resident) - ring(widest)
    for layer in [n for n in range(layers) if counts[n] > resident[n]][: max(spare, 0)]:
        resident[layer] += 1
    homes = [
        Placement.counts(resident=r, streamed=count - r, cpu=number)
        for r, count, number in zip(resident, counts, cpu, strict=True)
    ]
    if order:
        homes = [_by_rank(ranks, ranked) for ranks, ranked in zip(homes, order, strict=True)]
    placed = with_disk(homes, room)
    count = min(wish.micro_batches, wish.batch)
    return Policy(
        wish.batch, -(-wish.batch // count), "gpu" if wish.schedule == "s4" else "cpu",
        tuple(placed), experts, each, ring(widest), wish.lead, wish.kv_gpu, schedule=wish.schedule,
        page_format=wish.page_format,
    )  # fmt: skip


def _by_rank(ranks: Placement, pages: Sequence[int]) -> Placement:
    """Return a placement of pages from one of their ranks."""
    letters = dict(zip(pages, ranks.homes, strict=True))
    return Placement("".join(letters[page] for page in range(len(letters))))


def _ring(widest: int) -> int:
    """Return the slots of a ring of two layers' pages, so that copies go on while a layer's last
    micro-batches compute: with two slots beyond one layer's, a step of Mixtral's took 1.26 s on an
    H200, and 0.80 s with two layers'. One where nothing passes through: a pool is never empty."""
    return max(2 * widest, 1)


def _short_ring(widest: int) -> int:
    return widest + min(SPARE, widest) if widest else 1


def _least_passed(counts: Sequence[int], pages: int, ring: Callable[[int], int]) -> int:
    """Return the fewest pages of a layer that must pass through a ring, the others resident beside
    it; -1: not even with none resident. `counts` are each layer's pages for the GPU."""
    fitting = (w for w in range(max(counts) + 1) if _taken(counts, w, ring) <= pages)
    return min(fitting, default=-1)


def _taken(counts: Sequence[int], widest: int, ring: Callable[[int], int]) -> int:
    return sum(max(count - widest, 0) for count in counts) + ring(widest)


def _cap_too_small(counts: Sequence[int], room: Room, wish: Wish) -> CapTooSmall:
    least = _short_ring if wish.schedule == "ring" else _ring
    ring = min(_taken(counts, w, least) for w in range(max(counts) + 1))
    need = room.gpu - room.left + ring * room.page
    return CapTooSmall(
        **sizes(cap=room.gpu, over=need - room.gpu, weights=room.weights, working=room.working,
                page=room.page, pages=ring * room.page),
        libraries=f"the GPU's libraries {bytes_text(room.libraries)}, " if room.libraries else "",
        ring=ring, least=least_size(need),
    )  # fmt: skip


def with_disk(homes: Sequence[Placement], room: Room) -> list[Placement]:
    """Return placements whose pages beyond host memory come from disk, last layers first; raises
    HostTooSmall."""
    if not room.host:
        return list(homes)
    page_bytes = room.stored or room.page
    cpu = sum(len(layer.cpu) for layer in homes) * page_bytes
    relay = 3 * page_bytes
    left = room.host - room.kv - room.buffers - relay - cpu
    if left < 0:
        raise HostTooSmall(
            **sizes(host=room.host, over=-left, kv=room.kv, cpu=cpu, rest=room.buffers + relay),
            least=least_size(room.host - left),
        )  # fmt: skip
    kept = left // page_bytes
    placed = []
    for layer in homes:
        letters = list(layer.homes)
        for page in layer.streamed:
            if kept > 0:
                kept -= 1
            else:
                letters[page] = Home.DISK.value
        placed.append(Placement("".join(letters)))
    return placed
