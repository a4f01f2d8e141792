"""Kernels whose warps have parts of their own: their text against float64, run by a machine of
threads and on a GPU; what it compiles to; what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from weft.codegen.locate import locate_triton
from weft.codegen.triton.compile import compile_offline
from weft.codegen.triton.emit import emit
from weft.codegen.triton.gluon.form import NoGluon
from weft.codegen.triton.source import launch_options
from weft.ir.core import walk
from weft.ir.parser import parse_module
from weft.ir.printer import print_operation
from weft.ir.schedule import Schedule
from weft.passes.tile.attention.parts import ALL, MANY, Parts, attention_parts
from weft.passes.tile.attention.ways import (
    LARGE_SPECIALISED,
    LARGEST,
    SINGLE,
    first_tiles,
    launches,
    long_prompts,
    prompts,
    tuned,
    variants,
)
from weft.passes.tile.gpu_schedules import gpu_schedule, gpu_step_kernels
from weft.runtime.attention.prompt_tiles import prompt_tiles
from weft.tests.codegen.gluon_machine import AllWait, run_gluon
from weft.tests.codegen.kernel_case import interpreted
from weft.tests.codegen.parts_cases import (
    Tree,
    expected,
    launched,
    planned,
    planner_shape,
    tolerance,
    tree,
)
from weft.tests.codegen.test_attention_prompts import check

Run = Callable[..., list[Any]]
SHAPES = {
    "two groups": Parts(4, 2, 64, page=16, few=16, many=128, keys=16, keys_many=16),
    "half a page": Parts(4, 2, 64, page=32, few=16, many=64, keys=16, keys_many=16),
    "a head a key": Parts(1, 1, 128, page=16, few=16, many=64, keys=16, keys_many=16),
}  # fmt: skip
GPU_SHAPES = {
    "8 B": Parts(8, 2, 128, page=64, many=128),
    "blocks of 128": Parts(8, 2, 128, page=128, many=128, keys_many=128),
    "one group": Parts(8, 1, 64, page=128, many=64),
    "a head a key": Parts(2, 2, 128, page=64, few=8, many=128),
}
FORKS = [(1, [3, 1] * 6), (1, [70, 5])]
EIGHT_B = Parts(32, 8, 128, page=64)


def specialised(stages: int = 2) -> Schedule:
    return Schedule(num_warps=8, num_stages=stages, chained=True, specialised=136)


def check_parts(run: Run, shape: Parts, case: Tree) -> None:
    """Items of many rows by `run`, all else by its meaning."""
    work = planned(shape, case, cascade=True)
    assert (work.item_rows > shape.rows_few).any()

    def each(kernel: Any, given: list[Any]) -> list[Any]:
        return (run if kernel.attribute("items") == MANY else interpreted)(kernel, given)

    found = launched(each, shape, case, work)
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


def check_all(run: Run, shape: Parts, case: Tree) -> None:
    """All items by `run`, in one launch; their join by its meaning."""
    kernel = attention_parts(replace(shape, items=ALL))

    def each(called: Any, given: list[Any]) -> list[Any]:
        return (run if called is kernel else interpreted)(called, given)

    work = planned(shape, case, cascade=True)
    assert (work.item_rows > shape.rows_few).any() and (work.item_rows <= shape.rows_few).any()
    found = launched(each, shape, case, work, kernels=[kernel])
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


def check_prompts(run: Run, shape: Parts, groups: list[Any], queries: list[int]) -> None:
    case = tree(shape, groups, queries)
    tiles = prompt_tiles(case.batch, planner_shape(shape))
    assert tiles.taken.any()
    check(run, shape, case, tiles)


@pytest.mark.parametrize(("name", "stages"), [*zip(SHAPES, (3, 2, 4), strict=True)])
def test_prompts(name: str, stages: int) -> None:
    """Ends of prompts and of pages, keys that were there before, nothing past an end is used."""
    run = partial(run_gluon, schedule=specialised(stages))
    check_prompts(run, SHAPES[name], [(1, [65, 33]), (0, [97])], [65, 17, 97])


@pytest.mark.parametrize("name", ["two groups", "half a page"])
def test_parts(name: str) -> None:
    """Rows of several sequences, states and results, items that are another kernel's."""
    check_parts(partial(run_gluon, schedule=specialised()), SHAPES[name], tree(SHAPES[name], FORKS))


