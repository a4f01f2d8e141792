"""Matmul kernels of a GPU for weights of 8 bits with a scale a row: y = (x w^T) scale + bias.

For steps of some rows the time is that of reading weights, so they are widened on the way to the
tensor cores and never stored wide; where activations are rounded to fp8 too, both are multiplied
as they are. With many rows the library does either.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ..builder import KernelBuilder
from ..rows.elementwise import blocks_of

ROUNDED_ROWS = 64
"""Rows up to which all products of two sides in 8 bits are kernels: those of a program, so that
weights are read once."""


@dataclass(frozen=True)
class ScaledMatmul:
    """What a kernel computes: w [N, K] in `weight` (i8 or f8e4m3), activations x and results in
    `x` (with f8e4m3 its rows have scales, too) and `out`; a program has `rows` rows and `block_n`
    columns, `block_k` deep at a time."""

    n: int
    k: int
    weight: str = "f8e4m3"
    x: str = "bf16"
    out: str = "bf16"
    bias: bool = False
    rows: int = 64
    block_n: int = 64
    block_k: int = 128

    @property
    def rounded(self) -> bool:
        """Whether the rows of activations have scales."""
        return self.x == "f8e4m3"

    @property
    def name(self) -> str:
        """A name that tells the parts."""
        formats = "_".join(dict.fromkeys((self.weight, self.x, self.out)))
        return f"scaled_matmul_{self.n}x{self.k}_{formats}" + ("_bias" if self.bias else "")


def scaled_matmul(shape: ScaledMatmul) -> Operation:
    """Return the kernel. Arguments: T, x [T, K], w [N, K], out [T, N], scale [N][, x_scale [T]][,
    bias [N]].

    Products are formed in x's format, in which every i8 and f8e4m3 number is exact, and summed in
    f32. A block is w times x transposed: the left side of a tensor core's product may come from
    registers, where w is widened, and only x's lies in shared memory. Rows past the last are not
    read; programs that read the same weights follow one another.
    """
    s, b = shape, KernelBuilder(shape.name)
    tokens = b.scalar("T")
    x, w = b.buffer("x", s.x, "T", s.k), b.buffer("w", s.weight, s.n, s.k)
    out, scale = b.buffer("out", s.out, "T", s.n), b.buffer("scale", "f32", s.n)
    x_scale = b.buffer("x_scale", "f32", "T") if s.rounded else None
    bias = b.buffer("bias", "f32", s.n) if s.bias else None
    group, part = b.program_id(0, "group"), b.program_id(1, "part")
    row = b.map(f"a * {s.rows} + b", group, b.iota(s.rows), dtype="i32", hint="row")
    live = b.map("a < b", row, tokens, hint="live")
    column = b.map(f"a * {s.block_n} + b", part, b.iota(s.block_n), dtype="i32", hint="column")
    inside = b.map(f"a < {s.n}", column, hint="inside") if s.n % s.block_n else None
    acc = _products(b, s, (x, row, live), (w, column, inside))
    if x_scale is not None:
        factor = b.load(x_scale, row, mask=live, hint="factor")
        acc = b.map("a * b", acc, b.expand(factor, 0), hint="acc")
    live = b.expand(live, 0)
    for vector, expr in ((scale, "a * b"), (bias, "a + b")):
        if vector is not None:
            acc = b.map(expr, acc, b.expand(b.load(vector, column, mask=inside), 1), hint="acc")
    mask = live if inside is None else b.map("a & b", live, b.expand(inside, 1), hint="mask")
    b.store(out, b.expand(row, 0), b.expand(column, 1), acc, mask=mask)
    grid = (f"ceildiv(T, {s.rows})", blocks_of(s.n, s.block_n))
    return b.finish(*grid, requires=("T >= 0",), of="graph.matmul")


def _products(
    b: KernelBuilder, s: ScaledMatmul, left: tuple[Value, Value, Value],
    right: tuple[Value, Value, Value | None],
) -> Value:  # fmt: skip
    x, row, live = left
    w, column, inside = right
    start = b.full(0.0, "f32", s.block_n, s.rows)
    with b.loop(b.full(0, "i32"), b.full(s.k, "i32"), start, step=s.block_k, hint="k") as loop:
        depth = b.map("a + b", loop.index, b.iota(s.block_k), dtype="i32", hint="depth")
        whole = b.expand(b.map(f"a < {s.k}", depth), 0) if s.k % s.block_k else None
        depth = b.expand(depth, 0)
        masks = [m for m in (whole, b.expand(inside, 1) if inside is not None else None) if m]
        mask = b.map("a & b", *masks) if len(masks) == 2 else masks[0] if masks else None
        there = b.expand(live, 1)
        there = there if whole is None else b.map("a & b", there, whole)
        rows = b.load(x, b.expand(row, 1), depth, mask=there, hint="x_rows")
        weights = b.load(w, b.expand(column, 1), depth, mask=mask, hint="w_rows")
        wide = b.map("f32(a)" if s.weight == "i8" else "a", weights, dtype=s.x, hint="wide")
        loop.yields(b.dot(wide, rows, loop.carried[0], transpose_b=True))
    return loop.results[0]
