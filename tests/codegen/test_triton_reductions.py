"""Reductions that stand side by side: emitted as one where warps would wait for each other."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.triton import emitter
from weft.codegen.triton.emit import emit
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.builder import KernelBuilder

ROWS, WIDTH = 3, 512


def sums(count: int, dtype: str = "i32", ops: str = "", width: int = WIDTH) -> Operation:
    """out[row, n] = a sum (or what `ops` says: s, m for max) over x[row] * (n + 1)."""
    b = KernelBuilder(f"sums_{count}")
    b.scalar("T")
    x, out = b.buffer("x", dtype, "T", width), b.buffer("out", dtype, "T", count)
    row = b.program_id(0)
    value = b.load(x, row, b.iota(width))
    scaled = [b.map(f"a * {n + 1}", value, dtype=dtype) for n in range(count)]
    kinds = [{"s": "sum", "m": "max"}[op] for op in ops or "s" * count]
    found = [b.reduce(op, each, 0) for op, each in zip(kinds, scaled, strict=True)]
    for n, each in enumerate(found):
        b.store(out, row, b.full(n, "i32"), each)
    return b.finish("T", requires=("T >= 0",))


def together(kernel: Operation, warps: int = 4) -> list[int]:
    """Return how many reductions each call does of those that do several."""
    text = emit(kernel, Schedule(num_warps=warps)).text
    return [int(count) for count in re.findall(r" = (?:sum|max|min)_of_(\d+)\(", text)]


def test_sums_side_by_side_are_one() -> None:
    assert together(sums(3)) == [3]
    assert together(sums(10)) == [8, 2]  # each holds registers until all are done
    assert together(sums(9)) == [8]


def test_a_warp_alone_waits_for_none() -> None:
    assert together(sums(3), warps=1) == []


def test_what_is_not_alike_stays_apart() -> None:
    """Other operations, or numbers whose sum depends on the order of additions, or padded tiles."""
    assert together(sums(5, ops="ssmms")) == [2, 2]
    assert together(sums(3, "f32")) == []
    assert together(sums(3, width=WIDTH - 1)) == []


def test_a_sum_of_a_sum_waits_for_it() -> None:
    b = KernelBuilder("twice")
    x, out = b.buffer("x", "i32", 16, 16), b.buffer("out", "i32", 16)
    value = b.load(x, b.expand(b.iota(16), 1), b.expand(b.iota(16), 0))
    rows = b.reduce("sum", value, 1)
    b.store(out, b.full(0, "i32"), b.reduce("sum", rows, 0))
    assert together(b.finish(1)) == []


@pytest.mark.parametrize("ops", ["sss", "mm", "ssmms"])
def test_they_compute_what_they_do_apart(ops: str, triton_interpreter: Any) -> None:
    kernel, count = sums(len(ops), ops=ops), len(ops)
    x = np.random.default_rng(0).integers(-1000, 1000, (ROWS, WIDTH)).astype("i4")
    blank = np.full((ROWS, count), -7, "i4")
    run_kernel(kernel, ROWS, x, expected := blank.copy())
    np.testing.assert_array_equal(triton_interpreter.run(kernel, [ROWS, x, blank])[2], expected)


def test_warps_wait_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    def barriers() -> int:
        return compile_offline(sums(8), Schedule(num_warps=4))["ptx"].count("bar.sync")

    at_once = barriers()
    monkeypatch.setattr(emitter, "reductions", lambda found, *_: ([each] for each in found))
    assert barriers() >= at_once + 7


@pytest.mark.gpu
@pytest.mark.parametrize("ops", ["s" * 8, "ssmms"])
def test_gpu(ops: str, gpu: Any) -> None:
    kernel, count = sums(len(ops), ops=ops), len(ops)
    x = np.random.default_rng(1).integers(-(2**27), 2**27, (ROWS, WIDTH)).astype("i4")
    blank = np.full((ROWS, count), -7, "i4")
    run_kernel(kernel, ROWS, x, expected := blank.copy())
    np.testing.assert_array_equal(gpu(kernel, [ROWS, x, blank])[2], expected)
