"""Items of one row each that a program reads several of: emitted, interpreted, proven."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import prove_bounds
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.schedule import Schedule
from weft.ir.verifier import verify
from weft.passes.tile.attention import grouped as grouped_parts
from weft.passes.tile.attention.grouped import grouped
from weft.passes.tile.attention.parts import FEW, MANY, Parts, attention_parts
from weft.passes.tile.attention.ways import (
    CROWDED,
    grouped_launches,
    join,
    launches,
    prompts,
    variants,
)
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.runtime.attention.ways import singles
from weft.tests.codegen.kernel_case import interpreted
from weft.tests.codegen.parts_cases import (
    SHAPES,
    Tree,
    expected,
    launched,
    planned,
    tolerance,
    tree,
)
from weft.tests.each_time import each_time

SHAPED = {name: replace(SHAPES[name], keys=keys)
          for name, keys in (("f32", 4), ("bf16", 8), ("paged", 8), ("odd_group", 4))}  # fmt: skip
"""Two, four, four and five rows a program; in the third two blocks a page. Pieces of a block have a
key or two."""
each_shape = pytest.mark.parametrize("shape", SHAPED.values(), ids=SHAPED)
LISTS = ("item_row", "item_rows", "item_page", "item_low", "item_high")
TREES = [(5, [3, 17, 1, 4, 9, 2, 30]), (2, [5, 40, 8, 1, 3, 7, 2]), (0, [12])]
"""Rows behind shared pages with up to ten blocks of their own, and one that shares none."""


def kernels(shape: Parts) -> list[Any]:
    return [attention_parts(replace(shape, items=MANY)), grouped(shape)]


def shared(shape: Parts, seed: int = 0) -> Tree:
    return tree(shape, TREES, seed=seed)


@pytest.mark.parametrize("shape", each_time(SHAPED, "f32"))
def test_proven_and_round_trips(shape: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two pieces a block: four, which differ in numbers only, take a proof ten seconds."""
    monkeypatch.setattr(grouped_parts, "PIECES", 2)
    kernel = grouped(shape)
    module = Module((kernel,))
    verify(module, ("tile",))
    assert parse_module(print_module(module)) == module
    assert prove_bounds(kernel).ok
    for promise in ("item_row[i] +", "pages[*]", "row_query"):
        facts = tuple(fact for fact in kernel["requires"] if promise not in fact)
        assert len(facts) < len(kernel["requires"])
        less = kernel.with_attributes(requires=facts)
        assert not prove_bounds(less, allow_unproven=True).ok, promise


@pytest.mark.parametrize("chunk", [0, 16])
@pytest.mark.parametrize("shape", each_time(SHAPED, "f32", "odd_group"))
def test_rows_attend_to_their_own_keys_and_to_shared_ones(shape: Parts, chunk: int) -> None:
    case = shared(shape)
    work = planned(shape, case, cascade=True, chunk=chunk)
    assert singles(work.item_rows, shape.rows_few) and (work.item_rows > shape.rows_few).any()
    found = launched(interpreted, shape, case, work, kernels=kernels(shape))
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@each_shape
def test_items_without_keys_and_without_rows_leave_what_they_should(shape: Parts) -> None:
    """A row that sees nothing has a result of zeros; places that a recording has too many, none."""
    case = tree(shape, [(0, [0]), (0, [5]), (0, [1])])
    work = planned(shape, case, cascade=False)
    empty = {name: np.append(getattr(work, name), np.zeros(9, "i4")) for name in LISTS}
    found = launched(interpreted, shape, case, replace(work, **empty), kernels=[grouped(shape)])
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("name", each_time(SHAPED.keys(), "bf16"))
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    shape = SHAPED[name]
    case = shared(shape, seed=2)
    work = planned(shape, case, cascade=True)
    found = launched(triton_interpreter.run, shape, case, work, kernels=kernels(shape))
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPED)
def test_gpu(name: str, gpu: Any) -> None:
    shape = SHAPED[name]
    for groups in (TREES, [(0, [0]), (0, [5]), (0, [1])], [(6, [7, 0, 1, 16, 33, 2, 5])]):
        case = tree(shape, groups, seed=len(groups))
        work = planned(shape, case, cascade=True)
        assert singles(work.item_rows, shape.rows_few)
        found = launched(gpu, shape, case, work, kernels=kernels(shape))
        np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "format"), [(32, "bf16"), (64, "bf16"), (32, "f32")])
def test_gpu_as_the_engine_launches_them(heads: int, format: str, gpu: Any) -> None:
    """Tiles, schedules and the join of steps of many rows."""
    large = variants(Parts(heads, 8, 128, page=64, q=format, kv=format), shared=True)[0].tiles
    case = tree(large, [(3, [1, 40, 64, 65, 200]), (16, [48] * 40), (0, [9, 0, 700])], seed=heads)
    work = planned(large, case, cascade=True)
    together = [(grouped_launches(large), None)] if format == "bf16" else []
    assert singles(work.item_rows, large.rows_few) and all(kernels for kernels, _ in together)

    def scheduled(kernel: Any, given: list[Any]) -> list[Any]:
        return gpu(kernel, given, schedule=gpu_schedule(kernel))

    for kernels, by in (*together, (launches(large, 48), join(large, 48))):
        found = launched(scheduled, large, case, work, by, kernels)
        np.testing.assert_allclose(found, expected(large, case), rtol=0, atol=tolerance(large))


def test_lists_of_shapes_that_were_measured_are_read_so() -> None:
    """Keys in bf16, without windows, in pages of whole blocks; up to four rows a program."""
    large = variants(Parts(32, 8, 128, page=64), shared=True)[0].tiles
    many, few = grouped_launches(large)
    assert many == attention_parts(replace(large, items=MANY))
    assert few["items"] == FEW and few["grid"] == ("8", "ceildiv(W, 4)")
    assert gpu_schedule(few) == replace(CROWDED, beside=True) != Schedule()
    for other in (Parts(32, 8, 128, page=16), Parts(32, 8, 128, page=64, kv="f8e4m3"),
                  Parts(32, 8, 128, page=64, window=9), Parts(32, 32, 128, page=64)):  # fmt: skip
        assert not grouped_launches(variants(other, shared=True)[0].tiles)


def test_large_tiles_of_wide_keys_in_f32_have_two_stages() -> None:
    """Three take 256 KB of shared memory, of which a program of an H200 has 227."""
    for width, format, wide in ((128, "f32", True), (64, "f32", False), (128, "bf16", False)):
        usual = Parts(32, 8, width, page=64, q=format, kv=format)
        large = variants(usual, shared=True)[0].tiles
        many, few = launches(large, 48)
        stages = [gpu_schedule(kernel).num_stages for kernel in (many, prompts(large))]
        assert stages == [2, 2] if wide else min(stages) > 2
        assert few["items"] == FEW and many["items"] == MANY
