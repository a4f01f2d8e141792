"""What was measured of the ways in which a GPU's kernels read a list's items.

Their kernels are `passes.tile.attention.ways`; the planner chooses among them by these rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..execution.recipe import Recipe
from .cost import Rates, Shape, Way

RATES = {
    "deep": Rates(
        4.15e12,
        program=3.8e10,
        processor=5.2e10,
        resident=264,
        launch=0.65e-6,
        item=1.85e-6,
        join=1.3e-6,
    ),
    "three": Rates(
        4.0e12, program=3.6e10, processor=5.2e10, launch=1.25e-6, item=1.4e-6, join=1.8e-6
    ),
    "crowded": Rates(
        4.1e12,
        program=2.3e10,
        processor=5.2e10,
        resident=528,
        launch=1.9e-6,
        item=0.5e-6,
        join=2.2e-6,
    ),
    "wide": Rates(
        4.22e12,
        program=4.2e10,
        processor=4.0e10,
        resident=132,
        launch=0.5e-6,
        item=2.8e-6,
        join=0.9e-6,
    ),
    "large": Rates(
        3.95e12,
        program=2.65e10,
        processor=4.2e10,
        flops=3.45e14,
        resident=518,
        launch=0.45e-6,
        item=0.45e-6,
        join=3.8e-6,
        slot=3.9e-8,
        slot_of_many=1.5e-7,
        program_many=4.8e10,
        beside=0.32,
        part=1.05,
    ),
    "largest": Rates(
        3.85e12,
        program=2.08e10,
        processor=4.01e10,
        flops=6.98e14,
        resident=600,
        launch=3.06e-6,
        item=2.13e-6,
        join=2.82e-7,
        slot=3.41e-8,
        slot_of_many=3.18e-7,
        program_many=4.5e10,
        beside=0.761,
        room=0.822,
    ),
    "large_specialised": Rates(
        3.7e12,
        program=4.22e10,
        processor=7.5e10,
        flops=4.69e14,
        resident=560,
        launch=0.26e-6,
        item=1.59e-6,
        join=3.06e-6,
        slot=3.78e-8,
        slot_of_many=1.95e-7,
        program_many=6.6e10,
        beside=0.869,
        room=1.8,
    ),
    "single": Rates(
        4.22e12,
        processor=6.2e10,
        flops=7.6e14,
        resident_many=222,
        launch=0.4e-6,
        item=1.54e-6,
        join=2.49e-6,
        slot=3.93e-8,
        program_many=7.2e10,
        single=True,
    ),
}
"""By way, on an H200 (bench/gpu_kernels.py). Those of items of many rows come from a search over
1,236 timings of 73 lists that were cut in many ways, those of `largest` to 714 of 95, those of
`large_specialised` and `single` to 459 of 92 and 64 of 16: plans by them take 1.6, 1.5, 1.1 and
0.2 % longer, in the mean, than the fastest that was measured (docs/experiments/cascades.md). The
`part` of `large` is that of 43 lists as planned.
"""

USUAL_WARPS = {
    "largest": Rates(
        3.82e12,
        program=4.7e10,
        processor=5.8e10,
        flops=4.9e14,
        resident=418,
        launch=3.0e-6,
        item=3.55e-6,
        join=0.1e-6,
        slot=2.5e-8,
        slot_of_many=4.0e-7,
        program_many=5.7e10,
        beside=0.88,
    ),
    "single": Rates(
        3.85e12,
        processor=2.9e10,
        flops=3.5e14,
        launch=0.4e-6,
        item=1.45e-6,
        join=2.0e-6,
        slot=3.8e-8,
        program_many=3.2e10,
        single=True,
    ),
}
"""Where warps are not specialised: on other GPUs than Hopper, and of other heads than 128 wide. By
the same search as the others' (73 lists), over the kernel that is launched there."""

ALONE = {
    "deep": {"program": 2.6e10},
    "three": {"program": 2.6e10},
    "crowded": {
        "program": 1.3e10,
        "resident": 132,
        "launch": 0.4e-6,
        "join": 1.2e-6,
    },
}
"""What differs where a step has a single row, by whole steps of the 8 B shape on an H200 (ms, with
192, 384, 1024, 4096 and 16384 keys): deep 3.771, 3.778, 3.804, 3.955, 4.459; crowded 3.759, 3.756,
3.799, 3.966, 4.387; wide, with the last two, 3.906, 4.351. Small programs of two stages leave the
product behind them room to begin. More of these than multiprocessors were not timed."""

LOOKED_UP = {
    "deep": {"program": 2.6e10, "item": 2.2e-6},
    "wide": {"program": 3.9e10},
}
"""What differs where blocks of keys span pages, each looked up."""

