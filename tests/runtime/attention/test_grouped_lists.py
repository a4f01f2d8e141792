"""Short keys of many rows: several rows a program, where that was faster, and else item by item."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.bench.gpu_kernels import Sequences
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.ways import (
    LARGE_SPECIALISED,
    LARGEST,
)
from weft.runtime.attention.ways import GROUPED, UNGROUPED
from weft.tests.runtime.attention.list_cases import decode_step
from weft.tests.runtime.attention.way_cases import Seen, executor, lists_of, step_of

TREES = Sequences(128, 0, 64, 8, 1024)


@pytest.mark.parametrize(
    ("of", "way"),
    [(TREES, GROUPED), (Sequences(128, 2048, 96), GROUPED),
     (Sequences(256, 0, 64, 16, 1024), GROUPED),  # two rounds of programs, and full ones
     (Sequences(256, 2048, 64), GROUPED),  # measured 40.3 us, by the largest tiles 48.9
     (Sequences(256, 8192, 64), "largest"),  # 89 us, and 113
     (Sequences(192, 0, 64, 12, 1024), UNGROUPED),  # the second would be half empty
     (Sequences(96, 0, 64, 8, 1024), UNGROUPED),  # too few programs would be left
     (Sequences(192, 1024, 64), LARGE_SPECIALISED),  # as above; measured 27.9 us, by it 29.2
     (Sequences(128, 0, 320, 8, 1024), UNGROUPED),  # too long ones
     (Sequences(152, 0, 64, 8, 1024), UNGROUPED)],  # tiles of sixteen rows, and of three
    ids=str,
)  # fmt: skip
def test_short_keys_of_many_rows_are_read_several_rows_a_program(of: Sequences, way: str):
    shape = Parts(32, 8, 128, page=64)
    step = step_of(of.batch(shape, np.arange(of.pages(shape))))
    found, plain = lists_of(shape, grouped=True).plan(step), lists_of(shape).plan(step)
    assert found.way == way and plain.way in (UNGROUPED, LARGEST, LARGE_SPECIALISED)
    if way in (GROUPED, plain.way) and of.count <= 128:
        same = (np.array_equal(found.arrays[name], plain.arrays[name]) for name in plain.arrays)
        assert all(same) and (found.seconds != plain.seconds) == (way == GROUPED)


def test_lists_whose_items_have_several_rows_once_others_left_are_read_item_by_item():
    shape, lists = Parts(32, 8, 128, page=64), lists_of(Parts(32, 8, 128, page=64), grouped=True)
    batch = replace(TREES, own=60).batch(shape, np.arange(TREES.pages(shape)))

    def later(by: int, rows: list[int]) -> Any:
        table, lengths = batch.table[rows], batch.lengths[rows] + by
        return lists.plan(decode_step(lengths.tolist(), table.tolist()))

    assert later(0, [*range(128)]).way == GROUPED
    assert later(1, [*range(128)]).way == GROUPED
    room = lists.room(128, later(2, [*range(1, 128)]), 1 << 18)
    assert lists._last is not None
    assert room.way == GROUPED  # and what reads items one by one reads these as well
    assert replace(room, way=UNGROUPED).holds(room) and not room.holds(replace(room, way=UNGROUPED))
    assert not replace(room, way="largest").holds(room)
    left = later(3, [*range(13, 128)])  # three of the first tree
    assert left.way == UNGROUPED and 3 in left.arrays["plan_item_rows"]


def test_a_room_for_items_of_one_row_takes_no_others():
    """What reads it would leave them out."""
    shape = Parts(32, 8, 128, page=64)
    lists = lists_of(shape, grouped=True)
    planned, steps = {}, {}
    for of in (TREES, Sequences(152, 0, 64, 8, 1024)):
        steps[of] = step_of(of.batch(shape, np.arange(of.pages(shape))))
        planned[of] = lists.plan(steps[of])
    single, several = planned
    room = lists.room(160, planned[single], 1 << 18)
    assert room.way == GROUPED
    wide = replace(room, extents=tuple((name, 1 << 16) for name, _ in room.extents),
                   sizes=tuple((name, 1 << 20) for name, _ in room.sizes))  # fmt: skip
    assert lists.within(steps[several], planned[several], wide) is None
    assert lists.within(steps[single], planned[single], wide) is not None
    other = lists.within(steps[single], planned[single], replace(wide, way=UNGROUPED))
    assert other is not None and other.way == UNGROUPED


def test_a_step_whose_items_have_one_row_runs_the_kernel_for_several(monkeypatch):
    monkeypatch.setattr("weft.runtime.attention.ways.PLACES", 16)
    seen: list[Seen] = []
    device = executor(seen)
    device._recorded.cost = 1e-9
    shape = Parts(8, 1, 64, page=64)
    for prefix, way in ((2048, GROUPED), (0, "")):
        of = Sequences(64, prefix, 64)
        seen[0].log.clear()
        device.forward(step_of(of.batch(shape, np.arange(of.pages(shape)))))
        launched = [name for name in seen[0].log if name.startswith("attention_parts")]
        assert [name.endswith("_grouped_few") for name in launched] == [False, True][
            : 1 + bool(way)
        ]
