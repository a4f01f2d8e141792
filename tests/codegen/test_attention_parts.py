"""Attention over work lists: flat, cascade, prefill and windows against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parts_cases import arguments, expected, planned, planner_shape, tree, widened
from weft.codegen.bounds import UnprovenAccess, prove_bounds
from weft.codegen.reference import run_kernel
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.verifier import verify
from weft.passes.tile.attention_parts import Parts, attention_merge, attention_parts

SHAPES = {
    "f32": Parts(4, 2, 16, page=4, q="f32", kv="f32", few=4, many=8, keys=8, keys_many=4),
    "bf16": Parts(8, 2, 32, page=8, few=16, many=32, keys=16, keys_many=8),
    "paged": Parts(8, 2, 16, page=16, q="f32", kv="f32", few=16, many=32, keys=8, keys_many=16),
    "one_tile": Parts(4, 4, 16, page=4, q="f32", kv="f32", few=4, many=0, keys=4),
    "odd_group": Parts(6, 2, 16, page=4, q="f32", kv="f32", few=16, many=32, keys=4, keys_many=4),
    "window": Parts(4, 2, 16, page=4, q="f32", kv="f32", window=9, few=4, many=8, keys=4,
                    keys_many=4),
}  # fmt: skip
GROUPS = {
    "apart": [(0, [5]), (0, [0]), (0, [33]), (0, [1])],
    "forks": [(5, [3, 17, 1, 4, 9, 2, 30]), (0, [12])],
    "two": [(3, [1, 2]), (6, [7, 7, 7])],
}
QUERIES = {"apart": [3, 0, 9, 1], "forks": [1, 5, 1, 2, 1, 1, 11, 4], "two": [1, 2, 3, 1, 7]}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
each_tree = pytest.mark.parametrize("groups", GROUPS)


def tolerance(shape: Parts) -> float:
    """bf16: queries, keys and values are exact, weights and results rounded to 8 bits."""
    return 2e-2 if shape.q == "bf16" else 2e-5


def launched(run: Any, shape: Parts, case: Any, work: Any) -> np.ndarray:
    parts, join = arguments(shape, case, work)
    after = run(attention_parts(shape), parts)
    join[6:9], join[9] = after[-3:], after[-4]
    return widened(run(attention_merge(shape.heads, shape.head_dim, shape.q), join)[-1])


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


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "bf16"])
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    """All but bf16: Triton's interpreter multiplies the bits of bf16 as if they were integers."""
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
