"""Divisions round down on a GPU too, where Triton's own round towards zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.triton.emit import emit
from weft.ir.core import Operation
from weft.passes.tile.builder import KernelBuilder

DIVISIONS = ("a // 4", "a % 4", "a // 3", "a % 3", "a // b", "a % b", "ceildiv(a, 4)",
             "ceildiv(a, b)", "(a - b) // 2", "(a - b) % 1", "max(a, 0) // 4",
             "a // (2 * 4)", "a % (2 * 4)", "a // min(4, 8)")  # fmt: skip


def divided() -> Operation:
    """A row of out for each of DIVISIONS, of a that may be negative and b that is not."""
    b = KernelBuilder("divided")
    x, y = b.buffer("x", "i32", 16), b.buffer("y", "i32", 16)
    out, lane = b.buffer("out", "i32", len(DIVISIONS), 16), b.iota(16)
    pair = b.load(x, lane), b.load(y, lane)
    for row, text in enumerate(DIVISIONS):
        value = b.map(text, *pair[: 1 + ("b" in text)], dtype="i32")
        b.store(out, b.full(row, "i32"), lane, value)
    return b.finish("1", requires=("0 <= y[*] < 9",))


def divide_alike(run: Callable[..., list[Any]]) -> None:
    arguments = [np.arange(-8, 8, dtype="i4"), np.arange(16, dtype="i4") % 7 + 1,
                 np.zeros((len(DIVISIONS), 16), "i4")]  # fmt: skip
    found = run(divided(), arguments)[2]
    run_kernel(divided(), *arguments)
    for text, got, wanted in zip(DIVISIONS, found, arguments[2], strict=True):
        np.testing.assert_array_equal(got, wanted, text)


def test_what_may_be_negative_is_divided_as_the_reference_divides_it(
    triton_interpreter: Any,
) -> None:
    divide_alike(triton_interpreter.run)


@pytest.mark.gpu
def test_gpu(gpu: Callable[..., list[Any]]) -> None:
    divide_alike(gpu)


def of_bits(text: str) -> Operation:
    """A division of 32 bits that are read as a signed number."""
    b = KernelBuilder("bits")
    x, out, lane = b.buffer("x", "u32", 16), b.buffer("out", "i32", 16), b.iota(16)
    value = b.map(text, b.load(x, lane), dtype="i32")
    b.store(out, lane, b.map("a // 16", value, dtype="i32"))
    return b.finish("1")


@pytest.mark.parametrize("text", ["a", "i32(a) // 2"])
def test_bits_that_are_read_as_a_signed_number_may_be_negative(
    text: str, triton_interpreter: Any
) -> None:
    arguments = [np.arange(-64, 64, 8, dtype="i4").view("u4"), np.zeros(16, "i4")]
    found = triton_interpreter.run(of_bits(text), arguments)[1]
    run_kernel(of_bits(text), *arguments)
    np.testing.assert_array_equal(found, arguments[1])


def looped(low: int, step: str, fact: str = "0 <= x[*]", at: str = "a") -> Operation:
    """A page of what a loop carries and its index, and of a number that is read."""
    b = KernelBuilder("looped")
    rounds, x, out = b.scalar("N"), b.buffer("x", "i32", "M"), b.buffer("out", "i32", "N")
    b.scalar("M")
    with b.loop(b.full(low, "i32"), rounds, b.full(3, "i32")) as loop:
        b.store(out, b.map(f"({at}) // 16", loop.index, dtype="i32"), loop.carried[0])
        loop.yields(b.map(step, loop.carried[0], b.load(x, loop.index), dtype="i32"))
    b.store(out, b.map("a // 16", loop.results[0], dtype="i32"), loop.results[0])
    return b.finish("1", requires=(fact,))


@pytest.mark.parametrize(
    ("kernel", "put_right"),
    [(looped(0, "a + b"), 0), (looped(0, "a - b"), 1), (looped(-1, "a + b"), 1),
     (looped(0, "a + b", "-1 <= x[*]"), 1), (looped(0, "a + b", at="a - 1"), 1),
     (looped(0, "max(a, a - b)"), 0), (looped(0, "min(a, b - 1)"), 1),
     (looped(0, "a * b", "x[*] >= 0"), 0), (looped(-1, "min(a - b, 1)", "x[i] <= N"), 2)],
)  # fmt: skip
def test_what_cannot_be_negative_is_divided_as_it_is_written(
    kernel: Operation, put_right: int
) -> None:
    text = emit(kernel).text
    assert (text.count(" // 16"), text.count(" >> 4")) == (2 - put_right, put_right)


def test_what_a_kernel_writes_may_be_negative_whatever_was_said_of_it() -> None:
    b = KernelBuilder("written")
    x, none = b.buffer("x", "i32", 1), b.full(0, "i32")
    b.store(x, none, b.map("a // 16", b.load(x, none), dtype="i32"))
    assert " >> 4" in emit(b.finish("1", requires=("0 <= x[*]",))).text
