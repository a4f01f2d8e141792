"""Throughput by host memory: the best policy at each amount, and what bounds it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir.diagnostics import CapacityError
from ..hardware import Hardware
from ..policy import Policy
from ..roofline import Interval
from .grid import Grid
from .memory import HOST_MARGIN
from .model import Site
from .prediction import Prediction, predict
from .search import policy_of, refined
from .shape import MoeShape, Workload

POINTS = 16
LEAST = 0.25
"""The smallest amount of host memory that is tried, as a share of the largest."""
ALIKE = 0.95
"""The share of a throughput from which on it counts as the same."""


@dataclass(frozen=True)
class Point:
    """The best policy with `host_memory` bytes: tokens/s of decode steps, worst to best over the
    hardware's error bars, and the tokens/s that the bound of its step allows."""

    host_memory: float
    policy: Policy
    rate: Interval
    bound_rate: float
    bound: str


@dataclass(frozen=True)
class HostCurve:
    """Points by rising host memory; the last has room for all that the best policy keeps there."""

    points: tuple[Point, ...]

    @property
    def whole(self) -> Point:
        """The point where host memory bounds nothing."""
        return self.points[-1]

    @property
    def least(self) -> float:
        """The least bytes of host memory that have the throughput of the whole (`ALIKE` of it), on
        the straight line between two points."""
        enough = ALIKE * self.whole.rate.expected
        number = next(n for n, p in enumerate(self.points) if p.rate.expected >= enough)
        above, below = self.points[number], self.points[max(number - 1, 0)]
        rise = above.rate.expected - below.rate.expected
        share = (enough - below.rate.expected) / rise if rise else 1.0
        return below.host_memory + share * (above.host_memory - below.host_memory)

    @property
    def saving(self) -> float:
        """How many times less host memory has the same throughput."""
        return self.whole.host_memory / self.least

    def text(self) -> str:
        """Return the curve as a table, and what it says."""
        lines = [f"{'host memory':>12} {'tokens/s':>10} {'bound':>10}  by"]
        lines += [
            f"{p.host_memory / 2**30:8.1f} GiB {p.rate.expected:10,.0f} {p.bound_rate:10,.0f}  "
            f"{p.bound}; {p.policy.batch} sequences, attention on the {p.policy.attention.upper()}"
            for p in self.points
        ]
        lines.append(
            f"within {1 - ALIKE:.0%} of that rate with {self.saving:.2f}x less host memory: "
            f"{self.least / 2**30:.1f} of {self.whole.host_memory / 2**30:.1f} GiB"
        )
        return "\n".join(lines)


def host_curve(
    shape: MoeShape, workload: Workload, site: Site, grid: Grid, hardware: Hardware,
    shares: Sequence[float] = (),
) -> HostCurve:  # fmt: skip
    """Search a policy for shares of the host memory that the best policy of a site needs.

    Amounts in which nothing fits are left out; raises CapacityError where the site itself has none.
    """
    found = _predicted(shape, workload, site, grid, hardware)
    most = min(site.host_memory, sum(found.host.values()) / (1 - HOST_MARGIN))
    step = (1 - LEAST) / (POINTS - 1)
    points = []
    for share in sorted(shares or (LEAST + step * number for number in range(POINTS - 1))):
        try:
            there = replace(site, host_memory=share * most)
            points.append(_point(share * most, _predicted(shape, workload, there, grid, hardware)))
        except CapacityError:
            continue
    return HostCurve((*points, _point(most, found)))


def _predicted(
    shape: MoeShape, workload: Workload, site: Site, grid: Grid, hardware: Hardware
) -> Prediction:
    policy = policy_of(refined(shape, workload, site, grid), shape)
    return predict(policy, shape, workload, hardware, known=site.popularity)


def _point(memory: float, found: Prediction) -> Point:
    batch, step = found.policy.batch, found.step
    rate = Interval(*sorted(batch / seconds for seconds in (step.low, step.expected, step.high)))
    return Point(memory, found.policy, rate, batch / found.roofs[found.bound], found.bound)