GROUPED, UNGROUPED = "grouped", "large"
"""The way of lists of the other whose items of few rows are all of one row, and short: a program
reads as many of them as a small tile has rows (passes/tile/attention/grouped.py)."""

EITHER = UNGROUPED, GROUPED
"""A way, and the one whose lists its kernels read as well, as when rows have left one of many."""

PLACES, FULL, SHORT = 264, 0.84, 192
"""Programs that have room beside large tiles, two a multiprocessor; the part of the places of all
their rounds that is taken then at least; and keys that an item has at most. Of 128 rows of eight
key heads, which are 256 programs, 1.1 % of a step with 48 own keys behind shared ones, 1.8 with 96,
are saved. With 40, 64 and 96 own keys behind 1,024, 192 rows took 34.7, 37.1 and 50.1 us so, as
their second round is half empty, and 33.4, 35.2 and 45.2 item by item; 256 rows 42.3, 44.7 and 57.3
in place of 44.1, 45.7 and 58.5; 96 rows gain nothing."""

PART = 0.92
"""`Rates.part` of it: of 128 and 256 rows with 40 to 128 own keys behind 256 to 8,192 it takes 0.91
to 1.03 of the other way's time, in the median 0.96, and the other 1.05 of what its rates say. By
largest tiles, for which lists of 256 rows behind 2,048 were planned before, these took 48.9 us with
64 own keys, and 40.3 so; by `large_specialised` 128 rows behind 2,048 with 96 own keys 31.7, and
27.6 so."""

SINGLE = "single"
"""The way of which one launch reads all items, those of few rows by large tiles, too: of runs that
two tiles hold. By it 64 rows of one key head behind 512 keys take 10.9 us, and 9.1 by `large`."""

SHARED = ("large", "largest", "large_specialised", SINGLE)
"""Those whose lists have items of more rows than the small tile holds."""


def grouped(rows: np.ndarray, keys: np.ndarray, shape: Shape) -> bool:
    """Whether a list of these items, of which each has some rows and keys, is read as `GROUPED`."""
    few = rows <= shape.rows_few
    programs = int(few.sum()) * shape.kv_heads // shape.rows_few
    full = 0 < FULL * -(-programs // PLACES) * PLACES <= programs
    short = int(keys[few].max(initial=0)) <= SHORT
    return full and short and singles(rows, shape.rows_few)


def named(way: Way, rows: np.ndarray, keys: np.ndarray) -> str:
    """Return the name of the way in which a list is read that was planned for one, and whose items
    have some rows and keys."""
    return GROUPED if way.grouped and grouped(rows, keys, way.shape) else way.name


def rates_of(way: Way, queries: int, rows: np.ndarray, keys: np.ndarray) -> Rates:
    """Return the rates at which a way reads runs of some rows and keys each, of so many queries."""
    rates = way.rates_of(queries)
    together = way.grouped and grouped(rows, keys, way.shape)
    return replace(rates, part=PART) if together else rates


def singles(rows: np.ndarray, few: int) -> bool:
    """Whether items have one row, or more than `few`."""
    return not ((rows > 1) & (rows <= few)).any()


def measured(shapes: Iterable[tuple[str, Shape, bool]]) -> list[Way]:
    """Return the ways of some names, each with its kernel's shape, and whether that has specialised
    warps if it was measured so."""

    def rates(name: str, shape: Shape, specialised: bool) -> Rates:
        found = RATES[name] if specialised else USUAL_WARPS.get(name, RATES[name])
        spans = shape.page % 64 > 0
        return replace(found, **LOOKED_UP.get(name, {})) if spans else found

    def alone(name: str, shape: Shape) -> Rates | None:
        known = name in ALONE and shape.page % 64 == 0
        return replace(RATES[name], **ALONE[name]) if known else None

    def most(name: str, shape: Shape) -> int:
        return 2 * shape.rows_many if name == SINGLE else Way.most

    return [Way(name, shape, rates(name, shape, specialised), name not in SHARED, name in SHARED,
                alone(name, shape), most=most(name, shape))
            for name, shape, specialised in shapes]  # fmt: skip


def had_by(ways: Sequence[Way], recipes: Sequence[Recipe]) -> list[Way]:
    """Return the ways that the kernels of all recipes have: `apart` ones for lists of items of few
    rows, others for those of many; none of them, if none is left for one of both."""

    def had(way: Way) -> bool:
        return all(way.name in recipe.ways for recipe in recipes if recipe.apart != way.many)

    found = [way for way in ways if had(way)]
    return found if {way.many for way in found} == {False, True} else []