@pytest.mark.parametrize("name", ["two groups", "half a page"])
def test_all_items(name: str) -> None:
    """By one launch, those of few rows among them."""
    check_all(partial(run_gluon, schedule=specialised()), SHAPES[name], tree(SHAPES[name], FORKS))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("mbarrier.wait(values_ring_free.index(ring_at), ring_phase)", "pass"),
        ("mbarrier.wait(keys_ring_there.index(ring_at), ring_phase)", "pass"),
        ("mbarrier.arrive(keys_ring_free.index(ring_at), count=1)", "pass"),
        ("warpgroup_mma_wait(1, deps", "warpgroup_mma_wait(2, deps"),
        ("values_ring.index(ring_at).store(", "rest.copy_("),
        ("mbarrier.wait(rest_cleared.index(0), 0)", "pass"),
        ("mbarrier.arrive(rest_cleared.index(0), count=1)", "pass"),
        ("+ warp_group * 64", ""),
    ],
)
def test_faults_in_what_parts_wait_for_are_seen(line: str, fault: str) -> None:
    def broken(text: str) -> str:
        assert line in text
        return text.replace(line, fault)

    run = partial(run_gluon, schedule=specialised(), edit=broken)
    with pytest.raises((AssertionError, AllWait)):
        check_prompts(run, SHAPES["two groups"], [(1, [97])], [97])


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_SHAPES)
def test_gpu(name: str, gpu: Any) -> None:
    shape = GPU_SHAPES[name]
    for stages, groups in ((2, [(1, [65, 33]), (0, [130])]), (3, [(1, [200, 64]), (0, [97])])):
        run = partial(gpu, schedule=specialised(stages))
        check_prompts(run, shape, groups, [own for _, owns in groups for own in owns])
    check_parts(partial(gpu, schedule=specialised()), shape, tree(shape, FORKS))
    check_all(partial(gpu, schedule=specialised()), shape, tree(shape, FORKS))
    check_parts(
        partial(gpu, schedule=specialised()), shape, tree(shape, [(4, [70, 1, 64])], [70, 1, 3])
    )


def test_the_text(golden: Callable[[str, str], None]) -> None:
    golden("gluon/prompts.txt", emit(prompts(SHAPES["half a page"]), specialised()).text)


def test_compiled_for_hopper() -> None:
    kernel = prompts(SHAPES["half a page"])
    found = compile_offline(kernel, specialised())
    ptx = found["ptx"]
    assert "Gluon" in found["ttir"] and "ttg." in found["ttgir"]
    assert all(word in ptx for word in ("wgmma.mma_async", "cp.async.bulk.tensor", "setmaxnreg"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel", [long_prompts(EIGHT_B), launches(variants(EIGHT_B, True)[1].tiles)[0]]
)
def test_what_is_launched_is_compiled_for_hopper(kernel: Any) -> None:
    ptx = compile_offline(kernel, gpu_schedule(kernel))["ptx"]
    assert "setmaxnreg" in ptx and ".local" not in ptx


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        (Parts(4, 2, 64, page=16, q="f32", kv="f32", many=64, keys_many=16), "products of f32"),
        (Parts(4, 2, 64, page=16, kv="f8e4m3", many=64, keys_many=16), "no load of its loop"),
        (Parts(4, 2, 64, page=16, many=64, keys_many=32), "not whole rows of a page"),
        (Parts(4, 2, 64, page=16, many=32, keys_many=16), "products of 32 rows"),
        (Parts(4, 2, 80, page=16, many=64, keys_many=16), "80 wide"),
    ],
)
def test_what_it_cannot_do_is_refused(shape: Parts, problem: str) -> None:
    with pytest.raises(NoGluon, match=problem):
        emit(prompts(shape), specialised())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [("%whole", "%block_behind", "names that its own text has"),
     ("%item_rows", "%stage", "names that its own text has"),
     ("%once", "%rest", "names that its own text has"),
     ("%once", "%copied", "names that its own text has"),
     ("where(a <= 8, 1, 0)", "where(a <= 8, 2, 0)", "a loop around its rounds")],
)  # fmt: skip
def test_names_of_its_own_and_loops_around_its_rounds_are_refused(
    old: str, new: str, problem: str
) -> None:
    kernel, _ = launches(replace(SHAPES["two groups"], way=LARGEST))
    text = print_operation(kernel)
    assert old in text
    (broken,) = parse_module(re.sub(re.escape(old) + r"(?!\w)", new, text)).operations
    with pytest.raises(NoGluon, match=problem):
        emit(broken, specialised())


