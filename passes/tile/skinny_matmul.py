"""Matmul kernels of a GPU for some rows at a time: y = x w^T, where reading w takes the time.

A program holds the sums of all rows (up to `rows`) and `block_n` columns in registers, and streams
its rows of w, and x beside them, through shared memory to the tensor cores. Every program reads x
from the last cache, so a block has many columns; where that leaves too few programs, each row of w
is `cuts` programs' work, whose sums the kernel behind adds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.core import Operation, Value
from ...ir.schedule import Schedule
from .builder import KernelBuilder

SILU = "a / (1.0 + exp2(-1.4426950408889634 * a)) * b"


@dataclass(frozen=True)
class SkinnyMatmul:
    """What a kernel computes: w [N, K], x and results in bf16; with `silu` w holds gate and up rows
    [2N, K], and the result is silu(gate) * up; with `cuts` > 1 it is sums [cuts, T, N]. A
    program has `rows` rows and `block_n` columns of each half, `block_k` deep at a time.
    """

    n: int
    k: int
    silu: bool = False
    cuts: int = 1
    rows: int = 128
    block_n: int = 128
    block_k: int = 64

    @property
    def name(self) -> str:
        """A name that tells the parts."""
        name = f"skinny_matmul_{self.n}x{self.k}_{self.rows}x{self.block_n}x{self.block_k}"
        return name + "_silu" * self.silu + (f"_cut{self.cuts}" if self.cuts > 1 else "")


MULTIPROCESSORS = 132
"""Of the GPUs that this was measured on, an H200: a product is streamed where all its programs run
at once and nearly all multiprocessors have one. Others are the vendor library's."""

FULL = 0.8
"""The part of the multiprocessors that must have a program."""

DEEP = 2
"""How many times N a K is that is cut in four before it is cut in two: the same programs have half
the rows of w, each half as long, and read half as much of x from the last cache."""

ROWS, NARROW = 128, 64
"""Rows of a step up to which weights are streamed, since with more the library's blocks are larger;
and those that a program holds in steps of fewer."""


def cuts_of(n: int, k: int, silu: bool, processors: int = MULTIPROCESSORS) -> int:
    """Return in how many parts K of a product is cut; 0: it stays the library's."""
    for cuts in (1,) if silu else (4, 2) if k >= DEEP * n else (2, 4):
        shapes = [streamed(n, k, silu, cuts, rows) for rows in (ROWS, NARROW)]
        shape = shapes[0]
        whole = all(n % s.block_n == 0 and k % (cuts * s.block_k) == 0 for s in shapes)
        if whole and FULL * processors <= n // shape.block_n * cuts <= processors:
            return cuts
    return 0


def streamed(n: int, k: int, silu: bool, cuts: int, rows: int) -> SkinnyMatmul:
    """Return the blocks of a product that is streamed, as measured: a gated one's are 128 columns
    of each half; others' 128 where that leaves enough programs in four cuts, else 64."""
    wide = rows > NARROW if silu else cuts == 4 and n // 128 * cuts >= FULL * MULTIPROCESSORS
    if wide:
        return SkinnyMatmul(n, k, silu, cuts, rows, 128, 64)
    return SkinnyMatmul(n, k, silu, cuts, rows, 64, 128 if silu else 64)


def skinny_schedule(kernel: Operation) -> Schedule:
    """Return the GPU schedule of such a kernel: as many stages as shared memory holds."""
    name = kernel["name"].name
    gated, few = "_silu" in name, kernel["grid"][1] == f"ceildiv(T, {NARROW})"
    if not gated and "x128x64" in name:
        return Schedule(num_warps=8, num_stages=6)
    return Schedule(num_warps=4 if few and not gated else 8, num_stages=4 if gated else 8)


def skinny_matmul(shape: SkinnyMatmul) -> Operation:
    """Return the kernel. Arguments: T, x [T, K], w [N, K] (with `silu` [2N, K]), out [T, N] or
    [cuts, T, N]. N, K / cuts are multiples of `block_n`, `block_k`; rows past T are not read.
    """
    s, b = shape, KernelBuilder(shape.name)
    tokens = b.scalar("T")
    x, w = b.buffer("x", "bf16", "T", s.k), b.buffer("w", "bf16", s.n * (2 if s.silu else 1), s.k)
    out = b.buffer("out", "bf16", *((s.cuts, "T", s.n) if s.cuts > 1 else ("T", s.n)))
    part, group = b.program_id(0, "part"), b.program_id(1, "group")
    cut = b.program_id(2, "cut") if s.cuts > 1 else None
    row = b.map(f"a * {s.rows} + b", group, b.iota(s.rows), dtype="i32", hint="row")
    live = b.expand(b.map("a < b", row, tokens, hint="live"), 1)
    row = b.expand(row, 1)
    column = b.map(f"a * {s.block_n} + b", part, b.iota(s.block_n), dtype="i32", hint="column")
    sums = _sums(b, s, (x, row, live), (w, column), cut)
    value = b.map(SILU, *sums, hint="gated") if s.silu else sums[0]
    place = (row, b.expand(column, 0)) if cut is None else (cut, row, b.expand(column, 0))
    b.store(out, *place, value, mask=live)
    grid = (s.n // s.block_n, f"ceildiv(T, {s.rows})", *([s.cuts] if s.cuts > 1 else []))
    return b.finish(*grid, requires=("T >= 0",), of="graph.matmul")


def _sums(
    b: KernelBuilder, s: SkinnyMatmul, left: tuple[Value, Value, Value],
    right: tuple[Value, Value], cut: Value | None,
) -> list[Value]:  # fmt: skip
    """Return the products of a block's rows with its columns, of each half."""
    x, row, live = left
    w, column = right
    halves = [column, b.map(f"a + {s.n}", column, hint="column")] if s.silu else [column]
    halves = [b.expand(half, 1) for half in halves]
    deep = s.k // s.cuts
    low = b.map(f"a * {deep}", cut, dtype="i32", hint="low") if cut else b.full(0, "i32")
    high = b.map(f"a + {deep}", low, dtype="i32", hint="high") if cut else b.full(s.k, "i32")
    start = [b.full(0.0, "f32", s.rows, s.block_n) for _ in halves]
    with b.loop(low, high, *start, step=s.block_k, hint="k") as loop:
        depth = b.expand(b.map("a + b", loop.index, b.iota(s.block_k), dtype="i32"), 0)
        rows = b.load(x, row, depth, mask=live, hint="x_rows")
        weights = [b.load(w, half, depth, hint="w_rows") for half in halves]
        loop.yields(*(b.dot(rows, block, total, transpose_b=True)
                      for block, total in zip(weights, loop.carried, strict=True)))  # fmt: skip
    return loop.results
