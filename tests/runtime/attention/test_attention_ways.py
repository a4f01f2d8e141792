"""A step's list is planned for one of several kernels: the engine and its benchmarks choose alike,
and the kernel that a list was planned for reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weft.bench import gpu_kernels
from weft.bench.gpu_kernels import CASCADE, DECODE, Bench, Sequences
from weft.codegen import build_cuda
from weft.compiler.attention_ways import attention_ways
from weft.passes.tile.attention.parts import Parts, attention_parts
from weft.passes.tile.attention.ways import (
    LARGE_SCHEDULES,
    LARGE_SPECIALISED,
    LARGEST,
    SCHEDULES,
    SLIM,
    first_tiles,
    launches,
    long_prompts,
    prompts,
    tuned,
    variants,
)
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.runtime.attention.cost import Rates, Shape, Way
from weft.runtime.attention.plan import choose, plan_among
from weft.runtime.attention.ways import GROUPED
from weft.runtime.execution.step import StepInput
from weft.tests.runtime.attention.way_cases import CONFIG, Seen, executor, lists_of, step_of

GRID = [*CASCADE, *(((32, 8), Sequences(count, 0, keys)) for count, keys in DECODE)]


def test_a_single_short_row_is_read_by_small_programs_a_block_each() -> None:
    """As whole steps were measured: from 1 K on by wide ones; several rows are as ever."""
    shape = Parts(32, 8, 128, page=64)
    ways = [*attention_ways(shape)]
    for keys, name in ((64, "crowded"), (130, "crowded"), (192, "crowded"), (384, "crowded"),
                       (1024, "crowded"), (4096, "wide"), (16384, "wide")):  # fmt: skip
        one = Sequences(1, 0, keys)
        way, work = plan_among(one.batch(shape, np.arange(one.pages(shape))), ways)
        assert way.name == name
        if name == "crowded":
            assert int((work.item_high - work.item_low).max()) <= 64
    two = Sequences(2, 0, 384)
    batch = two.batch(shape, np.arange(two.pages(shape)))
    plain = [replace(way, alone=None) for way in ways]
    assert plan_among(batch, ways)[0].name == plan_among(batch, plain)[0].name


@pytest.mark.parametrize(
    ("heads", "of"),
    [pytest.param(*cell, marks=[pytest.mark.slow] if place % 9 else []) for place, cell in
     enumerate(GRID)], ids=str,
)  # fmt: skip
def test_the_engine_and_the_bench_choose_alike(heads: tuple[int, int], of: Sequences, tmp_path):
    shape = Parts(*heads, 128, page=64)
    (name, *_), _, work = Bench(tmp_path, 1.0).choice(shape, of)
    batch = of.batch(shape, np.arange(of.pages(shape)))
    found = lists_of(shape, grouped=True).plan(step_of(batch))
    assert found.way == name
    for array in ("item_rows", "item_low", "item_high", "row_query", "row_slot", "merge_start"):
        assert np.array_equal(found.arrays[f"plan_{array}"], getattr(work, array)), array


def test_the_grid_asks_for_several_ways():
    """Else the test above would say little."""
    found = {Bench(None, 1.0).choice(Parts(*heads, 128, page=64), of)[0].name  # type: ignore[arg-type]
             for heads, of in GRID[::5]}  # fmt: skip
    assert len(found & {"three", "deep", "crowded", "wide"}) >= 2
    assert found >= {LARGE_SPECIALISED, LARGEST}
    one = Bench(None, 1.0).choice(Parts(8, 1, 128, page=64), Sequences(16, 8192, 256))  # type: ignore[arg-type]
    assert one[0].name == "single" and {1, 8} <= {*one[2].item_rows.tolist()}


def test_the_bench_times_what_the_engine_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that are read several a program, of one row each, and beside largest tiles."""
    compiled: list[Any] = []
    monkeypatch.setattr(
        gpu_kernels, "compile_ahead", lambda kernels, folder: compiled.extend(kernels)
    )
    cells = (Sequences(128, 0, 64, 8, 1024), Sequences(16, 2048, 256), Sequences(64, 16384, 256))
    Bench(Path(), 1.0).compile((Parts(32, 8, 128, page=64), of, None) for of in cells)
    ways = [kernel.attribute("way") for kernel, _ in compiled]
    assert ways == [None, GROUPED, None, LARGE_SPECIALISED, "crowded", None, LARGEST, SLIM, None]


