"""Steps of a room that has not been recorded borrow a larger one's recording for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.attention.lists import Room
from weft.runtime.devices.staging import Layout
from weft.runtime.gpu.recordings import COST, LAUNCHED, LENT, ROW, Recorded, Recordings


def room(rows: int, items: int | None = None, joined: bool = True, apart: bool = True) -> Room:
    items = items or rows
    extents = (("plan_W", items), ("plan_G", rows if joined else 0))
    return Room(rows, apart, extents, (("plan_item_row", items), ("plan_pages", 64)))


class Book(Recordings):
    def __init__(self, *rooms: Room) -> None:
        super().__init__()
        self.made: list[Room] = []
        for one in rooms:
            assert self.of(one) is None  # the first time
            assert self.of(one) == one

    def of(self, room: Room, fits: Mapping[Room, float] = {}) -> Room | None:  # noqa: B006
        def record(wanted: Room) -> Recorded:
            self.made.append(wanted)
            return Recorded(wanted, Layout.of([]), lambda: None, torch.empty(0))

        found = self.find(room, record, fits.get)
        return None if found is None else found.room


@pytest.mark.parametrize("rows", [9, 96, 120, 128])
def test_a_room_borrows_the_smallest_that_holds_it_until_that_has_cost_a_recording(rows):
    book, wanted, times = Book(room(8), room(128, items=200), room(256)), room(rows), 0
    while book.of(wanted) == room(128, items=200):
        times += 1
        book.of(room(256))  # what others do between is of no matter
    loss = LENT + ROW * (128 - rows)
    assert times * loss < COST <= (times + 1) * loss * (1 + 1e-9)
    assert book.of(wanted) == wanted and book.made[-1] == wanted


def test_a_room_that_is_kept_is_recorded_once_and_serves_the_first_step():
    book, made = Book(), []

    def record(wanted: Room) -> Recorded:
        made.append(wanted)
        return Recorded(wanted, Layout.of([]), lambda: None, torch.empty(0))

    for _ in range(2):
        book.keep(room(1, items=32), record)
    assert book.of(room(1, items=32)) == room(1, items=32) and book.made == []
    assert made == [room(1, items=32)]


def test_rooms_that_no_other_holds_are_recorded_the_second_time():
    book = Book(room(128, joined=False), room(64, apart=False))
    for one in (room(32), room(129), room(16, items=200)):
        assert book.of(one) is None  # joins, rows, items that the others have no place for
        assert book.of(one) == one
    assert len(book) == 5


def test_a_step_that_no_room_holds_but_that_fits_one_cut_anew_is_not_recorded_for_a_while():
    book = Book(room(96), room(128), room(256))
    wanted = room(90, items=300)
    assert book.of(wanted, {room(128): 0.0, room(256): 0.0}) == room(128)
    taken = [book.of(wanted, {room(128): 0.3 * COST}) for _ in range(4)]
    assert taken == [room(128), room(128), wanted, wanted]  # what cutting it anew loses counts
    assert book.of(room(91, items=300), {room(128): LAUNCHED}) is None  # so does a launched one
    assert book.of(room(200, items=300), {room(128): 0.0}) is None  # which has too few rows


@given(st.lists(st.sampled_from((1, 7, 30, 100, 128)), max_size=200))
def test_borrowing_loses_no_more_than_one_recording_for_each_room(rows):
    book, lost = Book(room(128)), dict.fromkeys(rows, 0.0)
    for count in rows:
        if book.of(room(count)) == room(128) != room(count):
            lost[count] += LENT + ROW * (128 - count)
    assert all(seconds < COST for seconds in lost.values())


@pytest.mark.parametrize("kind", [{"apart": False}, {"sparse": True}, {"attended": True},
                                  {"logits": 64}])  # fmt: skip
def test_a_room_is_not_lent_where_kernels_differ(kind):
    wide, other = room(128), replace(room(64), **kind)
    assert wide.holds(room(64)) and not wide.holds(other)
    assert not replace(wide, **kind).holds(room(64)) and replace(wide, **kind).holds(other)
    assert not replace(wide, **kind).holds(replace(other, logits=65))


def test_a_room_is_lent_to_no_other_way_of_reading_many_rows():
    wide, narrow = (replace(room(rows, apart=False), way="one") for rows in (128, 64))
    assert wide.holds(narrow) and not wide.holds(replace(narrow, way="other"))
    assert replace(wide, apart=True).holds(replace(narrow, apart=True, way="other"))


def test_a_room_of_another_kind_is_not_lent():
    assert not room(128).holds(room(64, apart=False)) and room(128).holds(room(64))
    assert room(64).holds(room(64)) and not room(64).holds(room(65))
    assert room(64).holds(room(64, joined=False)) and not room(64, joined=False).holds(room(64))
