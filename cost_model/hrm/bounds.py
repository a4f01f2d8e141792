"""A bound on the linear model of one batch that is cheap: which batches need no solver.

For two rows f and g, max(f, g) >= w f + (1 - w) g for any w in [0, 1]; and GPU memory may be
charged at any price. What remains is a sum over pages, so its least value is a sum of least costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .linear import RING, LinearModel, Row

WEIGHTS = (0.2, 0.4, 0.6, 0.8)


def lower_bound(model: LinearModel, weights: tuple[float, ...] = WEIGHTS) -> float:
    """Return seconds that no counts can undercut; infinite where memories cannot hold the pages.

    Without `weights` rows are bounded one by one, which is faster and looser.
    """
    memory = _Memory.of(model)
    if not memory.may_hold(model):
        return float("inf")
    step = _rows_bound(model, model.step, memory, weights) + model.step_overhead
    prefill = _rows_bound(model, model.prefill, memory, weights) + model.prefill_overhead
    return model.steps * step + prefill


def may_hold(model: LinearModel) -> bool:
    """Return whether memories could hold all pages: where they cannot, no counts fit."""
    return _Memory.of(model).may_hold(model)


@dataclass(frozen=True)
class _Memory:
    """Room of the memories in pages, and what a page that passes through the ring takes of GPU's.

    `spare` are slots that the ring has beyond what passes through it.
    """

    pages: float
    host: float
    disk: float
    ringed: float
    spare: float

    @staticmethod
    def of(model: LinearModel) -> _Memory:
        gpu, host, disk, ring = model.limits
        page = gpu.row.each[RING]
        first, second, third = ((e.most - e.row.fixed) / page for e in (gpu, host, disk))
        return _Memory(first, second, third, ring.row.each["streamed", 0], -ring.most)

    def may_hold(self, model: LinearModel) -> bool:
        """Return whether the memories could hold all pages, with the least that a ring takes."""
        if min(self.pages - self.spare, self.host) < 0:
            return False
        total = sum(model.totals)
        away = self.host + (self.disk if "disk" in model.allowed else 0.0)
        resident = max(0.0, total - away)
        passing = 0.0 if "cpu" in model.allowed else total - resident
        if "disk" in model.allowed:
            passing = max(0.0, total - resident - self.host) if "cpu" in model.allowed else passing
        return resident + passing * self.ringed + self.spare <= self.pages

    def weight(self, home: str) -> float:
        """GPU pages that a page of this home takes."""
        return {"resident": 1.0, "cpu": 0.0}.get(home, self.ringed)


def _rows_bound(
    model: LinearModel, rows: tuple[Row, ...], memory: _Memory, weights: tuple[float, ...]
) -> float:
    taken = [(home, memory.weight(home)) for home in model.allowed]

    def bound(row: Row) -> float:
        return _priced_bound(model.totals, row, memory.pages, taken)

    bounds = [bound(row) if row.each else row.fixed for row in rows]
    trading = [row for row in rows if any(value > 0 for value in row.each.values())]
    for number, first in enumerate(trading):
        for second in trading[number + 1 :]:
            bounds += [bound(_mixed(first, second, weight)) for weight in weights]
    return max(bounds)


def _mixed(first: Row, second: Row, weight: float) -> Row:
    """Return weight * first + (1 - weight) * second."""
    other = 1.0 - weight
    each = {
        key: weight * first.each.get(key, 0.0) + other * second.each.get(key, 0.0)
        for key in {**first.each, **second.each}
    }
    return Row(first.name, weight * first.fixed + other * second.fixed, each)


def _priced_bound(
    totals: tuple[int, ...], row: Row, room: float, taken: list[tuple[str, float]]
) -> float:
    """The least of a row, with GPU memory at its best price: it has room for so many pages, of
    which a page of each home takes its part."""
    # A ring cannot have more slots than GPU memory has pages.
    fixed, each = row.fixed + row.each.get(RING, 0.0) * room, row.each
    classes = [
        (pages, [(each.get((home, number), 0.0), part) for home, part in taken])
        for number, pages in enumerate(totals)
    ]
    prices = {0.0}
    for _, options in classes:
        for cost, part in options:
            for other, more in options:
                if more > part and cost > other:
                    prices.add((cost - other) / (more - part))
    return fixed + max(
        sum(pages * min([c + price * part for c, part in options]) for pages, options in classes)
        - price * room
        for price in prices
    )
