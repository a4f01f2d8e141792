"""Attention over work lists: flat, cascade, prefill and windows against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import UnprovenAccess, prove_bounds
from weft.codegen.triton.emit import emit
from weft.ir.core import Module, walk
from weft.ir.dialects.tile import extents_of
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.schedule import Schedule
from weft.ir.verifier import verify
from weft.passes.tile.attention.join import MOST_FEW, attention_merge, merge_of_many
from weft.passes.tile.attention.parts import ALL, Parts, attention_parts
from weft.passes.tile.attention.ways import launches
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.tests.codegen.kernel_case import interpreted
from weft.tests.codegen.parts_cases import (
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
from weft.tests.each_time import each_time


@pytest.mark.parametrize("shape", each_time(SHAPES, "bf16", "odd_group", "window"))
def test_proven_and_round_trips(shape: Parts) -> None:
    for kernel in (*launches(shape), attention_merge(shape.heads, shape.head_dim, shape.q)):
        module = Module((kernel,))
        verify(module, ("tile",))
        assert parse_module(print_module(module)) == module
        assert prove_bounds(kernel).ok


def test_a_list_that_promises_less_is_not_proven() -> None:
    for kernel in launches(SHAPES["f32"]):
        for promise in ("item_high", "M <= W"):
            facts = [fact for fact in kernel["requires"] if promise not in fact]
            if len(facts) < len(kernel["requires"]):
                with pytest.raises(UnprovenAccess):
                    prove_bounds(kernel.with_attributes(requires=facts))


@pytest.mark.parametrize("page", [16, 64, 128])
def test_pages_are_looked_up_one_by_one_whatever_they_hold(page: int) -> None:
    """None by a tile of numbers, which would go through shared memory to the rows of keys."""
    (kernel,) = launches(Parts(32, 8, 128, page=page, many=0))
    found = [op.result for op in walk(kernel.regions[0].operations)
             if op.name == "tile.load" and op.operands[0].name == "pages"]  # fmt: skip
    assert [extents_of(value.type) for value in found] == [()] * (2 * max(1, 64 // page))


DECODED: dict[tuple[Any, ...], np.ndarray] = {}
"""What lists gave, by their shape, tree and bytes: forced choices, and the planner's own, are often
one list, which is run once."""


@pytest.mark.parametrize(
    ("shape", "groups", "cascade"),
    [
        pytest.param(SHAPES[shape], groups, cascade, id=f"{shape}-{groups}-{cascade}", marks=(
            () if shape == "f32" or (groups, cascade) == ("forks", True) else pytest.mark.slow
        ))
        for shape in SHAPES for groups in GROUPS for cascade in (False, True, None)
    ],
)  # fmt: skip
def test_decode(shape: Parts, groups: str, cascade: bool | None) -> None:
    case = tree(shape, GROUPS[groups])
    for chunk in (0, planner_shape(shape).granule):
        work = planned(shape, case, cascade=cascade, chunk=chunk)
        lists = (part.tobytes() for part in vars(work).values() if isinstance(part, np.ndarray))
        key = (shape, groups, *lists)
        if key not in DECODED:
            DECODED[key] = launched(interpreted, shape, case, work)
        found = DECODED[key]
        np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_one_launch_reads_items_of_many_rows_and_of_few(name: str) -> None:
    shape = SHAPES[name]
    kernel = attention_parts(replace(shape, items=ALL))
    assert prove_bounds(kernel).ok
    case = tree(shape, GROUPS["forks"])
    work = planned(shape, case, cascade=True)
    sizes = work.item_rows > shape.rows_few
    assert sizes.any() and not sizes.all()
    found = launched(interpreted, shape, case, work, kernels=[kernel])
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("groups", each_time(GROUPS.keys(), "forks"))
@pytest.mark.parametrize("shape", each_time(SHAPES, "f32", "bf16", "odd_group", "window"))
def test_prefill_over_a_cached_prefix(shape: Parts, groups: str) -> None:
    own = [length for _, lengths in GROUPS[groups] for length in lengths]
    queries = [min(pair) for pair in zip(QUERIES[groups], own, strict=True)]
    case = tree(shape, GROUPS[groups], queries)
    for chunk in (0, 2 * planner_shape(shape).granule):
        found = launched(interpreted, shape, case, planned(shape, case, chunk=chunk))
        np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("name", each_time(SHAPES.keys(), "odd_group", "window"))
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    shape = SHAPES[name]
    case = tree(shape, GROUPS["forks"], [1, 5, 1, 2, 1, 1, 11, 4], seed=2)
    work = planned(shape, case, cascade=None if shape.window else True, chunk=16)
    found = launched(triton_interpreter.run, shape, case, work)
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("together", [1, 2])
def test_heads_are_joined_together_a_few_slots_at_a_time(together: int) -> None:
    shape = SHAPES["f32"]
    case = tree(shape, [(3, [33, 7, 1]), (0, [40])])
    work = planned(shape, case, cascade=True, chunk=8)
    assert np.diff(work.merge_start).max() > 4
    join = attention_merge(shape.heads, shape.head_dim, shape.q, 4, together)
    assert prove_bounds(join).ok
    found = launched(interpreted, shape, case, work, join)
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("heads, together", [(32, 16), (24, 4), (8, 4), (6, 1)])
def test_joins_of_many_rows_have_programs_for_all_heads(heads: int, together: int) -> None:
    join = merge_of_many(heads, 16, "f32")
    assert join["grid"] == ("G", str(heads // together)) and prove_bounds(join).ok
    assert gpu_schedule(join).num_warps == (8 if together > 1 else 2)


def test_joins_of_few_rows_and_of_many_do_each_its_own() -> None:
    """Three rows are many: what reads many slots at once leaves all as it is."""
    shape = SHAPES["f32"]
    for groups, rows in (([(3, [33, 7, 1])], "many"), ([(0, [40])], "few")):
        case = tree(shape, groups)
        work = planned(shape, case, cascade=False, chunk=8)
        assert (len(work.merge_query) > MOST_FEW) == (rows == "many")
        for kind in ("few", "many"):
            join = attention_merge(shape.heads, shape.head_dim, shape.q, 4, rows=kind)
            assert prove_bounds(join).ok
            found = launched(interpreted, shape, case, work, join)
            if kind == rows:
                wanted = expected(shape, case)
                np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance(shape))
            else:
                assert np.isnan(found).any()


def test_no_sequences() -> None:
    shape = SHAPES["f32"]
    case = tree(shape, [])
    work = planned(shape, case)
    assert not len(work.item_row) and not len(work.merge_query)
    assert launched(interpreted, shape, case, work).shape == (0, 64)


def test_items_of_few_rows_run_beside_those_of_many_and_end_after_them() -> None:
    many, few = launches(SHAPES["bf16"])
    first, beside = (emit(kernel, gpu_schedule(kernel)).text for kernel in (many, few))
    assert first.index("tl.load(item_row") < first.index("gdc_wait") < first.index("tl.load(q")
    assert first.index("gdc_wait") < first.index("gdc_launch_dependents") < first.index(" in tl.")
    assert beside.index("gdc_launch_dependents") < beside.index("tl.load")
    counts = "(tl.program_id({0}) == tl.num_programs({0}) - 1)"
    last = f"    if {counts.format(0)} & {counts.format(1)}:\n"
    assert last + "        tl.extra.cuda.gdc_wait()\n\n\ndef grid" in beside
    assert beside.count("gdc_wait") == 1 and beside.rindex("tl.store") < beside.index("gdc_wait")


def test_a_kernel_waits_before_all_but_what_was_given() -> None:
    """Lists are there from the start; what the kernel before writes is read after the wait, which
    even a program with nothing to do comes to."""
    join = emit(attention_merge(4, 16), Schedule(chained=True)).text
    assert join.index("tl.load(merge_start") < join.index("gdc_wait") < join.index(" in tl.range")
    plain = attention_merge(4, 16).with_attributes(given=None)
    text = emit(plain, Schedule(chained=True)).text
    assert text.index("gdc_wait") < text.index("tl.load")


def test_chained_kernels_wait_for_the_one_before() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    kernel = attention_merge(4, 16)
    alone, chained = (
        compile_offline(kernel, Schedule(chained=chained))["ptx"] for chained in (False, True)
    )
    assert "griddepcontrol.wait" in chained and "griddepcontrol.launch_dependents" in chained
    assert "griddepcontrol" not in alone
    assert "launch_pdl=True" in emit(kernel, Schedule(chained=True)).text
