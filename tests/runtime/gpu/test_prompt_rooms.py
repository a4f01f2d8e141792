"""Recorded steps of prompts: few rooms hold most steps, and lend one another what costs little."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed
from weft.runtime.attention.grown_lists import PAGES, Lists
from weft.runtime.attention.lists import PROMPTS, AttentionLists, Room
from weft.runtime.attention.plan import Shape
from weft.runtime.devices.graphs import CudaGraphs
from weft.runtime.devices.staging import Layout
from weft.runtime.execution.slot_copies import COPIED
from weft.runtime.execution.step import StepInput
from weft.runtime.gpu.prompt_rooms import (
    BESIDE,
    COPIES,
    FEW,
    LENT_FOR,
    LISTED,
    LOGITS,
    RECORDED,
    TOKENS,
    PromptRooms,
)
from weft.runtime.gpu.recordings import LAUNCHED, LENT, LOGIT, ROW, Recorded, Recordings
from weft.runtime.gpu.token_counts import token_counts
from weft.runtime.schedule.whole_blocks import BLOCK

SHAPE = Shape(32, 8, 128, 64, 4, 16, 64)
SLOTS, ENTRIES = 4096, 1 << 18
COUNTS = token_counts(16384)
ROOMS = PromptRooms(SHAPE, COUNTS, 2048, SLOTS, ENTRIES, copies=True)
LISTS = AttentionLists(SHAPE, (0,), torch.device("meta"), SLOTS, prompts=True)


def step(sequences: list[tuple[int, int]], logits: int = 1) -> StepInput:
    """Return a step of sequences of new tokens and of cached ones, whose pages are their own."""
    counts, cached = np.array(sequences, np.int32).reshape(-1, 2).T
    starts = np.concatenate([[0], np.cumsum(counts)])
    columns = -(-int((counts + cached).max()) // SHAPE.page)
    table = np.arange(len(counts) * columns).reshape(len(counts), columns)
    zeros = np.zeros(starts[-1])
    arrays = (zeros, zeros, zeros, starts, counts + cached, table, np.zeros(logits))
    return StepInput(*(torch.tensor(np.array(array, np.int32)) for array in arrays))


def listed(of: StepInput, copies: int = 0) -> Lists:
    """Return a step's lists, and those of so many copies."""
    lists = LISTS.plan(of)
    copied = {name: np.zeros(copies, np.int32) for name in COPIED}
    return Lists({**copied, **lists.arrays}, lists.extents, lists.apart, way=lists.way)


sequences = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 300)), min_size=1, max_size=40
).filter(lambda found: any(count > 1 for count, _ in found))


