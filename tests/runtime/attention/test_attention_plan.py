"""The planner of attention: whatever it decides, every query meets every key it sees once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.bench.gpu_kernels import Bench, Sequences
from weft.codegen import build_cuda
from weft.codegen.measure import gpu
from weft.compiler.attention_ways import attention_ways
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.ways import LARGE_SPECIALISED, LARGEST
from weft.runtime.attention import plan as attention_plan
from weft.runtime.attention import sharing
from weft.runtime.attention.cost import Cost
from weft.runtime.attention.plan import (
    Batch,
    Rates,
    Shape,
    SinglePlans,
    Way,
    WorkList,
    choose_runs,
    cut,
    plan,
    plan_among,
    predict,
)
from weft.runtime.attention.sharing import shared_pages
from weft.runtime.attention.ways import RATES, USUAL_WARPS
from weft.tests.each_time import each_time, examples

SHAPE = Shape(heads=8, kv_heads=2, head_dim=16, page=4, rows_few=2, rows_many=4, granule=8)
LLAMA = Shape(heads=32, kv_heads=8, head_dim=128, page=16, rows_few=4, rows_many=16, granule=64)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Sequences that share random runs of pages, as forks of forks do."""
    counter = iter(range(1, 10_000))
    rows: list[list[int]] = [[]]
    for _ in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from(rows))
        kept = parent[: draw(st.integers(0, len(parent)))]
        rows.append(kept + [next(counter) for _ in range(draw(st.integers(0, 9)))])
    lengths = [max(0, 4 * len(row) - draw(st.integers(0, 3))) for row in rows]
    counts = [draw(st.integers(0, min(5, length))) for length in lengths]
    most = max(map(len, rows)) + 1
    table = np.array([row + [0] * (most - len(row)) for row in rows], np.int32)
    return Batch(table, np.array(lengths), np.cumsum([0, *counts]))


