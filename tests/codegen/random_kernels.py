"""Random small kernels: chains of loads, maps, reductions, scans, loops and dots over one row.

Only continuous expressions are drawn, and values are clamped, so that every reader of a kernel
must agree up to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from weft.ir.core import Operation, Value
from weft.ir.printer import print_operation
from weft.ir.types import shape_of
from weft.passes.tile.builder import KernelBuilder

_UNARY = (
    "tanh(a)", "abs(a) - 1.0", "exp2(min(a, 2.0))", "sqrt(abs(a) + 0.25)", "log2(abs(a) + 1.0)",
    "rsqrt(abs(a) + 1.0)", "-a * 0.5", "a / (abs(a) + 1.0)", "min(max(a, -1), 1)",
)  # fmt: skip
_BINARY = ("a + b", "a - b", "a * b", "max(a, b)", "min(a, b)", "a * 0.5 + b / 2")
_LANES = ("a % 2 == 0", "a // 3 == 1", "(a >> 1) & 1 == 1", "(a < 3) | (a > 5)", "~(a == 2)")


class Drawn:
    """A kernel with its arguments: T, x [T, C], w [D, C], ids [T], out [T, C]."""

    def __init__(self, kernel: Operation, arguments: list[Any]) -> None:
        self.kernel, self.arguments = kernel, arguments

    def __repr__(self) -> str:
        return f"{print_operation(self.kernel)}\n{self.arguments}"


class _Chain:
    """Builds one kernel by drawing operation after operation."""

    def __init__(self, draw: Any, width: int, depth: int) -> None:
        self.draw, self.width, self.depth = draw, width, depth
        b = self.b = KernelBuilder("random")
        b.scalar("T")
        self.x, self.w = b.buffer("x", "f32", "T", width), b.buffer("w", "f32", depth, width)
        self.ids, self.out = b.buffer("ids", "i32", "T"), b.buffer("out", "f32", "T", width)
        self.row, self.lane = b.program_id(0, "row"), b.iota(width)
        self.tiles = [b.load(self.x, self.row, self.lane)]

    def kernel(self) -> Operation:
        b = self.b
        steps = (self.unary, self.binary, self.reduced, self.scanned, self.chosen, self.gathered,
                 self.looped, self.dotted, self.reshaped, self.masked)  # fmt: skip
        for _ in range(self.draw(st.integers(1, 6))):
            value = self.draw(st.sampled_from(steps))()
            self.tiles.append(b.map("min(max(a, -4.0), 4.0)", value, dtype="f32"))
        mask = b.map(f"a < {self.draw(st.integers(1, self.width))}", self.lane)
        b.store(self.out, self.row, self.lane, self.tiles[-1], mask=mask)
        return b.finish("T", requires=("0 <= ids[*] < T",))

    def tile(self) -> Value:
        return self.draw(st.sampled_from(self.tiles))

    def unary(self) -> Value:
        return self.b.map(self.draw(st.sampled_from(_UNARY)), self.tile(), dtype="f32")

    def binary(self) -> Value:
        return self.b.map(
            self.draw(st.sampled_from(_BINARY)), self.tile(), self.tile(), dtype="f32"
        )

    def reduced(self) -> Value:
        op = self.draw(st.sampled_from(("sum", "max", "min")))
        total = self.b.reduce(op, self.tile(), 0)
        return self.b.map("a * 0.25 + b", self.tile(), total, dtype="f32")

    def scanned(self) -> Value:
        return self.b.map("a / 8.0", self.b.scan(self.tile(), 0), dtype="f32")

    def chosen(self) -> Value:
        test = self.b.map(self.draw(st.sampled_from(_LANES)), self.lane, dtype="bool")
        return self.b.map("where(a, b, c * 0.5)", test, self.tile(), self.tile(), dtype="f32")

    def gathered(self) -> Value:
        other = self.b.load(self.ids, self.row)
        reverse = self.b.map(f"{self.width - 1} - a", self.lane, dtype="i32")
        return self.b.load(self.x, other, reverse)

    def masked(self) -> Value:
        shift = self.draw(st.integers(-2, 2))
        place = self.b.map(f"a + {shift}", self.lane, dtype="i32")
        mask = self.b.map(f"(a >= 0) & (a < {self.width})", place)
        return self.b.load(self.x, self.row, place, mask=mask, other=0.5)

    def looped(self) -> Value:
        b, depth = self.b, self.draw(st.integers(0, self.depth))
        step = self.draw(st.integers(1, 2))
        with b.loop(b.full(0, "i32"), b.full(depth, "i32"), self.tile(), step=step) as loop:
            weight = b.load(self.w, loop.index, self.lane)
            loop.yields(b.map("a * 0.5 + b", loop.carried[0], weight, dtype="f32"))
        return loop.results[0]

    def dotted(self) -> Value:
        b, depth = self.b, self.b.iota(self.depth)
        weight = b.load(self.w, b.expand(depth, 1), b.expand(self.lane, 0))
        row = b.expand(self.tile(), 0)
        acc = b.full(0.0, "f32", 1, self.depth)
        if self.draw(st.booleans()):
            product = b.dot(row, weight, acc, transpose_b=True)
        else:
            product = b.dot(row, b.transpose(weight), acc)
        best = b.argmax(b.reduce("max", product, 0), 0)
        column = b.reduce("sum", b.expand(b.reduce("sum", product, 0), 0), 0)
        total = b.reduce("sum", column, 0)
        return b.map("a + b * 0.125 + 0.0 * c", self.tile(), total, best, dtype="f32")

    def reshaped(self) -> Value:
        value = self.tile()
        if self.width != 16:  # Triton cannot reshape what it pads
            return value
        (extent,) = shape_of(value.type)
        halves = self.b.reshape(value, 1, extent)
        return self.b.reshape(self.b.transpose(halves), extent)


@st.composite
def drawn_kernels(draw: Any) -> Drawn:
    """Draw a kernel and arguments for it."""
    width = draw(st.one_of(st.integers(1, 20), st.just(16)))
    depth, rows = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    kernel = _Chain(draw, width, depth).kernel()
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    arguments = [
        rows, rng.standard_normal((rows, width)).astype("f4"),
        rng.standard_normal((depth, width)).astype("f4"),
        rng.integers(0, max(rows, 1), rows).astype("i4"), np.full((rows, width), np.nan, "f4"),
    ]  # fmt: skip
    return Drawn(kernel, arguments)
