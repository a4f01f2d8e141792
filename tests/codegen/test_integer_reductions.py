"""Reductions of the least and the largest integers of each type, as the reference does them."""

from __future__ import annotations

import copy
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


def test_compiled_for_cpu() -> None:
    agree(run(reduced(), arguments()))


def test_interpreted(triton_interpreter: Any) -> None:
    agree(triton_interpreter.run(reduced(), arguments()))


@pytest.mark.parametrize("dtype", NUMPY)
def test_what_a_reduction_starts_from_changes_nothing(dtype: str) -> None:
    known = np.iinfo(NUMPY[dtype])
    found = {op: integer_identity(op, dtype) for op in ("sum", "max", "min")}
    assert found == {"sum": 0, "max": known.min, "min": known.max}
