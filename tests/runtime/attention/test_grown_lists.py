"""Lists of decode steps that follow one another: grown, with rows that leave, cut anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.attention.grown_lists import AFTER_LEAVING, PAGES
from weft.runtime.attention.lists import AttentionLists
from weft.runtime.attention.plan import Shape
from weft.tests.each_time import examples
from weft.tests.runtime.attention.list_cases import decode_step, seen_keys

SMALL = Shape(4, 2, 16, 16, 4, 8, 64)


def lists_of(shape=SMALL):
    return AttentionLists(shape, (0,), torch.device("cpu"), 4096)


def same_keys(found, expected, width):
    seen, wanted = seen_keys(found, width), seen_keys(expected, width)
    return {row: sorted(keys) for row, keys in seen.items()} == {
        row: sorted(keys) for row, keys in wanted.items()
    }


def check_states(lists, rows):
    """Every row is in one item, or in several whose states lie side by side and are joined."""
    arrays = {name.removeprefix("plan_"): array for name, array in lists.arrays.items()}
    extents = {name.removeprefix("plan_"): count for name, count in lists.extents.items()}
    slots = arrays["row_slot"][arrays["row_slot"] >= 0]
    assert sorted(slots.tolist()) == list(range(extents["S"]))
    joined = arrays["merge_query"].tolist()
    for place, query in enumerate(joined):
        low, high = arrays["merge_start"][place : place + 2]
        assert sorted(arrays["row_slot"][arrays["row_query"] == query]) == list(range(low, high))
    alone = set(arrays["row_query"][arrays["row_slot"] < 0].tolist())
    assert alone | set(joined) == set(range(rows)) and not alone & set(joined)
    counts = {"W": "item_low", "R": "row_limit", "G": "merge_query", "G1": "merge_start"}
    assert all(extents[name] == len(arrays[array]) for name, array in counts.items())
    many = np.flatnonzero(arrays["item_rows"] > SMALL.rows_few)
    assert set(many) <= set(range(extents["M"])) and extents["M"] <= extents["W"]


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(2, 14))
@settings(max_examples=examples(40), deadline=None)
def test_rows_that_leave_take_their_part_of_the_lists_along(seed, groups, rows):
    """Rows leave, and the last takes the place of each, as in a batch."""
    pick, lists = np.random.default_rng(seed), lists_of()
    table = pick.permutation(rows * 80).reshape(rows, 80)
    for row in range(rows):
        table[row, :12] = table[row % (groups + 1), :12]
    lengths = pick.integers(193, 700, rows)
    for _ in range(14):
        step = decode_step(lengths.tolist(), table.tolist())
        found = lists.plan(step)
        assert same_keys(found, lists_of().plan(step), 80)
        check_states(found, rows)
        leaving = pick.choice(rows, pick.integers(0, 3) if rows > 3 else 0, replace=False)
        for row in sorted(leaving.tolist(), reverse=True):
            rows -= 1
            lengths[row], table[row] = lengths[rows], table[rows]
        lengths, table = lengths[:rows] + 1, table[:rows]


def test_lists_of_a_last_row_have_no_places_of_those_that_shared_its_keys():
    lists, rows = lists_of(Shape(32, 8, 128, 64, SMALL.rows_few, 16, 64)), 64
    table = np.arange(rows * 40).reshape(rows, 40)
    table[:, :32] = table[0, :32]
    shared = lists.plan(decode_step([2100] * rows, table.tolist()))
    alone = lists.plan(decode_step([2101], table[:1].tolist()))
    assert shared.extents["plan_M"] > len(alone.arrays["plan_item_row"]) > 1
    check_states(alone, 1)
    assert alone.apart


def test_lists_are_planned_anew_some_steps_after_rows_have_left(monkeypatch):
    lists, rows, plans = lists_of(), 16, []
    table = np.arange(rows * 80).reshape(rows, 80)
    table[:, :12] = table[0, :12]
    planned = lists._planned
    monkeypatch.setattr(
        lists, "_planned", lambda *given, **how: (plans.append(how), planned(*given, **how))[1]
    )
    longer, left = 0, rows
    for longer in range(2 + AFTER_LEAVING):
        left = rows - longer
        lists.plan(decode_step([200 + longer] * left, table[:left].tolist()))
    assert plans == [{"anew": False}]
    lists.plan(decode_step([201 + longer] * left, table[:left].tolist()))
    assert plans[1:] == [{"anew": True}]


def test_lists_that_grow_say_what_lists_made_anew_say():
    shape = Shape(4, 2, 16, 16, 8, 32, 64)
    device = torch.device("cpu")
    growing = AttentionLists(shape, (0,), device, 64)
    pick = np.random.default_rng(0)
    table = pick.permutation(3 * 40).reshape(3, 40)
    table[1, :4] = table[0, :4]  # a shared prefix of 64 keys
    lengths = np.array([65, 90, 300])
    for _ in range(150):
        step = decode_step(lengths.tolist(), table.tolist())
        grown = growing.plan(step)
        anew = AttentionLists(shape, (0,), device, 64).plan(step)
        found, expected = seen_keys(grown, 40), seen_keys(anew, 40)
        for query in range(3):
            assert sorted(found[query]) == sorted(expected[query])
            assert len(found[query]) == lengths[query]  # every key once
        lengths += 1


@pytest.mark.parametrize(("prefix", "own"), [(0, 40), (256, 40), (256, 200), (0, 900)])
def test_lists_with_too_many_items_for_a_recorded_room_are_cut_anew(prefix, own):
    """Rows of many lengths, some of them ended: every key once, within what the room has."""
    shape, pick = Shape(4, 2, 16, 16, 8, 32, 64), np.random.default_rng(own)
    lists = AttentionLists(shape, (0,), torch.device("cpu"), 4096)
    table = pick.permutation(12 * 80).reshape(12, 80)
    table[:, : prefix // 16] = table[0, : prefix // 16]

    def step(rows, longer):
        lengths = prefix + own + longer - np.arange(rows) % 7
        return decode_step(lengths.tolist(), table[:rows].tolist())

    whole = lists.plan(step(12, 0))
    room, fitted = lists.room(16, whole, 4096), 0
    for rows, longer in ((12, 60), (9, 64), (5, 70), (2, 300), (1, 90)):
        wanted = step(rows, longer)
        planned = lists.plan(wanted)
        found = lists.within(wanted, planned, room)
        if found is None:
            continue
        fitted += 1
        assert room.takes(found) and found.apart >= room.apart
        assert len(found.arrays["plan_item_row"]) <= len(planned.arrays["plan_item_row"])
        seen, expected = seen_keys(found, 80), seen_keys(planned, 80)
        assert {row: sorted(keys) for row, keys in seen.items()} == {
            row: sorted(keys) for row, keys in expected.items()
        }
        after = lists.plan(decode_step((wanted.kv_lengths + 1).tolist(), table[:rows].tolist()))
        items = [len(each.arrays["plan_item_row"]) for each in (after, planned)]
        assert items[0] == items[1]  # the next step's are its own again: its room may be recorded
    assert fitted >= 3


def test_one_row_has_two_rooms_however_long_it_grows():
    """Whole, and cut: else a context that grows would be recorded again and again."""
    shape = Shape(32, 8, 128, 64, 4, 16, 64)
    lists, pages = AttentionLists(shape, (0,), torch.device("cpu"), 4096), np.arange(2048)[None]
    lengths = (1, 129, 385, 700, 1024, 4096, 9_000, 33_000, 131_000)
    planned = [lists.plan(decode_step([length], pages.tolist())) for length in lengths]
    assert len({len(each.arrays["plan_item_row"]) for each in planned}) > 3
    assert len({lists.room(1, each, 4096) for each in planned}) == 2


def test_lists_that_would_take_much_longer_cut_anew_are_left():
    lists = AttentionLists(Shape(4, 2, 16, 16, 8, 32, 64), (0,), torch.device("cpu"), 4096)
    few = lists.plan(decode_step([30] * 12, np.arange(12 * 4096).reshape(12, 4096).tolist()))
    room = lists.room(16, few, 1 << 18)
    step = decode_step([64_000], np.arange(4096)[None].tolist())
    planned = lists.plan(step)
    assert not room.takes(planned) and lists.within(step, planned, room) is None


def test_lists_are_made_anew_when_rows_change():
    shape = Shape(4, 2, 16, 16, 8, 32, 64)
    lists = AttentionLists(shape, (0,), torch.device("cpu"), 64)
    table = np.arange(80).reshape(2, 40)
    lists.plan(decode_step([70, 80], table.tolist()))
    other = table[::-1].copy()  # other pages under lengths that grew by one
    found = seen_keys(lists.plan(decode_step([71, 81], other.tolist())), 40)
    assert found[0][0] == (40, 0) and len(found[1]) == 81


def test_lists_keep_a_table_of_their_own():
    """The next step overwrites the batch's: pages that change would not be seen to."""
    lists = AttentionLists(Shape(4, 2, 16, 16, 8, 32, 64), (0,), torch.device("cpu"), 64)
    step = decode_step([490, 500], np.arange(64).reshape(2, 32).tolist())
    kept = lists.plan(step).arrays[PAGES]
    assert not np.shares_memory(kept, step.page_table.numpy())
