"""Kernels launched before the one in front has ended: that they wait, and compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from weft.codegen.emit_triton import emit
from weft.codegen.reference import run_kernel
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.builder import KernelBuilder


def scaled() -> Operation:
    """y = x * w of 64 elements a row."""
    b = KernelBuilder("scaled")
    b.scalar("T")
    x, w = b.buffer("x", "f32", "T", 64), b.buffer("w", "f32", 64)
    out = b.buffer("out", "f32", "T", 64)
    row, lane = b.program_id(0), b.iota(64)
    b.store(out, row, lane, b.map("a * b", b.load(x, row, lane), b.load(w, lane)))
    return b.finish("T", requires=("T >= 0",))


def test_a_chained_kernel_waits_before_it_reads_and_lets_the_next_one_come() -> None:
    text = emit(scaled(), Schedule(chained=True)).text
    body = text[text.index("def scaled(") :]
    pieces = ["gdc_wait()", "gdc_launch_dependents()", "tl.load(x", "tl.load(w", "tl.store(out"]
    assert sorted(pieces, key=body.index) == pieces
    assert "gdc" not in emit(scaled()).text


def test_a_kernel_of_a_gpu_computes_as_the_reference(triton_interpreter: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype("f4") for shape in ((3, 64), (64,)))
    arguments = [3, x, w, np.full((3, 64), np.nan, "f4")]
    run_kernel(scaled(), *arguments)
    np.testing.assert_array_equal(arguments[3], x * w)
    np.testing.assert_array_equal(triton_interpreter.run(scaled(), arguments)[3], x * w)
