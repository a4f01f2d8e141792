"""What was measured of the ways in which a GPU's kernels read a list's items.

Their kernels are `passes.tile.attention_ways`; the planner chooses among them by these rates.
"""

from __future__ import annotations

from collections.abc import Iterable

from .attention_cost import Rates, Shape, Way

RATES = {
    "deep": Rates(4.29e12, program=3.2e10, resident=264, launch=1e-6, item=1.8e-6),
    "three": Rates(4.17e12, program=2.95e10, launch=2e-6, item=1.55e-6),
    "crowded": Rates(
        4.28e12, program=2.25e10, processor=3.9e10, resident=528, launch=2.4e-6, item=1.2e-6
    ),
    "wide": Rates(
        4.41e12, program=4.8e10, processor=3.45e10, resident=132, launch=2.7e-6, item=2.4e-6
    ),
    "large": Rates(
        3.9e12, program=2.1e10, processor=4.9e10, flops=4.0e14, resident=528, launch=0.6e-6,
        item=1.6e-6, program_many=4.9e10, beside=0.23,
    ),
    "largest": Rates(
        4.2e12, program=1.8e10, processor=3.9e10, flops=5.5e14, resident=528, launch=0.8e-6,
        item=3.0e-6, beside=0.3,
    ),
}
"""By way, on an H200 (bench/gpu_kernels.py)."""

SHARED = ("large", "largest")
"""Those whose lists have items of more rows than the small tile holds."""


def measured(shapes: Iterable[tuple[str, Shape]]) -> list[Way]:
    """Return the ways of some names, each with its kernel's shape."""
    return [Way(name, shape, RATES[name], few=name not in SHARED, many=name in SHARED)
            for name, shape in shapes]  # fmt: skip
