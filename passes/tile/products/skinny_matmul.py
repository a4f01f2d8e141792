"""Matmul kernels of a GPU for some rows at a time: y = x w^T, where reading w takes the time.

A program holds the sums of all rows (up to `rows`) and `block_n` columns in registers, and streams
its rows of w, and x beside them, through shared memory to the tensor cores. Every program reads x
from the last cache, so a block has many columns; where that leaves too few programs, each row of w
is `cuts` programs' work, whose sums the kernel behind adds. Packed weights lie in memory as
programs read them: blocks of `PACKED` numbers of each row's K, a block's rows behind one another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....ir.core import Operation, Value
from ....ir.schedule import SWIZZLED, Schedule
from ..builder import KernelBuilder

SILU = "a / (1.0 + exp2(-1.4426950408889634 * a)) * b"


@dataclass(frozen=True)
class SkinnyMatmul:
    """What a kernel computes: w [N, K], x and results in bf16; with `silu` w holds gate and up rows
    [2N, K], and the result is silu(gate) * up; with `cuts` > 1 it is sums [cuts, T, N]. A
    program has `rows` rows and `block_n` columns of each half, `block_k` deep at a time; with
    `columns` only so many of them are its own. `packed`: w is [K / block_k, N, block_k].
    """

    n: int
    k: int
    silu: bool = False
    cuts: int = 1
    rows: int = 128
    block_n: int = 128
    block_k: int = 64
    columns: int = 0
    packed: bool = False

    @property
    def own(self) -> int:
        """The columns of each half that a program stores."""
        return self.columns or self.block_n

    @property
    def weights(self) -> tuple[int, ...]:
        """The extents of w."""
        rows = self.n * (2 if self.silu else 1)
        return (self.k // self.block_k, rows, self.block_k) if self.packed else (rows, self.k)

    @property
    def name(self) -> str:
        """A name that tells the parts."""
        name = f"skinny_matmul_{self.n}x{self.k}_{self.rows}x{self.own}x{self.block_k}"
        cut = f"_cut{self.cuts}" if self.cuts > 1 else ""
        return name + "_silu" * self.silu + cut + "_packed" * self.packed


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
        whole = all(n % s.own == 0 and k % (cuts * s.block_k) == 0 for s in shapes)
        if whole and FULL * processors <= n // shape.own * cuts <= processors:
            return cuts
    return 0


PACKED = SWIZZLED
"""Numbers of a row that lie together in packed weights, and that specialised warps copy at once."""


def packed_columns(n: int, k: int, processors: int = MULTIPROCESSORS) -> int:
    """Return how many columns of each half of a gated product a program has whose weights are
    packed, so that most programs run at once; 0: they are not packed."""
    if k % PACKED or not cuts_of(n, k, True, processors):
        return 0
    fitting = (c for c in range(80, 129, 16) if n % c == 0 and n // c <= processors)
    return min(fitting, default=0)


USUAL_RATE, PACKED_RATE = 3.57e12, 3.88e12
"""Bytes a second of weights of gated products of 128 rows on an H200. Packed weights of down took
33.8 us there, not 35, but whole steps no less."""


def copy_saves(n: int, k: int, processors: int = MULTIPROCESSORS) -> float:
    """Return the seconds that packed weights save of a gated product, by the rates of an H200."""
    if not packed_columns(n, k, processors):
        return 0.0
    return (1 / USUAL_RATE - 1 / PACKED_RATE) * 4 * n * k


def streamed(
    n: int, k: int, silu: bool, cuts: int, rows: int, packed: bool = False
) -> SkinnyMatmul:  # fmt: skip
    """Return the blocks of a product that is streamed, as measured: a gated one's are 128 columns
    of each half; others' 128 where that leaves enough programs in four cuts, else 64, or 96 where
    these would be more programs than run at once."""
    if packed:
        columns = packed_columns(n, k)
        return SkinnyMatmul(n, k, silu, cuts, rows, 128, PACKED, columns % 128, packed)
    wide = rows > NARROW if silu else cuts == 4 and n // 128 * cuts >= FULL * MULTIPROCESSORS
    if wide:
        return SkinnyMatmul(n, k, silu, cuts, rows, 128, 64)
    if cuts == 2 and n // 64 * cuts > MULTIPROCESSORS and n % 96 == 0:
        return SkinnyMatmul(n, k, silu, cuts, rows, 128, 64, 96)
    return SkinnyMatmul(n, k, silu, cuts, rows, 64, 128 if silu else 64)


REGISTERS = {128: (96, 128), 64: (128, 168)}
"""Registers a thread has, in the mean, where one warp copies and four multiply 64 rows, by the rows
of a program: plain and gated. Beside 96 or 128 the norm behind finds room, and begins early."""


def skinny_schedule(kernel: Operation) -> Schedule:
    """Return the GPU schedule of such a kernel: as many stages as shared memory holds."""
    rows, _, block_k = kernel["name"].name.split("_")[3].split("x")
    plain, gated = REGISTERS.get(int(rows), (0, 0)) if int(block_k) == PACKED else (0, 0)
    return replace(_stages(kernel), specialised=gated if "_silu" in kernel["name"].name else plain)


def _stages(kernel: Operation) -> Schedule:
    name = kernel["name"].name
    gated, few = "_silu" in name, kernel["grid"][1] == f"ceildiv(T, {NARROW})"
    if not gated and ("x128x64" in name or "x96x64" in name):
        return Schedule(num_warps=8, num_stages=8 if few and "x96x64" in name else 6)
    return Schedule(num_warps=4 if few and not gated else 8, num_stages=4 if gated else 8)


def skinny_matmul(shape: SkinnyMatmul) -> Operation:
    """Return the kernel. Arguments: T, x [T, K], w [N, K] (with `silu` [2N, K], packed as said of
    `SkinnyMatmul`), out [T, N] or [cuts, T, N]. N, K / cuts are multiples of a program's columns,
    `block_k`; rows past T are not read.
    """
    s, b = shape, KernelBuilder(shape.name)
    tokens = b.scalar("T")
    x, w = b.buffer("x", "bf16", "T", s.k), b.buffer("w", "bf16", *s.weights)
    out = b.buffer("out", "bf16", *((s.cuts, "T", s.n) if s.cuts > 1 else ("T", s.n)))
    part, group = b.program_id(0, "part"), b.program_id(1, "group")
    cut = b.program_id(2, "cut") if s.cuts > 1 else None
    row = b.map(f"a * {s.rows} + b", group, b.iota(s.rows), dtype="i32", hint="row")
    live = b.expand(b.map("a < b", row, tokens, hint="live"), 1)
    row = b.expand(row, 1)
    lane = b.iota(s.block_n)
    column = b.map(f"a * {s.own} + b", part, lane, dtype="i32", hint="column")
    own = b.map(f"a < {s.own}", lane, hint="own") if s.columns else None
    sums = _sums(b, s, (x, row, live), (w, column, own), cut)
    value = b.map(SILU, *sums, hint="gated") if s.silu else sums[0]
    place = (row, b.expand(column, 0)) if cut is None else (cut, row, b.expand(column, 0))
    if own is not None:
        live = b.map("a & b", live, b.expand(own, 0), hint="live")
    b.store(out, *place, value, mask=live)
    grid = (s.n // s.own, f"ceildiv(T, {s.rows})", *([s.cuts] if s.cuts > 1 else []))
    return b.finish(*grid, requires=("T >= 0",), of="graph.matmul", given=(w,))


def _sums(
    b: KernelBuilder, s: SkinnyMatmul, left: tuple[Value, Value, Value],
    right: tuple[Value, Value, Value | None], cut: Value | None,
) -> list[Value]:  # fmt: skip
    """Return the products of a block's rows with its columns, of each half."""
    x, row, live = left
    w, column, own = right
    halves = [column, b.map(f"a + {s.n}", column, hint="column")] if s.silu else [column]
    halves = [b.expand(half, 1) for half in halves]
    own = b.expand(own, 1) if own is not None else None
    unit = s.block_k if s.packed else 1
    deep = s.k // s.cuts // unit
    low = b.map(f"a * {deep}", cut, dtype="i32", hint="low") if cut else b.full(0, "i32")
    high = b.map(f"a + {deep}", low, dtype="i32", hint="high") if cut else b.full(deep, "i32")
    start = [b.full(0.0, "f32", s.rows, s.block_n) for _ in halves]
    with b.loop(low, high, *start, step=s.block_k // unit, hint="k") as loop:
        lane = b.iota(s.block_k)
        depth = b.map("a + b" if unit == 1 else f"a * {unit} + b", loop.index, lane, dtype="i32")
        rows = b.load(x, row, b.expand(depth, 0), mask=live, hint="x_rows")
        place = [loop.index] if s.packed else []
        last = b.expand(lane if s.packed else depth, 0)
        weights = [b.load(w, *place, half, last, mask=own, hint="w_rows") for half in halves]
        loop.yields(*(b.dot(rows, block, total, transpose_b=True)
                      for block, total in zip(weights, loop.carried, strict=True)))  # fmt: skip
    return loop.results