VALUES = "%values = tile.load %v, %page_id_1, %kv_head, %offset_1, %lane_1"
MASK = """%there = tile.map %key, %high, expr = "a < b" : tile<bool, [16]>
    %there_1 = tile.expand %there, axis = 1 : tile<bool, [16, 1]>
    """


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [("[N, 2, 32, 64]", "[N, 2, 24, 64]", "blocks of 16 keys in pages of 24"),
     (VALUES, f"{MASK}{VALUES}, %there_1, masked = true, other = 0.0",
      "values that are masked before the last loop"),
     ('%inside_2 = tile.map %key_1, %high, expr = "a < b"',
      '%inside_2 = tile.map %key_1, %high, expr = "a <= b"', "otherwise than past the end"),
     ('%inside_2 = tile.map %key_1, %high', '%inside_2 = tile.map %key_1, %limit',
      "otherwise than past the end"),
     ("%acc_2 = tile.dot %q_tile, %keys_1, %c_5, transpose_b = true",
      "%acc_2 = tile.dot %q_tile, %keys_1, %c_5", "a second product that a round waits for"),
     ("%c_5 = tile.full value = 0.0", "%c_5 = tile.full value = 1.0", "adds to something")],
)  # fmt: skip
def test_rounds_of_another_meaning_are_refused(old: str, new: str, problem: str) -> None:
    text = print_operation(prompts(SHAPES["half a page"]))
    assert old in text
    (broken,) = parse_module(text.replace(old, new)).operations
    with pytest.raises(NoGluon, match=problem):
        emit(broken, specialised())


def test_other_kernels_are_refused() -> None:
    for kernel, schedule in gpu_step_kernels(1000):
        with pytest.raises(NoGluon):
            emit(kernel, replace(schedule, specialised=136))


def test_chosen_where_it_was_measured() -> None:
    long = long_prompts(EIGHT_B)
    assert long is not None and gpu_schedule(long).specialised
    kinds = {way.name: way for way in variants(replace(EIGHT_B, heads=8, kv_heads=1), True)}
    assert {name: way.schedule.specialised for name, way in kinds.items()} == {
        "large": 0, LARGEST: 136, LARGE_SPECIALISED: 112, SINGLE: 128}  # fmt: skip
    assert LARGE_SPECIALISED in {way.name for way in variants(EIGHT_B, True)}
    narrow, uneven = Parts(8, 1, 64, page=64), Parts(12, 1, 128, page=64)
    assert long_prompts(narrow) is None
    for shape in (narrow, uneven):
        others = variants(shape, True)
        assert LARGE_SPECIALISED not in {way.name for way in others}
        for way in others:
            kernel = attention_parts(first_tiles(way.tiles))
            assert way.schedule == gpu_schedule(kernel) and not way.schedule.specialised
    assert long_prompts(replace(EIGHT_B, kv="f8e4m3")) is None
    assert not gpu_schedule(prompts(tuned(EIGHT_B, True))).specialised


def test_options_of_a_launch() -> None:
    wide = Schedule(num_warps=8, num_stages=3, registers=192)
    assert launch_options(wide) == {"num_warps": 8, "num_stages": 3, "maxnreg": 192}
    assert launch_options(replace(wide, specialised=136)) == {"num_warps": 4, "maxnreg": 136}


def test_lines_are_known_by_their_operations() -> None:
    kernel = prompts(SHAPES["half a page"])
    operations = list(walk((kernel,)))
    located = locate_triton(kernel, specialised())
    named = {operations[at].name for (at,), line in zip(located.origins, located.lines, strict=True)
             if "warpgroup_mma(" in line}  # fmt: skip
    assert named == {"tile.dot", "tile.for"}  # the last product stands behind its loop
    assert not any("\0" in line for line in located.lines)
