"""Barriers in front of what a program reads that its own threads have written, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.triton.emit import emit
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.builder import KernelBuilder

BARRIER, WIDTH = "tl.debug_barrier()", 256


def turned(of: str = "there") -> Operation:
    """there = x, and out = a buffer backwards: `there`, which other threads write, or x."""
    b = KernelBuilder("turned")
    buffers = {name: b.buffer(name, "i32", WIDTH) for name in ("x", "there", "out")}
    lane = b.iota(WIDTH)
    b.store(buffers["there"], lane, b.load(buffers["x"], lane))
    for _ in range(2):
        back = b.load(buffers[of], b.map(f"{WIDTH - 1} - a", lane, dtype="i32"))
        b.store(buffers["out"], lane, back)
    return b.finish(1)


def rounds() -> Operation:
    """Each round reads what the one before has written backwards."""
    b = KernelBuilder("rounds")
    there, lane = b.buffer("there", "i32", WIDTH), b.iota(WIDTH)
    with b.loop(b.full(0, "i32"), b.full(3, "i32"), hint="turn") as loop:
        value = b.load(there, b.map(f"{WIDTH - 1} - a", lane, dtype="i32"))
        b.store(there, lane, b.map("a + b", value, loop.index, dtype="i32"))
        loop.yields()
    return b.finish(1)


def test_one_barrier_stands_before_what_is_read_back() -> None:
    text = emit(turned()).text
    assert text.count(BARRIER) == 1  # the second load comes behind it
    assert text.index("tl.store(there") < text.index(BARRIER) < text.index("tl.load(there")


def test_what_others_wrote_before_needs_none() -> None:
    assert BARRIER not in emit(turned("x")).text


def test_a_round_waits_for_the_one_before() -> None:
    text = emit(rounds()).text
    assert text.index("for turn") < text.index(BARRIER) < text.index("tl.load(there")


def test_who_comes_last_has_waited_for_its_own_threads() -> None:
    b = KernelBuilder("met")
    there, counter, lane = b.buffer("there", "i32", WIDTH), b.buffer("counter", "i32", 1), b.iota(8)
    b.store(there, lane, lane)
    b.last(counter, b.full(0, "i32"), axis=0)
    b.store(there, lane, b.load(there, b.map("7 - a", lane, dtype="i32")))
    body = emit(b.finish(1)).text.partition("def met(")[2]
    assert "tl.load(there" in body and BARRIER not in body


def test_it_is_read_as_it_was_written(triton_interpreter: Any) -> None:
    x = np.arange(WIDTH, dtype="i4")
    given = [x, np.zeros(WIDTH, "i4"), np.zeros(WIDTH, "i4")]
    run_kernel(turned(), *given)
    np.testing.assert_array_equal(given[2], x[::-1])
    found = triton_interpreter.run(turned(), [x, np.zeros(WIDTH, "i4"), np.zeros(WIDTH, "i4")])
    np.testing.assert_array_equal(found[2], x[::-1])


def test_on_a_gpu_threads_wait() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    found = [compile_offline(turned(of), Schedule(num_warps=4))["ptx"].count("bar.sync")
             for of in ("x", "there")]  # fmt: skip
    assert found[1] == found[0] + 1


@pytest.mark.gpu
def test_gpu(gpu: Any) -> None:
    x = np.arange(WIDTH, dtype="i4")
    found = gpu(turned(), [x, np.zeros(WIDTH, "i4"), np.zeros(WIDTH, "i4")])
    np.testing.assert_array_equal(found[2], x[::-1])
