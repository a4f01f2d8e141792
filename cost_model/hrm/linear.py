"""The corrected model of one batch as linear rows over page counts: what a solver and a person see.

For a fixed batch, micro-batch, place of attention and prefill group, every resource's time is a
constant plus a cost for each page, by its home and by the class of experts that it belongs to; a
decode step takes the largest row, and so does prefill. Memory is rows of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HOMES = ("resident", "streamed", "cpu", "disk")

Counts = Mapping[tuple[str, int], int]
"""Pages by home and class of experts; the key ("ring", 0) counts slots of the ring."""

RING = ("ring", 0)


@dataclass(frozen=True)
class Row:
    """A resource's seconds (or a memory's bytes): fixed, and for each page by (home, class).

    A `roof` is what a resource needs at the least; other rows add waits that are likely, not sure.
    """

    name: str
    fixed: float
    each: Mapping[tuple[str, int], float] = field(default_factory=dict)
    roof: bool = True

    def value(self, counts: Counts) -> float:
        """Return the row's value for counts of pages."""
        return self.fixed + sum(cost * counts.get(key, 0) for key, cost in self.each.items())

    def scaled(self, factor: float) -> Row:
        """Return the row times a factor."""
        each = {key: value * factor for key, value in self.each.items()}
        return Row(self.name, self.fixed * factor, each, self.roof)


@dataclass(frozen=True)
class Limit:
    """A row that must not exceed a bound: bytes of a memory, or slots."""

    row: Row
    most: float

    def room(self, counts: Counts) -> float:
        """Return what is left; negative where it is exceeded."""
        return self.most - self.row.value(counts)


@dataclass(frozen=True)
class LinearModel:
    """One batch's model: minimise prefill + steps * step over counts with the given totals.

    `step` and `prefill` are rows of seconds, each time being the largest of its rows plus its
    overhead (fill and drain, which no resource's sum contains). `totals` is how many pages each
    class of experts has over all layers; pages lie in the `allowed` homes alone.
    """

    step: tuple[Row, ...]
    prefill: tuple[Row, ...]
    limits: tuple[Limit, ...]
    totals: tuple[int, ...]
    layers: int
    steps: int
    step_overhead: float = 0.0
    prefill_overhead: float = 0.0
    allowed: tuple[str, ...] = HOMES

    def step_seconds(self, counts: Counts) -> float:
        """Return the time of one decode step."""
        return max(row.value(counts) for row in self.step) + self.step_overhead

    def prefill_seconds(self, counts: Counts) -> float:
        """Return the time of all prompts."""
        return max(row.value(counts) for row in self.prefill) + self.prefill_overhead

    def seconds(self, counts: Counts) -> float:
        """Return the objective: prefill and all steps after the first token."""
        return self.prefill_seconds(counts) + self.steps * self.step_seconds(counts)

    def bound(self, counts: Counts) -> str:
        """Return the highest roof of a step; of those as high, the one listed first."""
        roofs = [row for row in self.step if row.roof]
        most = max(row.value(counts) for row in roofs)
        return next(row.name for row in roofs if row.value(counts) >= most * (1 - 1e-6))

    def fits(self, counts: Counts) -> bool:
        """Return whether counts keep every limit and every total."""
        kept = all(limit.room(counts) >= -1e-6 * max(1.0, limit.most) for limit in self.limits)
        sums = [sum(counts.get((home, n), 0) for home in HOMES) for n in range(len(self.totals))]
        return kept and tuple(sums) == self.totals
