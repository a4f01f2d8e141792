"""Attention kernels, compiled and interpreted, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.reference import run_kernel
from weft.ir.core import Operation
from weft.passes.tile.attention.paged import Attention, attention, decode, merge
from weft.tests.codegen.attention_cases import Paged, expected, paged
from weft.tests.codegen.tvm_cases import run
from weft.tests.each_time import each_time

pytestmark = pytest.mark.usefixtures("ours_reads")

SHAPES = {
    "grouped": Attention(8, 2, 32), "wide": Attention(4, 1, 128),
    "bf16": Attention(4, 4, 16, kv="bf16"),
    "window": Attention(6, 2, 16, page=8, window=11), "scaled": Attention(4, 2, 16, scale=0.3),
    "narrow": Attention(3, 3, 8, page=4),
}  # fmt: skip
LENGTHS = [5, 0, 1, 40, 33, 16]
every_shape = pytest.mark.parametrize("name", SHAPES)


def decoded(kernel: Operation, case: Paged, outputs: list[np.ndarray], interpret: bool) -> list:
    b, _, n, pages = case.extents
    arguments = [b, n, pages, case.q, case.table, case.lengths, case.k, case.v, *outputs]
    if interpret:
        run_kernel(kernel, *arguments)
        return outputs
    return run(kernel, arguments)[-len(outputs) :]


def nans(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan, "f4")


@pytest.mark.parametrize("interpret", [False, True])
@every_shape
def test_decode(name: str, interpret: bool) -> None:
    shape = SHAPES[name]
    case = paged(shape, LENGTHS, [1] * len(LENGTHS))
    (out,) = decoded(decode(shape), case, [nans(*case.q.shape)], interpret)
    np.testing.assert_allclose(out, expected(shape, case), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("splits", each_time([2, 5], 5))
def test_splits_and_merge(splits: int) -> None:
    for window in (0, 20):
        shape = Attention(8, 2, 32, window=window, splits=splits)
        case = paged(shape, LENGTHS, [1] * len(LENGTHS), seed=splits)
        b = len(LENGTHS)
        state = [nans(b, splits, 8), nans(b, splits, 8), nans(b, splits, 8, 32)]
        state = decoded(decode(shape), case, state, interpret=False)
        *_, out = run(merge(8, 32, splits), [b, *state, nans(*case.q.shape)])
        np.testing.assert_allclose(out, expected(shape, case), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "rows", "programs"),
    each_time(
        [(name, *block) for name in SHAPES for block in ((4, 1), (8, 3))],
        *[("grouped", 4, 1), ("wide", 8, 3), ("bf16", 8, 3), ("window", 8, 3), ("scaled", 4, 1)],
    ),
)
def test_step_with_ragged_queries(name: str, rows: int, programs: int) -> None:
    base = SHAPES[name]
    shape = Attention(base.heads, base.kv_heads, base.head_dim, base.page, base.kv, base.scale,
                      base.window, rows=rows, programs=programs)  # fmt: skip
    case = paged(shape, [37, 5, 1, 64, 20, 3], [7, 5, 1, 20, 1, 0], seed=rows)
    b, b1, n, pages = case.extents
    arguments = [case.q.shape[0], b, b1, n, pages, case.q, case.table, case.starts, case.lengths,
                 case.k, case.v, nans(*case.q.shape)]  # fmt: skip
    *_, out = run(attention(shape), arguments)
    np.testing.assert_allclose(out, expected(shape, case), rtol=2e-5, atol=2e-6)
    if (name, rows) == ("grouped", 4):
        run_kernel(attention(shape), *arguments)
        np.testing.assert_allclose(arguments[-1], expected(shape, case), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("programs", each_time([1, 3], 3))
def test_tiles_of_the_few_queries_that_are_left(programs: int) -> None:
    """A chunk of any length: whole tiles, whose pages are turned round, one of few, one alone."""
    shape = Attention(4, 2, 32, rows=8, few=4, programs=programs)
    queries = [*range(1, 14), 16, 17, 21]
    case = paged(shape, [count + 3 * count % 19 for count in queries], queries)
    b, b1, n, pages = case.extents
    arguments = [case.q.shape[0], b, b1, n, pages, case.q, case.table, case.starts, case.lengths,
                 case.k, case.v, nans(*case.q.shape)]  # fmt: skip
    *_, out = run(attention(shape), arguments)
    np.testing.assert_allclose(out, expected(shape, case), rtol=2e-5, atol=2e-6)
    assert prove_bounds(attention(shape)).ok


def test_no_sequences() -> None:
    shape = SHAPES["grouped"]
    out = decoded(decode(shape), paged(shape, [16], [1]), [nans(1, 256)], interpret=False)
    assert np.isfinite(out[0]).all()
