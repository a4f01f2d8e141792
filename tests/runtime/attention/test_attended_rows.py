"""Lists of steps that select: few rows' chosen keys are attended to where they are chosen, and
layers that read everything, or a window, have lists beside those."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from weft.ir.sparse.policy import SparsePolicy
from weft.runtime.attention.cost import Rates, Shape
from weft.runtime.attention.lists import ARRAYS, AttentionLists
from weft.runtime.attention.sparse_lists import SparseLists, fills
from weft.runtime.execution.sparse_decode import SparseDecode
from weft.tests.runtime.attention.list_cases import decode_step

SHAPE = Shape(4, 2, 16, 16, 4, 4, 16, 4)
LEAST = 40
"""Tokens of context below which all is read."""


def planner(
    policy: str = "i4", rows: int = 4, tail: str = "none", across: bool = False,
    dense: tuple[int, ...] = (), windows: tuple[int, ...] = (0,), shape: Shape = SHAPE,
    capacity: int = 1600,
) -> AttentionLists:  # fmt: skip
    """Lists of layers whose labels are words."""
    sparse = SparsePolicy(k=8, sinks=1, recent=1, min_context=0, channels=8, labels=policy,
                          tail=tail, dense=dense)  # fmt: skip
    kind = {"i4": torch.int32, "bf16": torch.bfloat16}[policy]
    labels = torch.zeros((3, 2, 1, 16), dtype=kind)
    decode = SparseDecode(sparse, LEAST, {"labels": [labels]}, rows, 400)
    memory = (lambda _, shape, dtype: torch.zeros(shape, dtype=dtype)) if across else None
    held = SparseLists(decode, shape, rows, capacity, torch.device("cpu"), memory)
    return AttentionLists(shape, windows, torch.device("cpu"), 64, sparse=held)


def lists_of(lengths, planner):
    pages = 1 + np.arange(len(lengths) * 25).reshape(len(lengths), 25)
    return planner.plan(decode_step(lengths, pages))


def test_a_row_that_chooses_needs_no_items_and_no_join():
    lengths = [200]
    lists = lists_of(lengths, planner())
    assert lists.sparse and lists.attended and lists.apart
    extents = {name: lists.extents[f"plan_{name}"] for name in ("W", "R", "G", "S", "M", "B")}
    assert extents == {"W": 0, "R": 0, "G": 0, "S": 0, "M": 0, "B": len(lengths)}
    assert lists.arrays["plan_kv_lengths"].tolist() == lengths
    assert lists.arrays["plan_merge_start"].tolist() == [0]


@pytest.mark.parametrize("lengths, made", [
    ([200, 90], planner()), ([200], planner("bf16")), ([200], planner(tail="mean")),
    ([200], planner(across=True)),
], ids=["more rows", "no words", "a tail", "keys across a link"])  # fmt: skip
def test_others_have_items_of_their_lists(lengths, made):
    lists = lists_of(lengths, made)
    assert lists.sparse and not lists.attended
    assert set(lists.arrays["plan_item_list"].tolist()) == set(range(len(lengths)))


def test_states_have_room_for_as_many_rows_as_are_few():
    memory = planner().sparse.memory
    assert memory["SR"] == 1
    assert memory["share_max"].shape == memory["share_sum"].shape == (1, 2, 32, 2)
    assert memory["share_acc"].shape == (1, 2, 32, 32, 1)
    assert "SR" not in planner("bf16").sparse.memory


def test_a_recording_of_more_rows_is_not_lent_to_one():
    """Its launches read items, of which there are none: only one of few rows does what is left."""
    made = planner()
    few, more = (made.room(rows, lists_of([200] * rows, made), 128) for rows in (1, 3))
    assert dict(few.extents)["plan_W"] == 0 and dict(more.extents)["plan_W"] > 0
    assert few.holds(few) and not more.holds(few)


@pytest.mark.parametrize("lengths", [[200], [200, 90, 30]], ids=["attended", "listed"])
def test_layers_that_select_nothing_have_the_lists_of_a_step_without_selections(lengths):
    """Beside those that select: whole ones, and a window's. All have a room, and are bound."""
    made = planner(dense=(1,), windows=(0, 24))
    lists = lists_of(lengths, made)
    plain = lists_of(lengths, AttentionLists(SHAPE, (0, 24), torch.device("cpu"), 64))
    assert lists.sparse and not plain.sparse
    for name in (*ARRAYS, *"WRGSM"):
        of, had = (lists.extents, plain.extents) if len(name) < 3 else (lists.arrays, plain.arrays)
        for tail, window in (("whole", ""), ("24", "24")):
            assert np.array_equal(of[f"plan_{name}{tail}"], had[f"plan_{name}{window}"]), name
    keys = {tail: lists.arrays[f"plan_item_high{tail}"].sum() for tail in ("", "whole")}
    assert keys[""] < keys["whole"]
    room = made.room(4, lists, 1000)
    assert room.takes(lists)
    views = {name: torch.zeros(size, dtype=torch.int32) for name, size in room.sizes}
    bound = made.bind(views, dict(room.extents))
    assert bound["plan_pageswhole"] is bound["plan_pages"] and bound["plan_mwhole"].shape[0] > 0
    assert "plan_Wwhole" not in lists_of(lengths, planner()).extents


def test_rows_that_read_keys_together_in_whole_layers_need_the_large_tile():
    """Though in layers that select each reads its own."""
    shape, shared = replace(SHAPE, rows_few=2, rows_many=8), np.arange(24)
    slow = Rates(memory=1e3, cache=1e3, program=1e3, processor=1e3, program_many=1e3)
    held = planner(dense=(1,), shape=shape).sparse
    made = AttentionLists(shape, (0,), torch.device("cpu"), 64, slow, held)
    table = np.stack([np.append(shared, 24 + row) for row in range(4)])
    lists = made.plan(decode_step([390] * 4, table))
    assert lists.sparse and not lists.apart
    assert lists.arrays["plan_item_rows"].max() == 1 < lists.arrays["plan_item_rowswhole"].max()


def test_where_scores_have_no_room_for_all_rows_every_row_reads_everything():
    lengths = [400, 390, 380, 370]  # 25, 25, 24 and 24 pages
    assert lists_of(lengths, planner(capacity=98 * 16)).sparse
    lists = lists_of(lengths, planner(capacity=97 * 16))
    plain = lists_of(lengths, AttentionLists(SHAPE, (0,), torch.device("cpu"), 64))
    assert not lists.sparse
    assert all(np.array_equal(lists.arrays[name], found) for name, found in plain.arrays.items())


def test_a_step_fills_the_pages_whose_last_slot_it_writes():
    pick, columns, page = np.random.default_rng(3), 6, 16
    lengths = np.append(pick.integers(1, columns * page + 1, 60), [16, 32, 96, 17])
    new = np.append([pick.integers(1, length + 1) for length in lengths[:60]], [16, 16, 1, 17])
    found = fills(lengths, new, columns, page)
    for row, (length, count) in enumerate(zip(lengths, new, strict=True)):
        filled = [n for n in range(columns) if length - count < (n + 1) * page <= length]
        entry, many, before = (int(found[f"plan_fill_{name}"][row])
                               for name in ("entry", "count", "before"))  # fmt: skip
        assert many == len(filled)
        if filled:
            assert entry == row * columns + filled[0]
            assert before == (entry - 1 if filled[0] else -1)