@given(sequences, st.integers(1, 2048), st.integers(0, COPIES[-1]))
def test_a_step_finds_a_room_with_places_for_all_that_it_has(found, logits, copies):
    of = step(found, logits)
    lists, tokens = listed(of, copies), len(of.tokens)
    room = ROOMS.of(of, lists)
    if tokens > TOKENS:
        assert room is None
        return
    assert room is not None and room.takes(lists)
    assert tokens <= room.rows < tokens + BLOCK and logits <= room.logits
    assert room.rows % BLOCK == 0 or tokens <= FEW[-1]
    assert room.sizes[-1] == (PAGES, ENTRIES)  # of which only what there is is sent
    sizes = dict(room.sizes)
    assert all(sizes[name] >= copies for name in COPIED)
    assert all(sizes[f"plan_{name}"] == 2 * room.rows // SHAPE.rows_many for name in PROMPTS)


def test_a_room_takes_no_lists_that_are_longer_in_one_place():
    of = step([(40, 3)])
    lists = listed(of)
    room = ROOMS.of(of, lists)
    assert room is not None and room.takes(lists)
    have = dict((*room.extents, *room.sizes))
    for name in lists.extents:
        assert not room.takes(replace(lists, extents={**lists.extents, name: have[name] + 1}))
    for name, _ in lists.sizes():
        longer = np.zeros(have[name] + 1, np.int32)
        assert not room.takes(replace(lists, arrays={**lists.arrays, name: longer}))


def test_what_stands_behind_a_steps_own_does_nothing():
    of = step([(40, 3), (1, 70)])
    room = ROOMS.of(of, listed(of))
    assert room is not None
    one = np.ones(1, np.int32)
    for name in ("slots", "source", *COPIED, "plan_row_slot", "plan_merge_query"):
        assert room.filling(name, one) == -1
    for name in ("plan_item_rows", "plan_prompt_rows", "plan_prompt_limit"):
        assert room.filling(name, one) == 0


def test_what_is_too_much_is_launched():
    assert ROOMS.of(step([(TOKENS, 0)]), listed(step([(TOKENS, 0)]))) is not None
    long = step([(TOKENS + 1, 0)])
    assert ROOMS.of(long, listed(long)) is None
    of = step([(40, 0)])
    assert ROOMS.of(of, listed(of, COPIES[-1] + 1)) is None
    assert ROOMS.of(of, LISTS.plan(of, recorded=True)) is None  # it has no tiles of prompts
    many = step([(2, 0)] * (LISTED[-1]["W"] + 1))
    assert ROOMS.of(many, listed(many)) is None
    without = PromptRooms(SHAPE, (), 2048, SLOTS, ENTRIES, copies=True)
    assert without.of(of, listed(of)) is None


def test_steps_with_few_items_and_with_many_have_rooms_of_their_own():
    few, many = step([(400, 0)]), step([(2, 0)] * 200)
    rooms = [ROOMS.of(of, listed(of)) for of in (few, many)]
    assert [dict(room.extents)["plan_W"] for room in rooms if room] == [64, 512]
    assert [dict(room.extents)["plan_R"] - room.rows for room in rooms if room] == [BESIDE] * 2


class Book(Recordings):
    """Recordings that note which rooms were made."""

    def of(self, room: Room) -> Room | None:
        """Return the room whose recording a step of another takes."""
        found = self.find(
            room, lambda wanted: Recorded(wanted, Layout.of([]), lambda: None, torch.empty(0))
        )
        return None if found is None else found.room


def room(tokens: int, logits: int = LOGITS[0]) -> Room:
    of = step([(tokens, 0)], logits)
    found = ROOMS.of(of, listed(of))
    assert found is not None
    return found


def test_a_step_borrows_no_recording_that_takes_longer_than_its_launches():
    book = Book()
    assert book.of(room(1024)) is None and book.of(room(1024)) == room(1024)
    most = int((LAUNCHED - LENT) / ROW) // BLOCK * BLOCK
    assert book.of(room(1024 - most)) == room(1024)
    assert book.of(room(1024 - most - BLOCK)) is None
    assert Book().of(room(1024, 1024)) is None
    book = Book()
    for _ in range(2):
        book.of(room(1024, LOGITS[2]))
    rows = int((LAUNCHED - LENT - LOGIT * (LOGITS[2] - LOGITS[0])) / ROW) // BLOCK * BLOCK
    assert book.of(room(1024 - rows)) == room(1024, LOGITS[2])
    assert book.of(room(1024 - rows - BLOCK)) is None


def test_of_prompts_what_is_within_a_block_is_lent():
    book = Book(lent=LENT_FOR)
    assert book.of(room(1024)) is None and book.of(room(1000)) == room(1024)
    assert book.of(room(897)) == room(1024)
    assert book.of(room(896)) is None


@pytest.mark.parametrize(("logits", "copies"), [(1, COPIES[0]), (256, COPIES[-1])])
def test_what_is_recorded_at_first_is_lent_to_most_steps(logits, copies):
    book = Book(most=RECORDED, lent=LENT_FOR)
    for wanted in ROOMS.generous():
        book.keep(wanted, lambda kept: Recorded(kept, Layout.of([]), lambda: None, torch.empty(0)))
    count = len(book)
    for tokens in (2048, 1921, 1100, 300, 180, 65, 40, 9):
        for found in ([(tokens, 0)], [(1, 70)] * 3 + [(tokens - 3, 9)]):
            of = step(found, min(tokens, logits))
            wanted = ROOMS.of(of, listed(of, copies))
            taken = book.of(wanted) if wanted is not None else None
            assert taken is not None and taken.rows < tokens + BLOCK
            assert taken == wanted or logits > 1  # what few rows have is their own
    assert len(book) == count == 2 * len({kept.rows for kept in ROOMS.generous()})
    few = PromptRooms(SHAPE, token_counts(40), 4, SLOTS, ENTRIES, copies=False)
    assert [(kept.rows, kept.logits) for kept in few.generous()] == [(40, 4)] * 2 + [(32, 4)] * 2
    without = PromptRooms(SHAPE, (), 2048, SLOTS, ENTRIES, copies=True)
    assert not [*without.generous()]


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_are_recorded_than_are_wanted(most):
    book = Book(most=most)
    for _ in range(4):
        for tokens in (2048, 1536, 1024, 512):
            book.of(room(tokens))
    assert len(book) == most


def test_a_step_of_decoding_is_not_lent_a_step_of_prompts():
    prompts = room(64)
    decode = Room(32, False, prompts.extents, prompts.sizes)
    assert prompts.holds(prompts) and not prompts.holds(decode)
    wide = Room(64, False, prompts.extents, prompts.sizes)
    assert wide.holds(decode) and not wide.holds(room(32))


@pytest.mark.parametrize("ranks", [False, True])
def test_prompts_run_before_their_first_capture_in_a_thread_and_of_ranks_before_each(
    ranks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one rank ran without the others would wait for them: it exchanges."""
    known: list[bool] = []
    graphs: Any = CudaGraphs.__new__(CudaGraphs)
    graphs._prompts_in = set()
    graphs._captured = lambda run, is_known: known.append(is_known)
    monkeypatch.setattr(distributed, "is_initialized", lambda: ranks)
    other = threading.Thread(target=graphs.record, args=(None, True))
    for _ in range(2):
        graphs.record(None, True)
    other.start()
    other.join()
    assert known == ([False] * 3 if ranks else [False, True, False])
