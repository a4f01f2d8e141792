"""Steps of a room that has not been recorded borrow a larger one's recording for a while."""

from __future__ import annotations

from collections.abc import Container

import torch
from weft.runtime.lists import Room
from weft.runtime.recordings import NEAR, OFTEN, WORTH, Recorded, Recordings
from weft.runtime.staging import Layout


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

    def of(self, room: Room, fits: Container[Room] = ()) -> Room | None:
        def record(wanted: Room) -> Recorded:
            self.made.append(wanted)
            return Recorded(wanted, Layout.of([]), lambda: None, torch.empty(0))

        found = self.find(room, record, fits.__contains__)
        return None if found is None else found.room


def test_a_room_borrows_the_smallest_that_holds_it_until_it_is_worth_its_own():
    book = Book(room(8), room(128), room(256))
    taken = [book.of(room(96)) for _ in range(WORTH + 1)]
    assert taken == [room(128)] * (WORTH - 1) + [room(96)] * 2


def test_steps_far_from_one_another_are_worth_a_recording_only_if_many():
    book = Book(room(128))
    for times in range(1, OFTEN + 1):
        assert book.of(room(96)) == (room(128) if times < OFTEN else room(96))
        for _ in range(NEAR):
            assert book.of(room(128)) == room(128)
    assert book.made == [room(128), room(96)] and OFTEN > WORTH


def test_rooms_that_no_other_holds_are_recorded_the_second_time():
    book = Book(room(128, joined=False), room(64, apart=False))
    for one in (room(32), room(129), room(16, items=200)):
        assert book.of(one) is None  # joins, rows, items that the others have no place for
        assert book.of(one) == one
    assert len(book) == 5


def test_a_step_that_no_room_holds_but_that_fits_one_cut_anew_is_not_recorded_for_a_while():
    book = Book(room(96), room(128), room(256))
    wanted = room(90, items=300)
    assert book.of(wanted, {room(128), room(256)}) == room(128)  # neither launched nor recorded
    taken = [book.of(wanted, {room(128)}) for _ in range(WORTH - 1)]
    assert taken == [room(128)] * (WORTH - 2) + [wanted]
    assert book.of(room(200, items=300), {room(128)}) is None  # which has too few rows


def test_a_room_of_another_kind_is_not_lent():
    assert not room(128).holds(room(64, apart=False)) and room(128).holds(room(64))
    assert room(64).holds(room(64)) and not room(64).holds(room(65))
    assert room(64).holds(room(64, joined=False)) and not room(64, joined=False).holds(room(64))
