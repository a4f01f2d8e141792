"""Loops that Triton takes for others are refused; those that differ in what matters are not."""

from __future__ import annotations

import pytest
from weft.codegen.triton.emit import emit
from weft.codegen.triton.loops import MistakenLoop
from weft.ir.core import Operation
from weft.passes.tile.builder import KernelBuilder


def sums(apart: bool = False, itself: bool = False, twice: bool = False) -> Operation:
    """out = the sum over rounds of the number that was read in the round before: x[0] at first,
    which is also read a second time, or as another operation makes it; or x[0] in all rounds."""
    b = KernelBuilder("sums")
    x, out, none = b.buffer("x", "i32", 8), b.buffer("out", "i32", 1), b.full(0, "i32")
    first = b.load(x, none, hint="first")
    second = b.load(x, none, hint="second") if twice else first
    second = b.map("max(a, -9)", first, dtype="i32", hint="second") if apart else second
    with b.loop(none, b.full(3, "i32"), none, first, second, hint="round") as loop:
        total, late, early = loop.carried
        total = b.map("a + b", total, late, dtype="i32", hint="total")
        loop.yields(total, late if itself else early, b.load(x, loop.index, hint="read"))
    b.store(out, none, loop.results[0])
    return b.finish(1)


@pytest.mark.parametrize("twice", [False, True])
def test_a_value_that_takes_another_that_began_alike_is_refused(twice: bool) -> None:
    with pytest.raises(MistakenLoop, match="takes what"):
        emit(sums(twice=twice))


@pytest.mark.parametrize("how", ["apart", "itself"])
def test_one_that_began_apart_or_stays_itself_is_written(how: str) -> None:
    assert "tl.range" in emit(sums(**{how: True})).text


def test_what_is_made_of_one_value_over_and_over_is_looked_at_once() -> None:
    b = KernelBuilder("doubled")
    x, out, none = b.buffer("x", "i32", 8), b.buffer("out", "i32", 1), b.full(0, "i32")
    one = two = b.load(x, none)
    for _ in range(40):  # as a tree they have 2^40 parts
        one, two = (b.map("a + b", each, each, dtype="i32") for each in (one, two))
    with b.loop(none, b.full(3, "i32"), one, two, hint="round") as loop:
        late, early = loop.carried
        loop.yields(early, b.load(x, loop.index))
    b.store(out, none, loop.results[0])
    with pytest.raises(MistakenLoop):
        emit(b.finish(1))
