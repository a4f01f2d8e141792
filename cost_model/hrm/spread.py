"""From counts of pages over all layers to a placement of each layer, as even as can be."""

from __future__ import annotations

from collections.abc import Sequence

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
    experts = sum(members)
    quotas = [
        _spread({home: counts.get((home, number), 0) for home in HOMES}, layers)
        for number in range(len(members))
    ]
    made = []
    for layer in range(layers):
        order = experts_of[layer] if experts_of else range(experts)
        letters = "".join(LETTERS[home] * quota[layer][home] for quota in quotas for home in ORDER)
        homes = [""] * (experts * pages_per_expert)
        for place, expert in enumerate(order):
            own = letters[place * pages_per_expert : (place + 1) * pages_per_expert]
            homes[expert * pages_per_expert : (expert + 1) * pages_per_expert] = own
        made.append(Placement("".join(homes)))
    return tuple(made)


def _spread(counts: dict[str, int], layers: int) -> list[dict[str, int]]:
    """Divide counts over layers of one size, each within a page of the mean."""
    left, spread = dict(counts), []
    for remaining in range(layers, 0, -1):
        pages = sum(left.values()) // remaining
        quota = {home: count // remaining for home, count in left.items()}
        most_wanting = sorted(left, key=lambda home: left[home] % remaining, reverse=True)
        for home in most_wanting[: pages - sum(quota.values())]:
            quota[home] += 1
        spread.append(quota)
        left = {home: left[home] - quota[home] for home in left}
    return spread
