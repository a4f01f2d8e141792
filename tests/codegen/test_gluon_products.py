"""Products that stream weights, by warps with parts of their own: their text against float64, run
by a machine of threads and on a GPU; what it compiles to; what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from weft.codegen.triton.compile import CannotCompile, compile_offline
from weft.codegen.triton.emit import emit
from weft.codegen.triton.gluon.form import NoGluon
from weft.codegen.triton.gluon.streamed_form import product_form
from weft.ir.core import Operation
from weft.ir.parser import parse_module
from weft.ir.printer import print_operation
from weft.ir.schedule import Schedule
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.passes.tile.products.skinny_matmul import SkinnyMatmul, skinny_matmul, streamed
from weft.tests.codegen.gluon_machine import AllWait, run_gluon
from weft.tests.codegen.test_streamed_products import check, skinny

SHAPES = {
    "one group": SkinnyMatmul(128, 256, rows=64, block_n=64),
    "gated": SkinnyMatmul(128, 192, True, rows=128, block_n=64),
    "packed": SkinnyMatmul(96, 320, True, rows=128, block_n=64, columns=48, packed=True),
    "cut": SkinnyMatmul(128, 512, cuts=2, rows=128, block_n=128),
    "cut, some columns": SkinnyMatmul(96, 512, cuts=2, rows=64, block_n=128, columns=96),
}  # fmt: skip


def specialised(stages: int = 3) -> Schedule:
    return Schedule(num_warps=8, num_stages=stages, chained=True, specialised=168)


def check_product(run: Callable[..., list[Any]], shape: SkinnyMatmul, rows: int) -> None:
    case = skinny(np.random.default_rng(5), rows, shape)
    product_form(case.kernel)  # raises NoGluon for what is none
    check(case, run(case.kernel, case.arguments))


@pytest.mark.parametrize(("name", "rows", "stages"), [
    ("one group", 1, 3), ("one group", 130, 5), ("gated", 128, 2), ("packed", 97, 4),
    ("cut", 65, 3), ("cut, some columns", 21, 9),
])  # fmt: skip
def test_products(name: str, rows: int, stages: int) -> None:
    """More stages than rounds, rows past the end, several groups of rows, a part of the columns."""
    check_product(partial(run_gluon, schedule=specialised(stages)), SHAPES[name], rows)


@pytest.mark.parametrize(("line", "fault"), [
    ("mbarrier.wait(blocks_free.index(ring_at), ((ring_turn // 3) & 1) ^ 1)", "pass"),
    ("mbarrier.wait(blocks_there.index(ring_at), (ring_turn // 3) & 1)", "pass"),
    ("blocks_free.index((ring_turn + 2) % 3)", "blocks_free.index(ring_at)"),
    ("pred=ring_turn > 0", "pred=ring_turn > 1"),
    ("warpgroup_mma_wait(2, deps", "warpgroup_mma_wait(4, deps"),
    ("    c_2_2, c_3_2 = warpgroup_mma_wait(0, deps=[c_2_2, c_3_2])\n", ""),
    ("+ warp_group * 64", ""),
    ("ring_at * 2 + 1).permute", "ring_at * 2 + 0).permute"),
    ("[row_1 + 64, t_1]", "[row_1, t_1]"),
    (", count=2)", ", count=1)"),
    ("    extra.cuda.gdc_wait()\n    ring_turn = 0\n", "    ring_turn = 0\n"),
    ("k in range(ring_filled, c_1, 1)", "k in range(c, c_1, 1)"),
])  # fmt: skip
def test_faults_are_seen(line: str, fault: str) -> None:
    def broken(text: str) -> str:
        assert line in text
        return text.replace(line, fault)

    run = partial(run_gluon, schedule=specialised(), edit=broken)
    with pytest.raises((AssertionError, AllWait)):
        check_product(run, SHAPES["packed"], 97)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_gpu(name: str, gpu: Any) -> None:
    for stages, rows in ((2, 128), (3, 1), (4, 97), (3, 130)):
        check_product(partial(gpu, schedule=specialised(stages)), SHAPES[name], rows)


def test_the_text(golden: Callable[[str, str], None]) -> None:
    golden("gluon/product.txt", emit(skinny_matmul(SHAPES["packed"]), specialised()).text)


def test_compiled_for_hopper() -> None:
    ptx = compile_offline(skinny_matmul(SHAPES["one group"]), specialised())["ptx"]
    assert all(word in ptx for word in ("wgmma.mma_async", "cp.async.bulk.tensor", "setmaxnreg"))
    assert ".local" not in ptx


@pytest.mark.parametrize("arch", [80, 100])
def test_for_other_gpus_it_is_refused(arch: int) -> None:
    """The compiler ended the process."""
    with pytest.raises(CannotCompile, match=f"for sm_{arch}: warps that have parts"):
        compile_offline(skinny_matmul(SHAPES["one group"]), specialised(), arch=arch)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'tile.map %lane_1, expr = "a < 48"',
            'tile.map %lane_1, expr = "a < 44"',
            "weights of 44 columns",
        ),  # not an atom
        (
            'tile.map %live_1, %own_2, expr = "a & b"',
            'tile.map %live_1, %own_2, expr = "a | b"',
            "columns that are stored",
        ),
        (
            'tile.map %row, %T, expr = "a < b"',
            'tile.map %row, %T, expr = "a <= b"',
            "rows that are masked",
        ),
        (
            'tile.map %row, %T, expr = "a < b"',
            'tile.map %lane, %T, expr = "a < b"',
            "rows that are masked",
        ),
        ('expr = "a * 64 + b"', 'expr = "a * 64 + b * 2"', "rows that are not read"),
        ("%w_rows: ", "%rows_ring: ", "names that"),
        ("%part: ", "%stage: ", "names that"),
        ("%k: ", "%ring_at: ", "names that"),
        ("%group: ", "%mbarrier: ", "names that"),
    ],
)
def test_what_it_cannot_do_is_refused(old: str, new: str, problem: str) -> None:
    text = print_operation(skinny_matmul(SHAPES["packed"]))
    if old.endswith(": "):
        old, new = old[:-2], new[:-2]
    assert old in text
    (broken,) = parse_module(re.sub(re.escape(old) + r"(?!\w)", new, text)).operations
    with pytest.raises(NoGluon, match=problem):
        emit(broken, specialised())


def test_a_mask_of_columns_that_lies_along_rows_is_refused() -> None:
    """Of as many rows as columns both are masks of a tile."""
    text = print_operation(skinny_matmul(replace(SHAPES["packed"], rows=64)))
    old = "%own_2 = tile.expand %own, axis = 0 : tile<bool, [1, 64]>"
    new = "%own_2 = tile.expand %own, axis = 1 : tile<bool, [64, 1]>"
    assert text.count(old) == 1
    (kernel,) = parse_module(text).operations
    assert product_form(kernel).own == 48
    (broken,) = parse_module(text.replace(old, new)).operations
    with pytest.raises(NoGluon, match="columns that are stored"):
        emit(broken, specialised())


@pytest.mark.parametrize("shape", [
    SkinnyMatmul(64, 128, rows=32, block_n=64),
    SkinnyMatmul(64, 128, rows=64, block_n=64, block_k=32),
])  # fmt: skip
def test_other_blocks_are_refused(shape: SkinnyMatmul) -> None:
    with pytest.raises(NoGluon, match="products of (32|64) rows, 64 columns, (64|32) deep"):
        emit(skinny_matmul(shape), specialised())


REDUCED = """
  %top = tile.reduce %gated, axis = {axis}, op = "max" : tile<f32, [{extent}]>
  %top_1 = tile.expand %top, axis = {axis} : tile<f32, [{extents}]>
  %less = tile.map %gated, %top_1, expr = "a - b" : tile<f32, [128, 64]>
  %column_3 = """


@pytest.mark.parametrize(("axis", "extent", "extents"), [(0, "64", "1, 64"), (1, "128", "128, 1")])
def test_what_joins_rows_or_columns_is_refused(axis: int, extent: str, extents: str) -> None:
    """Rows are those of several groups, and columns whose weights are left out are anything."""
    text = print_operation(skinny_matmul(SHAPES["packed"]))
    reduced = REDUCED.format(axis=axis, extent=extent, extents=extents)
    text = text.replace("\n  %column_3 = ", reduced).replace("%gated, %live_2", "%less, %live_2")
    (broken,) = parse_module(text).operations
    assert "%column_3, %less, %live_2" in text and "%top_1 = " in text
    with pytest.raises(NoGluon, match="tile.reduce"):
        emit(broken, specialised())


def test_a_ring_of_one_block_is_refused() -> None:
    """It would be waited for before it is let go of."""
    with pytest.raises(NoGluon, match="a ring of one block"):
        emit(skinny_matmul(SHAPES["one group"]), specialised(1))


def has_form(kernel: Operation) -> bool:
    try:
        return bool(product_form(kernel))
    except NoGluon:
        return False


def test_chosen_for_what_is_streamed() -> None:
    def chosen(*shape: Any) -> Operation:
        kernel = skinny_matmul(streamed(*shape))
        assert bool(gpu_schedule(kernel).specialised) == has_form(kernel)
        return kernel

    for rows in (64, 128):
        kernels = [chosen(14336, 4096, True, 1, rows, True), chosen(4096, 14336, False, 4, rows)]
        kernels += [chosen(n, 4096, False, 2, rows) for n in (4096, 6144)]
        assert all(gpu_schedule(kernel).specialised for kernel in kernels)
        chosen(14336, 4096, True, 1, rows)
