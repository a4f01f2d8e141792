"""The reference interpreter of tile kernels: what it accepts, computes and refuses."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.arrays import BadArgument, narrow, widen
from weft.codegen.meaning.facts import BrokenFact
from weft.codegen.meaning.reference import OutOfBounds, run_kernel
from weft.ir.core import Operation
from weft.passes.tile.builder import KernelBuilder
from weft.passes.tile.rows.elementwise import add, take_rows


def histogram(bins: int = 4) -> Operation:
    b = KernelBuilder("histogram")
    total = b.scalar("T")
    values, counts = b.buffer("values", "i32", "T"), b.buffer("counts", "i32", bins)
    lane = b.iota(8)
    place = b.map("a * 8 + b", b.program_id(0), lane, dtype="i32")
    live = b.map("a < b", place, total)
    found = b.load(values, place, mask=live)
    b.atomic_add(counts, found, b.full(1, "i32", 8), mask=live)
    return b.finish("ceildiv(T, 8)", requires=(f"0 <= values[*] < {bins}",))


def test_atomic_add(triton_interpreter: Any) -> None:
    values = np.random.default_rng(0).integers(0, 4, 21).astype("i4")
    for run in (lambda k, a: (run_kernel(k, *a), a)[1], triton_interpreter.run):
        arguments = [21, values, np.zeros(4, "i4")]
        np.testing.assert_array_equal(
            run(histogram(), arguments)[2], np.bincount(values, minlength=4)
        )
    assert prove_bounds(histogram()).ok


def test_out_of_bounds_names_the_place() -> None:
    b = KernelBuilder("shifted")
    b.scalar("T")
    x, y = b.buffer("x", "f32", "T"), b.buffer("y", "f32", "T")
    row = b.program_id(0)
    b.store(y, row, b.load(x, b.map("a + 1", row)))
    kernel = b.finish("T")
    with pytest.raises(OutOfBounds) as caught:
        run_kernel(kernel, 3, np.zeros(3, "f4"), np.zeros(3, "f4"))
    text = str(caught.value)
    assert "@shifted: index 3 on axis 0 of %x is outside its extent 3, at program (2,)" in text
    assert "tile.load %x" in text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_broken_fact() -> None:
    rows = np.array([0, 7], "i4")
    with pytest.raises(BrokenFact, match=r"0 <= rows\[\*\] < T"):
        run_kernel(take_rows(4), 7, 2, np.zeros((7, 4), "f4"), rows, np.zeros((2, 4), "f4"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((1,), "1 arguments given, 4 wanted"),
        ((2, np.zeros((2, 3), "f4"), np.zeros((2, 4), "f4"), np.zeros((2, 4), "f4")), "axis 1"),
        ((2, np.zeros((2, 4), "f8"), np.zeros((2, 4), "f4"), np.zeros((2, 4), "f4")), "float64"),
        ((3, np.zeros((2, 4), "f4"), np.zeros((3, 4), "f4"), np.zeros((3, 4), "f4")), "T is 3"),
        ((2, [0.0], np.zeros((2, 4), "f4"), np.zeros((2, 4), "f4")), "not an array"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(BadArgument, match=problem):
        run_kernel(add(4), *arguments)


def test_tensors_share_their_memory() -> None:
    x, out = torch.randn(2, 4).bfloat16(), torch.zeros(2, 4).bfloat16()
    run_kernel(add(4, "bf16"), 2, x, x, out)
    torch.testing.assert_close(out, x + x)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
@settings(deadline=None)
def test_bf16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, "f4")
    ours = widen(narrow(array, "bf16"), "bf16")
    np.testing.assert_array_equal(ours, torch.from_numpy(array).bfloat16().float().numpy())


@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(-2, 7), st.integers(-1, 2), st.integers(0, 3)
)
@settings(deadline=None, max_examples=60)
def test_what_is_proven_never_fails(
    columns: int, block: int, bound: int, offset: int, rows: int
) -> None:
    """Soundness of the prover, and its counter-examples are real for these kernels."""
    b = KernelBuilder("walk")
    b.scalar("T")
    x = b.buffer("x", "f32", "T", columns)
    row = b.program_id(0)
    with b.loop(b.full(0, "i32"), b.full(columns, "i32"), step=block) as loop:
        column = b.map(f"a + b + {offset}", loop.index, b.iota(block), dtype="i32")
        b.store(x, row, column, b.full(1.0, "f32"), mask=b.map(f"a < {bound}", column))
        loop.yields()
    kernel = b.finish("T")
    proven = prove_bounds(kernel, allow_unproven=True).ok
    arguments = [rows, np.zeros((rows, columns), "f4")]
    if proven:
        run_kernel(kernel, *arguments)
    elif rows:
        with pytest.raises(OutOfBounds):
            run_kernel(kernel, *arguments)