@pytest.mark.parametrize(
    ("of", "way"),
    [(Sequences(8, 0, 512), "wide"), (Sequences(16, 0, 1024), "wide"),
     (Sequences(2, 0, 16384), "wide"), (Sequences(1, 0, 1024), "deep"),
     (Sequences(64, 0, 512), "crowded")],
    ids=str,
)  # fmt: skip
def test_lists_over_pages_of_16_are_read_in_the_way_that_was_fastest(of: Sequences, way: str):
    bench = Bench(None, 1.0)  # type: ignore[arg-type]
    assert bench.choice(Parts(32, 8, 128, page=16), of, False)[0].name == way


def test_a_way_takes_only_lists_that_its_kernel_can_read():
    shape = Shape(32, 8, 128, 64, 4, 16, 64)
    few, many = Way("few", shape, Rates(), many=False), Way("many", shape, Rates(), few=False)
    forks = Sequences(64, 16384, 64)
    batch = forks.batch(Parts(32, 8, 128, page=64), np.arange(256 + 64))
    assert choose(batch, [few, many])[0] is many
    assert choose(batch, [few, many], cascade=False)[0] is few
    alone = Sequences(8, 0, 512)
    batch = alone.batch(Parts(32, 8, 128, page=64), np.arange(64))
    assert choose(batch, [few, many])[0] is few


def test_each_way_is_a_kernel_with_its_own_schedule():
    shape = Parts(32, 8, 128, page=64)
    for shared, schedules in ((False, SCHEDULES), (True, LARGE_SCHEDULES)):
        for way in variants(shape, shared):
            kernel = attention_parts(first_tiles(way.tiles))
            assert gpu_schedule(kernel, apart=not shared) == way.schedule, way.name
            if way.tiles.way:
                assert schedules[way.tiles.way] == way.schedule
    narrow = Parts(32, 8, 128, page=64, kv="f8e4m3")
    assert [len(variants(narrow, shared)) for shared in (False, True)] == [1, 1]


def test_a_step_runs_the_kernels_that_its_list_was_planned_for():
    seen: list[Seen] = []
    device = executor(seen, replace(CONFIG, head_dim=128))
    device._recorded.cost = 1e-9  # every step's room is recorded
    shape = Parts(8, 1, 128, page=64)
    found = attention_ways(shape)
    assert {way.name for way in device._lists._choice} == {way.name for way in found}
    for way, (_, tiles, _) in found.items():
        other_kinds = [other for other in found if other.many != way.many]
        device._lists._choice, device._lists._last = [way, *other_kinds], None
        count = min(64, way.most)
        of = Sequences(count, 32768, 64) if way.many else Sequences(count, 0, 512)
        step = step_of(of.batch(shape, np.arange(of.pages(shape)) % 1200))
        seen[0].log.clear()
        device.forward(step)
        first, *others = [name for name in seen[0].log if name.startswith("attention_parts")]
        assert first == first_tiles(tiles).name
        assert len(others) == (tiles.many > 0 and way.name != "single")


def test_a_single_rows_small_programs_join_what_they_leave_and_others_do_not():
    seen: list[Seen] = []
    device = executor(seen)
    device._recorded.cost = 1e-9
    shape, joins = Parts(8, 1, 64, page=64), []
    found = attention_ways(shape)
    for way, (name, tiles, _) in found.items():
        if not way.many:
            shared = [other for other in found if other.many]
            device._lists._choice, device._lists._last = [way, *shared], None
            of = Sequences(1, 0, 200)
            step = step_of(of.batch(shape, np.arange(of.pages(shape))))
            seen[0].log.clear()
            device.forward(step)
            launched = [each for each in seen[0].log if each.startswith("attention")]
            joins.append((name, len(launched)))
            assert launched[0] == tiles.name + "_joined" * (name == "crowded")
            idle = [each.idle for each in device.launches(step) if each.operation == OF]
            assert idle == ([True, False, True] if name == "crowded" else [False, True, False])
    assert sorted(joins) == [("crowded", 1), ("deep", 2), ("three", 2), ("wide", 2)]


OF = "graph.finalize"
"""The operation that launches of attention compute."""


@pytest.mark.slow  # tests/codegen/test_joined_parts.py has the kernels
def test_the_row_that_small_programs_join_is_the_row_that_a_launch_joins(tmp_path, interpreting):
    done = interpreting.run(Path(__file__).parent / "ways_worker.py", tmp_path)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 9 and max(errors.values()) < 1e-2, errors


