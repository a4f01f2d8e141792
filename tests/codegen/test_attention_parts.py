"""Attention over work lists: flat, cascade, prefill and windows against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parts_cases import (
    GROUPS,
    QUERIES,
    SHAPES,
    expected,
    launched,
    planned,
    planner_shape,
    tolerance,
    tree,
)
from weft.codegen.bounds import UnprovenAccess, prove_bounds
from weft.codegen.emit_triton import emit
from weft.codegen.reference import run_kernel
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.schedule import Schedule
from weft.ir.verifier import verify
from weft.passes.tile.attention_parts import Parts, attention_merge, attention_parts

each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
each_tree = pytest.mark.parametrize("groups", GROUPS)


def interpreted(kernel: Any, given: list[Any]) -> list[Any]:
    run_kernel(kernel, *given)
    return given


@each_shape
def test_proven_and_round_trips(shape: Parts) -> None:
    for kernel in (attention_parts(shape), attention_merge(shape.heads, shape.head_dim, shape.q)):
        module = Module((kernel,))
        verify(module, ("tile",))
        assert parse_module(print_module(module)) == module
        assert prove_bounds(kernel).ok


def test_a_list_that_promises_less_is_not_proven() -> None:
    kernel = attention_parts(SHAPES["f32"])
    facts = [fact for fact in kernel["requires"] if "item_high" not in fact]
    with pytest.raises(UnprovenAccess):
        prove_bounds(kernel.with_attributes(requires=facts))


@pytest.mark.parametrize("cascade", [False, True, None])
@each_tree
@each_shape
def test_decode(shape: Parts, groups: str, cascade: bool | None) -> None:
    case = tree(shape, GROUPS[groups])
    for chunk in (0, planner_shape(shape).granule):
        work = planned(shape, case, cascade=cascade, chunk=chunk)
        found = launched(interpreted, shape, case, work)
        np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@each_tree
@each_shape
def test_prefill_over_a_cached_prefix(shape: Parts, groups: str) -> None:
    own = [length for _, lengths in GROUPS[groups] for length in lengths]
    queries = [min(pair) for pair in zip(QUERIES[groups], own, strict=True)]
    case = tree(shape, GROUPS[groups], queries)
    for chunk in (0, 2 * planner_shape(shape).granule):
        found = launched(interpreted, shape, case, planned(shape, case, chunk=chunk))
        np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("name", SHAPES)
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    shape = SHAPES[name]
    case = tree(shape, GROUPS["forks"], [1, 5, 1, 2, 1, 1, 11, 4], seed=2)
    work = planned(shape, case, cascade=None if shape.window else True, chunk=16)
    found = launched(triton_interpreter.run, shape, case, work)
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


def test_no_sequences() -> None:
    shape = SHAPES["f32"]
    case = tree(shape, [])
    work = planned(shape, case)
    assert not len(work.item_row) and not len(work.merge_query)
    assert launched(interpreted, shape, case, work).shape == (0, 64)


def test_chained_kernels_wait_for_the_one_before() -> None:
    pytest.importorskip("triton")
    from weft.codegen.compile_triton import compile_offline

    kernel = attention_merge(4, 16)
    alone, chained = (
        compile_offline(kernel, Schedule(chained=chained))["ptx"] for chained in (False, True)
    )
    assert "griddepcontrol.wait" in chained and "griddepcontrol.launch_dependents" in chained
    assert "griddepcontrol" not in alone
    assert "launch_pdl=True" in emit(kernel, Schedule(chained=True)).text
