"""What is recorded when a model is loaded holds the first steps of batches of many kinds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from weft.compiler.attention_ways import attention_ways, planner_shape
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.ways import tuned
from weft.runtime.attention.lists import AttentionLists, Fitting, Room
from weft.runtime.attention.ways import GROUPED, UNGROUPED
from weft.runtime.devices.staging import Layout
from weft.runtime.execution.slot_copies import COPIED
from weft.runtime.execution.step import StepInput, decode_step
from weft.runtime.gpu.first_steps import PROMPTS, SHORT, first_prompts, first_steps
from weft.runtime.gpu.prompt_rooms import LENT_FOR, RECORDED, PromptRooms
from weft.runtime.gpu.recordings import LAUNCHED, Recorded, Recordings
from weft.runtime.gpu.token_counts import bucket_sizes, token_counts

PAGE, CONTEXT, BATCH, SLOTS, ENTRIES = 64, 8192, 256, 16384, 1 << 18
PARTS = Parts(32, 8, 128, page=PAGE)
SHAPE = planner_shape(tuned(PARTS, shared=True))
SIZES = bucket_sizes(BATCH)
LISTS = AttentionLists(SHAPE, (0,), torch.device("meta"), SLOTS, ways=[*attention_ways(PARTS)],
                       prompts=True, grouped=True)  # fmt: skip


def room_of(step: StepInput) -> tuple[Room, Fitting]:
    """Return a decode step's room, and its lists, which may be cut so that they fit another."""
    lists, rows = LISTS.plan(step), len(step.tokens)
    size = next(size for size in SIZES if size >= rows)
    return LISTS.room(size, lists, ENTRIES), Fitting(LISTS, step, lists)


@cache
def rooms(most: int) -> list[Room]:
    """Return the rooms of first steps of up to so many rows."""
    return [room_of(step)[0] for step in first_steps(PAGE, CONTEXT, most)]


def recorded(most: int) -> Recordings:
    """Return their recordings."""
    found = Recordings()
    for room in rooms(most):
        found.keep(room, _recording)
    return found


def _recording(room: Room) -> Recorded:
    return Recorded(room, Layout.of([]), lambda: None, torch.empty(0))


def trees(rows: int, groups: int, shared: int, length: int) -> StepInput:
    """Return a decode step of rows in groups, of which each shares pages of its own."""
    step = decode_step(rows // groups, length, PAGE, shared)
    pages = int(step.page_table.max()) + 1
    table = torch.cat([step.page_table + group * pages for group in range(groups)])
    whole = decode_step(rows, length, PAGE)
    return replace(whole, page_table=table.contiguous())


@pytest.mark.parametrize(
    "step",
    [decode_step(128, 2112, PAGE, 2048), trees(128, 8, 1024, 1057), trees(64, 4, 1024, 1120),
     decode_step(74, 2130, PAGE, 2048), decode_step(128, 513, PAGE), decode_step(100, 40, PAGE),
     decode_step(17, 1500, PAGE), decode_step(3, 5000, PAGE)],
)  # fmt: skip
def test_the_first_step_of_a_batch_is_replayed_where_singles_alone_would_have_it_launched(step):
    room, fitting = room_of(step)
    assert recorded(1).find(room, _recording, fitting.into) is None
    found = recorded(BATCH)
    rows = len(step.tokens)
    borrowed = found.find(room, _recording, fitting.into)
    assert borrowed is not None and rows <= borrowed.room.rows < max(2 * rows, rows + 32)
    assert found._lost.get(room, 0.0) < LAUNCHED / 4


def test_rows_that_share_and_rows_that_do_not_are_recorded_as_they_come():
    found = recorded(BATCH)
    for step in (decode_step(128, 2176, PAGE, 2048), decode_step(64, 900, PAGE)):
        room, fitting = room_of(step)
        assert found.find(room, _recording, fitting.into).room == room


def test_rows_that_are_left_are_replayed_whatever_their_number():
    """Those of 128 behind shared keys, with what reads their own keys for several of them, or with
    what reads them one by one where less than a tile's worth of rows share some."""
    found, all_rows, ways = recorded(BATCH), decode_step(128, 2113, PAGE, 2048), set()
    for left in (48, 64, 65, 66, 68, 69, 96, 116, 127):
        assert LISTS.plan(all_rows).way == GROUPED
        step = decode_step(left, 2114, PAGE, 2048)
        room, _ = room_of(replace(step, page_table=all_rows.page_table[-left:].contiguous()))
        ways.add(room.way)
        assert found.find(room, _recording) is not None  # as it is, cut in no other way
    assert ways == {GROUPED, UNGROUPED}


ROOMS = PromptRooms(SHAPE, token_counts(16384), 2048, SLOTS, ENTRIES, copies=True)


def prompt_room(step: StepInput) -> Room:
    """Return the room of a step of prompts that copies no slots."""
    lists = LISTS.plan(step)
    copied = {name: torch.zeros(0, dtype=torch.int32).numpy() for name in COPIED}
    room = ROOMS.of(step, replace(lists, arrays={**copied, **lists.arrays}))
    assert room is not None
    return room


def test_prompts_are_recorded_with_them():
    for most, sizes in ((16384, [*PROMPTS]), (1600, [*PROMPTS[1:]]), (64, [SHORT])):
        steps = [*first_prompts(PAGE, most)]
        assert [room.rows for room in map(prompt_room, steps) if room.logits] == sizes
        assert [step.logits_rows.tolist() for step in steps] == [[0]] * len(sizes)
    (short,) = first_prompts(PAGE, 16)  # no step has more tokens
    assert len(short.tokens) == 16


@pytest.mark.parametrize(("rows", "each"), [(1, 1024), (1, 2048), (32, 64), (3, 512), (16, 96)])
def test_what_a_run_begins_with_finds_the_recording_of_a_prompt(rows: int, each: int) -> None:
    """A stem, W2's common part, branches behind two stems, prompts of W1, and shorter ones."""
    found, size = Recordings(most=RECORDED, lent=LENT_FOR), rows * each
    for step in first_prompts(PAGE, 16384):
        found.keep(prompt_room(step), _recording)
    step = decode_step(rows, each, PAGE)
    tokens = torch.zeros(size, dtype=torch.int32)
    starts = torch.arange(rows + 1, dtype=torch.int32) * each
    step = replace(step, tokens=tokens, positions=tokens, slots=tokens, query_starts=starts)
    known = found.find(prompt_room(step), _recording)
    assert known is not None and known.room.rows == size and len(found) == len(PROMPTS)
