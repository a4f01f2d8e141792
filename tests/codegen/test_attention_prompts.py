"""Attention of prompts' tiles against float64, and what the kernel must promise to be proven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import UnprovenAccess, prove_bounds
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.verifier import verify
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.prompts import LISTS
from weft.passes.tile.attention.ways import prompts, variants
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.runtime.attention.prompt_tiles import PromptTiles, prompt_tiles
from weft.tests.codegen.kernel_case import interpreted
from weft.tests.codegen.parts_cases import (
    GROUPS,
    QUERIES,
    SHAPES,
    Tree,
    expected,
    planner_shape,
    tolerance,
    tree,
    truncated,
    widened,
)

TILED = {name: shape for name, shape in SHAPES.items() if shape.many and not shape.window}
each_shape = pytest.mark.parametrize("shape", TILED.values(), ids=TILED)
each_tree = pytest.mark.parametrize("groups", GROUPS)


def launched(run: Any, shape: Parts, case: Tree, tiles: PromptTiles) -> np.ndarray:
    """Return the outputs, NaN where the kernel wrote none."""
    tokens, width = case.q.shape
    out = np.full((tokens, width), np.nan, "f4")
    out = truncated(out) if shape.q == "bf16" else out
    lists = [getattr(tiles, name) for name in LISTS]
    pages = np.ascontiguousarray(case.batch.table.ravel())
    given = [tokens, len(case.pools[0]), len(lists[0]), len(pages), case.q, *lists, pages,
             *case.pools, out]  # fmt: skip
    return widened(run(prompts(shape), given)[-1])


def case_of(shape: Parts, groups: str, seed: int = 0) -> tuple[Tree, PromptTiles]:
    own = [length for _, lengths in GROUPS[groups] for length in lengths]
    asked = QUERIES[groups] if seed % 2 else own
    queries = [min(pair) for pair in zip(asked, own, strict=True)]
    case = tree(shape, GROUPS[groups], queries, seed)
    return case, prompt_tiles(case.batch, planner_shape(shape))


def check(run: Any, shape: Parts, case: Tree, tiles: PromptTiles) -> None:
    found = launched(run, shape, case, tiles)
    taken = np.repeat(tiles.taken, np.diff(case.batch.starts))
    wanted = expected(shape, case)
    np.testing.assert_allclose(found[taken], wanted[taken], rtol=0, atol=tolerance(shape))
    assert np.isnan(found[~taken]).all()


@pytest.mark.parametrize("seed", range(2))
@each_tree
@each_shape
def test_rows_of_tiles_are_exact_and_no_others_are_written(
    shape: Parts, groups: str, seed: int
) -> None:
    check(interpreted, shape, *case_of(shape, groups, seed))


@pytest.mark.parametrize("name", TILED)
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    case, tiles = case_of(TILED[name], "forks")
    assert tiles.taken.any() and not tiles.taken.all()
    check(triton_interpreter.run, TILED[name], case, tiles)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TILED)
def test_gpu(name: str, gpu: Any) -> None:
    for groups, seed in ((groups, seed) for groups in GROUPS for seed in range(2)):
        check(gpu, TILED[name], *case_of(TILED[name], groups, seed))


@pytest.mark.gpu
@pytest.mark.parametrize("format", ["bf16", "f32"])
def test_gpu_as_the_engine_launches_them(format: str, gpu: Any) -> None:
    """Tiles and schedules of the 8 B shape: whole prompts, ends of prompts, behind shared pages."""

    def scheduled(kernel: Any, given: list[Any]) -> list[Any]:
        return gpu(kernel, given, schedule=gpu_schedule(kernel))

    shape = variants(Parts(32, 8, 128, page=64, q=format, kv=format), shared=True)[0].tiles
    lengths = [1, 64, 65, 200, 17, 300]
    case = tree(shape, [(2, lengths), (0, [511, 16])], [1, 64, 33, 200, 17, 16, 511, 16])
    tiles = prompt_tiles(case.batch, planner_shape(shape))
    assert tiles.taken.any() and not tiles.taken.all()
    check(scheduled, shape, case, tiles)


def test_no_tiles() -> None:
    shape = SHAPES["f32"]
    case = tree(shape, [(0, [3, 1])])
    tiles = prompt_tiles(case.batch, planner_shape(shape))
    assert not tiles.taken.any() and np.isnan(launched(interpreted, shape, case, tiles)).all()


@each_shape
def test_proven_and_round_trips(shape: Parts) -> None:
    kernel = prompts(shape)
    module = Module((kernel,))
    verify(module, ("tile",))
    assert parse_module(print_module(module)) == module
    assert prove_bounds(kernel).ok


@pytest.mark.parametrize("promise", ["prompt_limit[i]", "0 <= prompt_query", "< N"])
def test_a_list_that_promises_less_is_not_proven(promise: str) -> None:
    kernel = prompts(SHAPES["f32"])
    facts = [fact for fact in kernel["requires"] if promise not in fact]
    assert len(facts) < len(kernel["requires"])
    with pytest.raises(UnprovenAccess):
        prove_bounds(kernel.with_attributes(requires=facts))


def test_products_are_those_of_warp_groups_once_compiled() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    kernel = prompts(Parts(32, 8, 128, page=64))
    ptx = compile_offline(kernel, gpu_schedule(kernel))["ptx"]
    assert "wgmma.mma_async" in ptx and "griddepcontrol.wait" in ptx
