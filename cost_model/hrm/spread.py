"""From counts of pages over all layers to a placement of each layer, as even as can be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from ..placement import Home, Placement
from .linear import HOMES, Counts

LETTERS = {home: Home[home.upper()].value for home in HOMES}
ORDER = ("resident", "streamed", "disk", "cpu")
"""Homes in the order of a class's pages; the last pages of its last experts go to the CPU."""


def placements(
    counts: Counts,
    layers: int,
    pages_per_expert: int,
    members: Sequence[int],
    experts_of: Sequence[Sequence[int]] = (),
) -> tuple[Placement, ...]:
    """Return the placement of each layer.

    `members` is how many experts each class has; `experts_of` lists each layer's experts so that
    the members of a class follow each other (default: by number).
    """
    quotas = _quotas(counts, layers, len(members))
    experts = sum(members)
    made = []
    for layer in range(layers):
        order = experts_of[layer] if experts_of else range(experts)
        letters = "".join(LETTERS[home] * quota[home][layer] for quota in quotas for home in ORDER)
        homes = [""] * (experts * pages_per_expert)
        for place, expert in enumerate(order):
            own = letters[place * pages_per_expert : (place + 1) * pages_per_expert]
            homes[expert * pages_per_expert : (expert + 1) * pages_per_expert] = own
        made.append(Placement("".join(homes)))
    return tuple(made)


def colder(counts: Counts, shares: Sequence[float]) -> Counts:
    """Return counts whose CPU pages are those of the least used classes; `shares` are how much each
    class's experts are used. The CPU has less to do, and no other home holds more or fewer pages: a
    solver that is content with little less than the best may leave that out."""
    found = dict(counts)
    order = sorted(range(len(shares)), key=lambda number: shares[number])
    pairs = [(cold, hot) for place, cold in enumerate(order) for hot in order[:place:-1]
             if shares[hot] > shares[cold]]  # fmt: skip
    for (cold, hot), home in product(pairs, ORDER[:-1]):
        moved = min(found.get(("cpu", hot), 0), found.get((home, cold), 0))
        if moved:
            for key, change in ((("cpu", hot), -moved), ((home, cold), -moved),
                                (("cpu", cold), moved), ((home, hot), moved)):  # fmt: skip
                found[key] = found.get(key, 0) + change
    return found


def _quotas(counts: Counts, layers: int, classes: int) -> list[dict[str, list[int]]]:
    """Divide each class's counts over the layers.

    What passes through the ring is dealt out in turn, each class beginning where the one before it
    ended: so layers differ by one page at most, and a ring needs no more room for one than another.
    """
    made, start = [], 0
    for number in range(classes):
        count = {home: counts.get((home, number), 0) for home in HOMES}
        ringed = count["streamed"] + count["disk"]
        pages = sum(count.values()) // layers
        base, extra = divmod(ringed, layers)
        through = [base + ((layer - start) % layers < extra) for layer in range(layers)]
        stay = [pages - each for each in through]
        start = (start + extra) % layers
        disk, cpu = _share(count["disk"], through), _share(count["cpu"], stay)
        made.append({
            "disk": disk, "streamed": [a - b for a, b in zip(through, disk, strict=True)],
            "cpu": cpu, "resident": [a - b for a, b in zip(stay, cpu, strict=True)],
        })  # fmt: skip
    return made


def _share(count: int, rooms: list[int]) -> list[int]:
    """Divide a count over rooms in proportion to their sizes, never more than a room holds."""
    total, seen, given, shares = max(sum(rooms), 1), 0, 0, []
    for room in rooms:
        seen += room
        shares.append(seen * count // total - given)
        given += shares[-1]
    return shares
