"""The sparse kernels: labels, scores, selection and gathered decode, against a float64 oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import UnprovenAccess, prove_bounds
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.sparse.policy import SparsePolicy
from weft.ir.verifier import verify
from weft.passes.tile.attention.paged import decode
from weft.tests.codegen.kernel_case import interpreted
from weft.tests.codegen.sparse_cases import (
    LENGTHS,
    SHAPES,
    Shape,
    case_of,
    check,
    covering,
    dense_shape,
    run_all,
)
from weft.tests.each_time import each_time

INTERPRETED = ("top_p", "tail", "k", "i4", "threshold", "pages", "tail_pages")
MEANT = ("k", "i4", "capped", "pages_top_p", "threshold", "tail_pages", "tail_parts")


@pytest.mark.parametrize("shape", each_time(SHAPES, "i4", "capped", "pages_top_p", "tail_parts"))
def test_proven_and_round_trips(shape: Shape) -> None:
    for kernel in shape.kernels.values():
        module = Module((kernel,))
        verify(module, ("tile",))
        assert parse_module(print_module(module)) == module
        assert prove_bounds(kernel).ok


@pytest.mark.parametrize("name", ["scores", "decode"])
def test_a_launch_that_promises_less_is_not_proven(name: str) -> None:
    kernel = SHAPES["k"].kernels[name]
    facts = [fact for fact in kernel["requires"] if "page_table" not in fact]
    with pytest.raises(UnprovenAccess):
        prove_bounds(kernel.with_attributes(requires=facts))


@pytest.mark.parametrize("shape", each_time(SHAPES, *MEANT))
def test_meaning(shape: Shape) -> None:
    for seed, ties in ((1, False), (2, True)):
        case = case_of(shape, LENGTHS, seed, ties)
        check(shape, case, run_all(interpreted, shape, case))


@pytest.mark.parametrize("name", each_time(SHAPES.keys(), "i4", "top_p", "tail_pages"))
def test_tvm(name: str) -> None:
    shape = SHAPES[name]
    pytest.importorskip("tvm")
    from weft.tests.codegen.tvm_cases import run

    for seed, ties in ((3, False), (4, True)):
        case = case_of(shape, [*LENGTHS, 130, 255], seed, ties)
        check(shape, case, run_all(run, shape, case))


def test_a_shift_of_the_scores_is_found_out() -> None:
    """A planted fault: the oracle sees labels made around another mean."""
    shape = SHAPES["k"]
    case = case_of(shape, LENGTHS, 1)
    wrong = replace(case, mean=case.mean * -3.0)
    with pytest.raises(AssertionError):
        check(shape, wrong, run_all(interpreted, shape, case))


@pytest.mark.parametrize("name", ["tail", "tail_pages"])
def test_a_tail_left_out_is_found_out(name: str) -> None:
    shape = SHAPES[name]
    plain = replace(shape, policy=replace(shape.policy, tail="none"))
    case = case_of(shape, LENGTHS, 1)
    found = run_all(interpreted, plain, case)
    check(plain, case, found)
    with pytest.raises(AssertionError):
        check(shape, case, found)


@pytest.mark.parametrize("unit", ["token", "page"])
def test_a_budget_that_covers_all_is_dense_decode(unit: str) -> None:
    """Bit by bit in what the kernels mean; compiled, each contracts products and sums as its
    processor's instructions fit its loops."""
    shape = covering(Shape(policy=SparsePolicy(k=9, sinks=2, recent=5, unit=unit, labels="i8")))
    case = case_of(shape, LENGTHS, 7)

    def sparse_and_dense(run: Any) -> tuple[np.ndarray, np.ndarray]:
        sizes = case.table.shape[0], len(case.k), case.table.shape[1]
        empty = np.full(case.q.shape, np.nan, "f4")
        given = [*sizes, case.q, case.table, case.lengths, case.k, case.v, empty]
        return run_all(run, shape, case)["out"], run(decode(dense_shape(shape)), given)[-1]

    found, wanted = sparse_and_dense(interpreted)
    assert (found == wanted).all()
    pytest.importorskip("tvm")
    from weft.tests.codegen.tvm_cases import run

    np.testing.assert_allclose(*sparse_and_dense(run), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", each_time(INTERPRETED, "top_p", "tail"))
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    shape = SHAPES[name]
    if shape.policy.labels == "bf16":  # the interpreter takes bf16 for integers
        shape = replace(shape, policy=replace(shape.policy, labels="i8"))
    case = case_of(shape, LENGTHS[:6], 5)
    check(shape, case, run_all(triton_interpreter.run, shape, case))


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_gpu(name: str, gpu: Any) -> None:
    shape = SHAPES[name]
    case = case_of(shape, LENGTHS, 5)
    check(shape, case, run_all(gpu, shape, case))


@pytest.mark.parametrize("name", each_time(("i4", "top_p", "tail_parts"), "i4"))
def test_compiles_for_hopper(name: str) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    for kernel in SHAPES[name].kernels.values():
        assert len(compile_offline(kernel)["cubin"]) > 1000


@pytest.mark.parametrize("amount", [{"threshold": 1e-5}, {"top_p": 1e-5}])
def test_a_small_amount_makes_a_name_that_can_be_compiled(amount: dict[str, float]) -> None:
    from weft.passes.tile.selection.bin_selection import BinSelection, select_bins
    from weft.passes.tile.selection.selection import Selection, select_keys

    for kernel in (
        select_keys(Selection(2, 16, **amount)),
        select_bins(BinSelection(2, 16, **amount)),
    ):
        name = kernel["name"].name
        assert name.isidentifier() and name != name.replace("m05", "")
