"""Numbers of each type: reductions of the least and the largest integers, and expressions of reals
and of 64 bits, as the reference does them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.tile_analysis import integer_identity
from weft.ir.core import Operation
from weft.passes.tile.builder import KernelBuilder
from weft.tests.codegen.tvm_cases import run

NUMPY = {"i64": np.int64, "i32": np.int32, "u32": np.uint32, "i8": np.int8}
WIDTH = 12
"""Vectors of four on a CPU; Triton pads it to 16."""


def reduced() -> Operation:
    """For each type: max, min, and where the largest is, of each of three rows."""
    b = KernelBuilder("reduced")
    row, lane = b.program_id(0), b.iota(WIDTH)
    for dtype in NUMPY:
        value = b.load(b.buffer(f"{dtype}_x", dtype, 3, WIDTH), row, lane)
        found, place = b.buffer(f"{dtype}_found", dtype, 3, 2), b.buffer(f"{dtype}_at", "i32", 3)
        for column, op in enumerate(("max", "min")):
            b.store(found, row, b.full(column, "i32"), b.reduce(op, value, 0))
        b.store(place, row, b.argmax(value, 0))
    return b.finish("3")


def arguments() -> list[np.ndarray]:
    """Rows of the least number, of the largest, and of the least with one above it."""
    given = []
    for dtype in NUMPY.values():
        known = np.iinfo(dtype)
        rows = np.full((3, WIDTH), known.min, dtype)
        rows[1], rows[2, 5] = known.max, known.min + 1
        given += [rows, np.zeros((3, 2), dtype), np.full(3, -1, "i4")]
    return given


def agree(found: list[Any]) -> None:
    wanted = copy.deepcopy(arguments())
    run_kernel(reduced(), *wanted)
    for (dtype, kind), got, sure in zip(
        [(d, k) for d in NUMPY for k in ("x", "found", "at")], found, wanted, strict=True
    ):
        np.testing.assert_array_equal(got, sure, f"{dtype} {kind}")
    assert found[2].tolist() == [0, 0, 5]


REAL = ("a // 5", "a % 5", "a % 0.5", "b * 0.5", "where(b > 0, 0.5, a)", "f32(b) // 2.0")
WHOLE = ("abs(b)", "max(b, 1) - 1")


def expressed() -> Operation:
    """Rows of REAL and of WHOLE, of a [4] f32 and b [4] i64."""
    b = KernelBuilder("expressed")
    lane = b.iota(4)
    values = [
        b.load(b.buffer(name, dtype, 4), lane) for name, dtype in (("x", "f32"), ("n", "i64"))
    ]
    for name, dtype, texts in (("real", "f32", REAL), ("whole", "i64", WHOLE)):
        out = b.buffer(name, dtype, len(texts), 4)
        for row, text in enumerate(texts):
            b.store(out, b.full(row, "i32"), lane, b.map(text, *values, dtype=dtype))
    return b.finish("1")


def agree_in_all(run: Callable[..., list[Any]]) -> None:
    agree(run(reduced(), arguments()))
    given = [np.array([-6.5, 6.5, -0.25, 4.0], "f4"), np.array([-(2**40), 3, -7, 2**33]),
             np.zeros((len(REAL), 4), "f4"), np.zeros((len(WHOLE), 4), "i8")]  # fmt: skip
    *_, real, whole = run(expressed(), given)
    run_kernel(expressed(), *given)
    for text, found, wanted in zip((*REAL, *WHOLE), (*real, *whole), (*given[2], *given[3]),
                                   strict=True):  # fmt: skip
        np.testing.assert_array_equal(found, wanted, text)


def test_compiled_for_cpu() -> None:
    agree_in_all(run)


def test_interpreted(triton_interpreter: Any) -> None:
    agree_in_all(triton_interpreter.run)


@pytest.mark.gpu
def test_gpu(gpu: Callable[..., list[Any]]) -> None:
    agree_in_all(gpu)


@pytest.mark.parametrize("dtype", NUMPY)
def test_what_a_reduction_starts_from_changes_nothing(dtype: str) -> None:
    known = np.iinfo(NUMPY[dtype])
    found = {op: integer_identity(op, dtype) for op in ("sum", "max", "min")}
    assert found == {"sum": 0, "max": known.min, "min": known.max}