def met(work: WorkList, batch: Batch) -> tuple[Counter, set[int]]:
    """Return how often each (query, page, offset) is attended, and the queries finished alone."""
    found: Counter = Counter()
    flat = batch.table.ravel()
    for item, (first, count) in enumerate(zip(work.item_row, work.item_rows, strict=True)):
        assert 0 < count <= SHAPE.rows_many and work.item_low[item] % SHAPE.granule == 0
        for row in range(first, first + count):
            limit = min(work.item_high[item], work.row_limit[row])
            for key in range(work.item_low[item], limit):
                page = flat[work.item_page[item] + key // SHAPE.page]
                found[int(work.row_query[row]), int(page), key % SHAPE.page] += 1
    alone = work.row_query[work.row_slot < 0].tolist()
    assert len(alone) == len(set(alone))
    return found, set(alone)


def sees_everything_once(work: WorkList, batch: Batch) -> None:
    wanted: Counter = Counter()
    for sequence, length in enumerate(batch.lengths):
        first, last = batch.starts[sequence : sequence + 2]
        for query in range(first, last):
            for key in range(length - (last - 1 - query)):
                wanted[int(query), int(batch.table[sequence][key // 4]), key % 4] += 1
    found, alone = met(work, batch)
    assert found == wanted
    slots = work.row_slot[work.row_slot >= 0]
    assert sorted(slots.tolist()) == list(range(work.slots)) and work.merge_start[-1] == work.slots
    assert alone | set(work.merge_query.tolist()) == set(range(int(batch.starts[-1])))
    for place, query in enumerate(work.merge_query):
        low, high = work.merge_start[place : place + 2]
        assert (work.row_query[np.isin(work.row_slot, range(low, high))] == query).all()


@settings(max_examples=examples(150), deadline=None)
@given(batches(), st.sampled_from([True, False, None, "beside"]), st.sampled_from([0, 8, 24]))
def test_every_query_meets_what_it_sees_once(
    batch: Batch, cascade: bool | str | None, chunk: int
) -> None:
    way, beside = Way("", SHAPE, Rates(resident=6)), cascade == "beside"
    how = None if isinstance(cascade, str) else cascade
    work = plan_among(batch, [way], cascade=how, chunk=chunk, beside=beside)[1]
    sees_everything_once(work, batch)


def forks(count: int, prefix: int, own: int) -> Batch:
    shared, apart = prefix // 16, -(-own // 16)
    table = np.zeros((count, shared + apart + 1), np.int32)
    table[:, :shared] = np.arange(shared)
    table[:, shared : shared + apart] = shared + np.arange(count * apart).reshape(count, apart)
    return Batch.decode(table, np.full(count, prefix + own))


def test_a_long_shared_prefix_is_read_once_and_a_short_one_by_each() -> None:
    long = choose_runs(forks(64, 16384, 64), LLAMA, Rates())
    assert sorted(len(run.members) for run in long)[-1] == 64
    short = choose_runs(forks(2, 32, 2048), LLAMA, Rates())
    assert all(len(run.members) == 1 for run in short)


def test_the_choice_is_the_cheaper_of_both_as_predicted() -> None:
    for count, prefix in ((2, 64), (4, 1024), (16, 256), (64, 4096)):
        batch = forks(count, prefix, 256)
        times = [plan(batch, LLAMA, Rates(), cascade=way).seconds for way in (True, False, None)]
        assert times[2] <= min(times[:2]) * 1.0501


def test_beside_prompts_roofs_alone_choose_nearly_as_well() -> None:
    ways = [Way("", LLAMA, Rates())]
    for count, prefix in ((2, 64), (4, 1024), (16, 256), (64, 4096), (8, 0), (3, 16384)):
        batch = forks(count, prefix, 256)
        quick, best = (plan_among(batch, ways, beside=beside)[1] for beside in (True, False))
        assert quick.seconds <= best.seconds + 2e-6  # of a layer that takes 600 us or more
    nested = np.array([[0, *range(1, 40), *range(40 * row, 40 * row + 20)] for row in range(1, 9)])
    batch = Batch.decode(nested, np.full(8, 60 * 16))
    runs = plan_among(batch, ways, beside=True)[1].runs
    assert max(len(run.members) for run in runs) == 8


def test_nested_forks_share_at_every_level() -> None:
    table = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 7], [8, 9, 0, 0]])
    (root,) = shared_pages(table, np.array([4, 4, 4, 2]))
    assert (root.members, root.first, root.last) == ((0, 1, 2), 0, 2)
    assert [(child.members, child.first, child.last) for child in root.children] == [((0, 1), 2, 3)]


def grouped(table: np.ndarray, pages: np.ndarray, rows: list[int], first: int) -> list[tuple]:
    """Return the groups of rows by what a group is: page for page, as long as all have the same."""
    found = []
    rows = [row for row in rows if pages[row] > first]
    for page in sorted({int(table[row, first]) for row in rows}):
        members = [row for row in rows if table[row, first] == page]
        if len(members) < 2:
            continue
        last = first + 1
        while all(pages[row] > last for row in members) and len(set(table[members, last])) == 1:
            last += 1
        inner = grouped(table, pages, members, last)
        alone = [row for row in members if not any(row in group[0] for group in inner)]
        found.append((members, first, last, inner, alone))
    return found


def as_lists(nodes: tuple[sharing.Node, ...]) -> list[tuple]:
    return [(list(n.members), n.first, n.last, as_lists(n.children), list(n.alone)) for n in nodes]


@settings(max_examples=examples(100), deadline=None)
@given(batches(), st.data())
def test_what_is_shared_is_the_same_page_for_page(batch: Batch, data: st.DataObject) -> None:
    """Also where rows have fewer pages than the table has entries, and where one has none."""
    most = batch.table.shape[1]
    pages = np.array([data.draw(st.integers(0, most)) for _ in batch.lengths])
    wanted = grouped(batch.table, pages, list(range(len(pages))), 0)
    assert as_lists(shared_pages(batch.table, pages)) == wanted


def test_forks_of_forks_are_looked_at_once_for_each_place_where_they_may_begin() -> None:
    depth = 24  # each level twice as often as the one above it would be 2^24 looks
    table = np.zeros((depth, depth + 1), np.int64)
    for row in range(depth):
        table[row, : row + 1] = range(1, row + 2)
        table[row, row + 1 :] = range(100 * (row + 1), 100 * (row + 1) + depth - row)
    batch = Batch.decode(table, np.full(depth, LLAMA.page * (depth + 1)))
    looks = 0
    plain = sharing.Chooser._found_below

    def counted(self, node, start):
        nonlocal looks
        looks += 1
        return plain(self, node, start)

    with patch.object(sharing.Chooser, "_found_below", counted):
        (longest, *_) = plan_among(batch, [Way("", LLAMA, Rates())], cascade=None)[1].runs
    assert longest.keys and depth < looks <= 2 * depth * depth


@pytest.mark.parametrize("chunk", [64, 256, 4096])
def test_more_keys_take_longer(chunk: int) -> None:
    times = []
    for own in (512, 4096, 32768):
        batch = forks(8, 0, own)
        times.append(predict(batch, choose_runs(batch, LLAMA, Rates()), LLAMA, Rates(), chunk))
    assert times == sorted(times)


@pytest.mark.parametrize("queries", each_time([1, 3, 40], 1, 40))
def test_a_single_sequence_is_planned_for_its_whole_last_block_and_once_for_all_its_lengths(
    queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut stays as short as the blocks while a row grows, and no length is priced twice;
    nor is that of a prompt's end of so many tokens."""
    table, asked = np.arange(96)[None], []
    real = attention_plan._least
    monkeypatch.setattr(attention_plan, "_least", lambda *given: asked.append(1) or real(*given))
    plans, ways = SinglePlans(), [Way("", SHAPE, Rates()), Way("other", SHAPE, Rates(item=1.0))]
    lengths, starts = range(queries, 330), np.array([0, queries])
    for length in [*lengths, *lengths]:
        way, work = plans.plan(Batch(table, np.array([length]), starts), ways)
        whole = np.array([-(-length // SHAPE.granule) * SHAPE.granule])
        _, wanted = plan_among(Batch(table, whole, starts), ways, cascade=False)
        assert way.name == "" and work.seconds == pytest.approx(wanted.seconds)
        assert sorted(work.item_high)[-1] == length
        seen = wanted.item_low < length  # queries further back see less
        if queries == 1:
            assert work.item_low.tolist() == wanted.item_low[seen].tolist()
        chunk = (wanted.item_high - wanted.item_low).max()
        assert (work.item_high - work.item_low).max() <= chunk
    # of plan_among here, and of the plans
    assert (
        len(asked) == 2 * len(lengths) + -(-329 // SHAPE.granule) - (queries - 1) // SHAPE.granule
    )


def test_a_row_whose_last_block_ends_behind_the_table_is_planned() -> None:
    wide = replace(SHAPE, granule=4 * SHAPE.page)
    _, work = SinglePlans().plan(
        Batch.decode(np.arange(2)[None], np.array([5])), [Way("", wide, Rates())]
    )
    assert work.item_high.tolist() == [5]


def test_a_run_may_be_cut_into_all_of_its_blocks() -> None:
    """The last block of which is short, too."""
    cheap = Rates(join=0.0, slot=0.0, item=0.0, program=1e8)
    batch = Batch.decode(np.arange(64)[None], np.array([4 * SHAPE.granule + 1]))
    assert len(plan(batch, SHAPE, cheap).item_low) == 5


def test_items_of_many_rows_stand_first_and_fill_the_device_once() -> None:
    rates = Rates()
    for count, prefix in ((64, 2048), (128, 4096), (16, 8192)):
        work = plan(forks(count, prefix, 100), LLAMA, rates, cascade=True)
        large = work.item_rows > LLAMA.rows_few
        assert large.any() and not large.all() and not (np.diff(large.astype(int)) > 0).any()
        assert large.sum() * LLAMA.kv_heads <= rates.resident_many
        keys = work.item_high - work.item_low
        assert (keys[~large] == 100).all() and keys[large].max() < prefix


def test_what_is_chosen_takes_least_of_all_ways_to_cut() -> None:
    for count, prefix, own in ((16, 2048, 512), (4, 0, 9000), (48, 512, 64)):
        batch = forks(count, prefix, own)
        cost = Cost(batch, choose_runs(batch, LLAMA, Rates(), True), LLAMA, Rates())
        seconds, sizes = cost.least()
        assert len(sizes) == len(cost.runs)
        assert all(seconds <= cost.seconds(size) for size in set(sizes.tolist()))


def test_two_launches_side_by_side_take_less_than_in_turn_and_more_than_one() -> None:
    batch = forks(64, 4096, 512)
    cost = Cost(batch, choose_runs(batch, LLAMA, Rates(), True), LLAMA, Rates())
    few, many = (float(sum(launch.seconds(np.array([512])))[0]) for launch in cost.launches)
    both = cost.seconds(512)
    assert max(few, many) < both and min(few, many) > 0
    states = cost.launches[1].joined(np.array([512]))[0][0] + 64
    join = Rates().join + states * LLAMA.state_bytes / Rates().memory
    assert both - join - 64 * Rates().slot_of_many < few + many + Rates().launch
    hidden = Cost(batch, cost.runs, LLAMA, Rates(beside=1.0, item=0.0, launch=0.0, join=0.0))
    read = (4096 + 64 * 512) * LLAMA.key_bytes  # both come through one memory
    moved = (read + states * LLAMA.state_bytes) / Rates().memory
    assert hidden.seconds(512) == pytest.approx(moved + 9 * Rates().slot_of_many)


def test_a_single_launch_has_the_items_of_many_rows_and_of_few() -> None:
    batch, rates = forks(64, 4096, 512), Rates(single=True, beside=1.0)
    cost = Cost(batch, choose_runs(batch, LLAMA, rates, True), LLAMA, rates)
    assert cost.large.all() and not cost.launches[0].keys.size
    work = cut(batch, cost)
    assert {1, 16} <= {*work.item_rows.tolist()} and work.seconds == cost.least()[0]
    apart = Cost(batch, cost.runs, LLAMA, Rates(beside=1.0))
    assert cost.least()[0] > apart.least()[0]  # nothing is hidden


def test_small_programs_are_hidden_where_they_find_room_beside_large_ones() -> None:
    """Of 132 multiprocessors 128 have a large program of items of 1,024 keys, and 32 of 4,096."""
    batch = forks(64, 4096, 64)
    runs = choose_runs(batch, LLAMA, Rates(), True)
    tight, free = (Cost(batch, runs, LLAMA, Rates(room=room)) for room in (0.0, 4.0))
    assert [int(tight.launches[1].programs(np.array([n]))[0]) for n in (1024, 4096)] == [128, 32]
    short, long = (tight.seconds(keys) - free.seconds(keys) for keys in (1024, 4096))
    assert short > 2 * long > 0
    beside = Cost(batch, runs, LLAMA, Rates(room=0.0, beside=0.0))
    assert beside.seconds(1024) >= tight.seconds(1024)


@pytest.mark.parametrize(
    ("heads", "of", "way"),
    [((64, 8), Sequences(4, 16384, 256), LARGE_SPECIALISED),  # 25.1 us, by the usual tile 28.7
     ((32, 8), Sequences(16, 8192, 256), LARGE_SPECIALISED),  # 19.9, 21.3
     ((8, 1), Sequences(64, 2048, 256), LARGE_SPECIALISED),  # 9.8, by largest tiles 11.7
     ((8, 1), Sequences(4, 16384, 256), "single"),  # 10.3, each row by itself 11.7
     ((64, 8), Sequences(64, 16384, 64), LARGEST),  # 68, 87 by the large tile
     ((8, 1), Sequences(4, 512, 256), "deep")],
    ids=str,
)  # fmt: skip
def test_tiles_of_specialised_warps_are_taken_where_they_were_faster(
    heads: tuple[int, int], of: Sequences, way: str
) -> None:
    bench = Bench(None, 1.0)  # type: ignore[arg-type]
    assert bench.choice(Parts(*heads, 128, page=64), of)[0].name == way


@pytest.mark.parametrize("cascade", [True, False])
def test_what_a_list_costs_at_other_rates_is_what_it_costs_anew(cascade: bool) -> None:
    batch = forks(64, 4096, 256)
    runs = choose_runs(batch, LLAMA, Rates(), cascade=cascade)
    other = replace(Rates(), memory=3e12, resident=264, program=2e10, program_many=3e10)
    known, anew = Cost(batch, runs, LLAMA, Rates()), Cost(batch, runs, LLAMA, other)
    before = known.least()
    found = known.at(other)
    assert found.least()[0] == anew.least()[0] != before[0]
    assert np.array_equal(found.least()[1], anew.least()[1])
    assert known.least() is before and known.seconds(512) != found.seconds(512)


def test_tiles_of_many_rows_have_the_rates_of_the_warps_that_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of heads 64 wide, and on other GPUs than Hopper, these are not specialised, and a way that
    differs in that alone is none."""

    def found(width: int) -> dict[str, Rates]:
        return {way.name: way.rates for way in attention_ways(Parts(8, 1, width, page=64))}

    assert found(64)["largest"].flops < 0.75 * found(128)["largest"].flops
    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    for able, rates in ((True, RATES), (False, USUAL_WARPS)):
        monkeypatch.setattr(build_cuda, "can_specialise", lambda able=able: able)
        for name in ("largest", "single"):
            assert found(128)[name].flops == rates[name].flops
        assert ("large_specialised" in found(128)) == able
    assert "large_specialised" not in found(64)
