"""A bound on the linear model of one batch that is cheap: which batches need no solver.

For two rows f and g, max(f, g) >= w f + (1 - w) g for any w in [0, 1]; and GPU memory may be
charged at any price. What remains is a sum over pages, so its least value is a sum of least costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .linear import RING, LinearModel, Row

WEIGHTS = (0.2, 0.4, 0.6, 0.8)


def lower_bound(model: LinearModel, weights: tuple[float, ...] = WEIGHTS) -> float:
    """Return seconds that no counts can undercut; infinite where a memory's fixed part is full.

    Without `weights` rows are bounded one by one, which is faster and looser.
    """
    if any(limit.most < limit.row.fixed for limit in model.limits if limit.most > 0):
        return float("inf")
    memory = _Memory.of(model)
    step = _rows_bound(model, model.step, memory, weights) + model.step_overhead
    prefill = _rows_bound(model, model.prefill, memory, weights) + model.prefill_overhead
    return model.steps * step + prefill


@dataclass(frozen=True)
class _Memory:
    """GPU memory in pages, and the share of a slot of the ring that a page passing through takes.

    A page of slack of the ring is not counted, so this is never more than what is needed.
    """

    pages: float
    ringed: float

    @staticmethod
    def of(model: LinearModel) -> _Memory:
        gpu, ring = model.limits[0], model.limits[3]
        page = gpu.row.each[RING]
        return _Memory((gpu.most - gpu.row.fixed) / page, ring.row.each["streamed", 0])

    def weight(self, home: str) -> float:
        """GPU pages that a page of this home takes."""
        return {"resident": 1.0, "cpu": 0.0}.get(home, self.ringed)


def _rows_bound(
    model: LinearModel, rows: tuple[Row, ...], memory: _Memory, weights: tuple[float, ...]
) -> float:
    bounds = [_mix_bound(model, row, row, 1.0, memory) for row in rows]
    trading = [row for row in rows if any(value > 0 for value in row.each.values())]
    for number, first in enumerate(trading):
        for second in trading[number + 1 :]:
            bounds += [_mix_bound(model, first, second, w, memory) for w in weights]
    return max(bounds)


def _mix_bound(
    model: LinearModel, first: Row, second: Row, weight: float, memory: _Memory
) -> float:
    """The least of weight * first + (1 - weight) * second, with GPU memory at its best price."""
    ring = weight * first.each.get(RING, 0.0) + (1 - weight) * second.each.get(RING, 0.0)
    fixed = weight * first.fixed + (1.0 - weight) * second.fixed
    fixed += ring * memory.pages  # a ring cannot have more slots than GPU memory has pages
    options = [
        [
            (
                weight * first.each.get((home, number), 0.0)
                + (1.0 - weight) * second.each.get((home, number), 0.0),
                memory.weight(home),
            )
            for home in model.allowed
        ]
        for number in range(len(model.totals))
    ]
    prices = {0.0}
    for class_options in options:
        for cost, taken in class_options:
            for other, more in class_options:
                if more > taken and cost > other:
                    prices.add((cost - other) / (more - taken))
    return max(
        fixed
        - price * memory.pages
        + sum(
            pages * min(cost + price * taken for cost, taken in class_options)
            for pages, class_options in zip(model.totals, options, strict=True)
        )
        for price in prices
    )
