"""Tiles of prompts hold each row of the sequences that they take once, and the others none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.attention.lists import AttentionLists
from weft.runtime.attention.plan import Batch, Rates, Shape, Way, flat, plan, plan_among
from weft.runtime.attention.prompt_tiles import ALONE, long_tiles, prompt_tiles
from weft.runtime.attention.ways import RATES
from weft.runtime.execution.step import StepInput

SHAPE = Shape(32, 8, 128, 64, 4, 16, 64)
sequences = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 100)), max_size=8)


def batch(sequences: list[tuple[int, int]]) -> Batch:
    """Return sequences of new and of cached tokens."""
    counts, cached = np.array(sequences, np.int64).reshape(-1, 2).T
    lengths = counts + np.where(counts > 0, cached, 0)
    columns = max(1, -(-int(lengths.max(initial=1)) // SHAPE.page))
    table = np.arange(len(counts) * columns, dtype=np.int32).reshape(-1, columns)
    return Batch(table, lengths, np.concatenate([[0], np.cumsum(counts)]))


@given(sequences)
def test_each_row_stands_in_one_tile_with_the_keys_that_it_sees(
    sequences: list[tuple[int, int]],
) -> None:
    of = batch(sequences)
    tiles = prompt_tiles(of, SHAPE)
    counts, columns = np.diff(of.starts), of.table.shape[1]
    assert (tiles.taken == (counts >= SHAPE.rows_many)).all()
    seen = np.zeros(int(of.starts[-1]), int)
    for first, rows, page, limit in zip(
        tiles.query, tiles.rows, tiles.page, tiles.limit, strict=True
    ):
        sequence, rest = divmod(int(page), columns)
        assert 1 <= rows <= SHAPE.rows_many and rest == 0
        assert of.starts[sequence] <= first and first + rows <= of.starts[sequence + 1]
        seen[first : first + rows] += 1
        left = of.starts[sequence + 1] - first
        assert limit == of.lengths[sequence] - left + 1
    assert (seen == np.repeat(tiles.taken, counts)).all()


@given(sequences)
def test_what_is_left_is_planned_without_them(sequences: list[tuple[int, int]]) -> None:
    of = batch(sequences)
    tiles = prompt_tiles(of, SHAPE)
    work = plan(tiles.without(of), SHAPE, RATES["large"])
    query, start = tiles.others(work.merge_query, work.merge_start, of.starts)
    owner = np.repeat(tiles.taken, np.diff(of.starts))
    finished = set(work.row_query[work.row_slot < 0].tolist()) | set(query.tolist())
    assert finished == set(np.flatnonzero(~owner).tolist())
    assert start[-1] == work.slots and len(start) == len(query) + 1
    assert not owner[work.row_query].any()


def test_tiles_end_where_blocks_of_keys_do() -> None:
    tiles = prompt_tiles(batch([(511, 1)]), SHAPE)
    assert len(tiles.query) == 32 and ((tiles.limit + tiles.rows - 1) % 16 == 0).all()
    assert (np.diff(tiles.limit) < 0).all()  # longer ones first
    more = prompt_tiles(batch([(512, 1)]), SHAPE)
    assert len(more.query) == 32  # no tile more for that


def test_longer_sequences_come_first_and_their_tiles_stand_together() -> None:
    of = batch([(32, 0), (48, 40), (64, 16), (32, 48)])
    owners = (prompt_tiles(of, SHAPE).page // of.table.shape[1]).tolist()
    assert owners == [1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0]


def test_a_long_run_of_few_rows_is_left_to_be_cut() -> None:
    assert not prompt_tiles(batch([(64, 8000)]), SHAPE).taken.any()
    assert prompt_tiles(batch([(64, ALONE - 64)]), SHAPE).taken.all()
    assert prompt_tiles(batch([(64, 8000)] * 64), SHAPE).taken.all()
    assert len(flat(batch([(64, 8000)]), SHAPE)) == 1


def test_tiles_of_long_prompts_have_twice_the_rows_where_their_keys_are_many() -> None:
    """And where none of these would keep the device waiting."""
    long = long_tiles(batch([(4096, 0), (1, 9000), (31, 9000)]), SHAPE)
    assert long is not None and long.taken.tolist() == [True, False, False]
    assert (long.rows == 32).all() and len(long.query) == 128
    assert long_tiles(batch([(1536, 0)] * 2), SHAPE) is not None
    for few in ([(1534, 0)] * 2, [(2048, 8192)], [(1536, 0), (544, 0)], [(31, 9000)] * 80, []):
        assert long_tiles(batch(few), SHAPE) is None, few
    one_head, alone = replace(SHAPE, heads=4, kv_heads=1), batch([(4096, 0)])
    assert long_tiles(alone, one_head) is None
    assert long_tiles(batch([(4096, 0)] * 2), one_head) is not None


def test_of_long_tiles_half_as_many_run_at_a_time() -> None:
    """Of one key head: what runs while the longest does must be as long, on 132 processors."""
    one_head = replace(SHAPE, heads=4, kv_heads=1)
    long = long_tiles(batch([(8192, 0)]), one_head)
    assert long is not None and long.taken.all() and len(long.query) == 256


def test_no_sequences() -> None:
    tiles = prompt_tiles(batch([]), SHAPE)
    assert not len(tiles.query) and not len(tiles.taken)
    assert torch.from_numpy(tiles.query).dtype == torch.int32


def test_a_step_of_decode_rows_and_prompts_has_lists_of_both() -> None:
    device, columns = torch.device("cpu"), 32
    counts, lengths = [1, 40, 3, 100], [600, 300, 3, 100]
    starts = torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32)
    zeros = torch.zeros(sum(counts), dtype=torch.int32)
    table = torch.arange(4 * columns, dtype=torch.int32).view(4, columns)
    step = StepInput(zeros, zeros, zeros, starts, torch.tensor(lengths, dtype=torch.int32), table,
                     torch.tensor([0], dtype=torch.int32))  # fmt: skip
    of = Batch(table.numpy(), np.array(lengths), starts.numpy().astype(np.int64))
    way = Way("", SHAPE, Rates())
    with_tiles, without = (AttentionLists(SHAPE, (0,), device, 4096, prompts=prompts).plan(step)
                           for prompts in (True, False))  # fmt: skip
    assert (with_tiles.seconds, without.seconds) == tuple(  # prompts ask for the quick choice
        plan_among(batch, [way], beside=beside)[1].seconds
        for batch, beside in ((prompt_tiles(of, SHAPE).without(of), True), (of, False))
    )
    assert with_tiles.extents["plan_P"] == 3 + 7 and "plan_P" not in without.extents
    rows = {name: set(lists.arrays["plan_row_query"].tolist())
            for name, lists in (("with", with_tiles), ("without", without))}  # fmt: skip
    assert rows["without"] == set(range(144)) and rows["with"] == {0, 41, 42, 43}
    views = {name: torch.from_numpy(array) for name, array in without.arrays.items()}
    lists = AttentionLists(SHAPE, (0,), device, 4096, prompts=True)
    bound = lists.bind(views, without.extents)
    assert bound["plan_P"] == 0 and not len(bound["plan_prompt_query"])  # type: ignore[arg-type]
    views = {name: torch.from_numpy(array) for name, array in with_tiles.arrays.items()}
    bound = lists.bind(views, with_tiles.extents)
    assert bound["plan_prompt_rows"].tolist()[:3] == [12, 16, 12]  # type: ignore[union-attr]