def test_long_prompts_have_tiles_of_their_own_and_rows_beside_them_what_is_usual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a single key head, where one way of lists has a launch fewer: this has all of them."""
    monkeypatch.setattr(build_cuda, "can_specialise", lambda: True)
    seen: list[Seen] = []
    device = executor(seen, replace(CONFIG, head_dim=128), max_tokens=8192)
    shape = tuned(Parts(8, 1, 128, page=64), shared=True)
    usual = [kernel["name"].name for kernel in (prompts(shape), *launches(shape, 4609))]
    long = long_prompts(shape)["name"].name
    step = prompt_step([(2304, 4096), (1, 100), (2304, 4096)])
    for first in (long, usual[0]):
        seen[0].log.clear()
        device.forward(step)
        launched = [name for name in seen[0].log if name.startswith("attention_p")]
        assert launched == [first, *usual[1:]]
        told = [each for each in device.launches(step) if each.kernel in usual]
        assert [each.runs for each in told] == launched
        device._lists._long = False  # as on a GPU without specialised warps


def test_chunks_wider_than_a_recorded_way_takes_are_planned_for_another():
    """The steps before were read by the way of a single launch, which takes runs of 16 rows."""
    shape = Parts(8, 1, 128, page=64)
    lists, of = lists_of(shape), Sequences(16, 8192, 256)
    before = lists.plan(step_of(of.batch(shape, np.arange(of.pages(shape)))))
    room = lists.room(64, before, 1 << 18)
    assert before.way == room.way == "single"
    for rows, same in ((16, True), (17, False)):
        step = prompt_step([(rows, 300), (1, 100)])
        found = lists.plan(step, recorded=True)
        assert (found.way == "single") == same
        assert (lists.within(step, found, room) is not None) == same
        assert {*found.arrays["plan_row_query"].tolist()} == {*range(rows + 1)}


def test_chunks_of_recorded_steps_take_the_way_of_the_decode_steps_before():
    """Recorded steps of one way hold both; alone these chunks would take another."""
    shape, of = Parts(32, 8, 128, page=64), Sequences(64, 0, 1024)
    chunks = prompt_step([(2, 300), (1, 100)])
    lists, fresh = lists_of(shape), lists_of(shape)
    decode = lists.plan(step_of(of.batch(shape, np.arange(of.pages(shape)))))
    assert lists.plan(chunks, recorded=True).way == decode.way
    assert fresh.plan(chunks, recorded=True).way != decode.way


def prompt_step(sequences: list[tuple[int, int]]) -> StepInput:
    """Return a step of sequences of new and of cached tokens, in pages of 64."""
    counts, cached = np.array(sequences).T
    lengths = counts + cached
    columns, total = -(-int(lengths.max()) // 64), int(counts.sum())
    zeros = torch.zeros(total, dtype=torch.int32)
    starts, lengths, last = (
        torch.tensor(values, dtype=torch.int32)
        for values in ([0, *np.cumsum(counts)], lengths, np.cumsum(counts) - 1)
    )
    table = torch.arange(len(counts) * columns, dtype=torch.int32).view(-1, columns)
    return StepInput(zeros, zeros, zeros, starts, lengths, table, last)


def test_prompts_are_planned_for_the_usual_kernels():
    shape = Parts(32, 8, 128, page=64)
    ints = [torch.tensor(v, dtype=torch.int32) for v in
            ([0] * 300, range(300), [0] * 300, [0, 300], [300])]  # fmt: skip
    table, rows = torch.arange(5, dtype=torch.int32)[None], torch.tensor([299], dtype=torch.int32)
    found = lists_of(shape).plan(StepInput(*ints, table, rows))
    assert found.way == "" and not found.apart


def test_lists_of_few_rows_borrow_a_room_of_another_way_and_lists_of_many_do_not():
    shape = Parts(32, 8, 128, page=64)
    lists, rooms = lists_of(shape), {}
    for of in (Sequences(64, 2048, 64), Sequences(64, 16384, 64), Sequences(1, 0, 65536),
               Sequences(1, 0, 512)):  # fmt: skip
        planned = lists_of(shape).plan(step_of(of.batch(shape, np.arange(of.pages(shape)))))
        rooms[of] = lists.room(64, planned, 1 << 18)
    short, long, wide, small = rooms.values()
    assert wide.way != small.way and wide.apart and small.apart
    assert (wide.holds(small) or small.holds(wide)) and not long.holds(wide)
    if short.way != long.way:
        assert not short.holds(long) and not long.holds(short)
