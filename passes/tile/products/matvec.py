"""Matmul kernels for a single row on a GPU: y = x w^T as a stream of weights, without products of
tiles. Every program holds a few whole rows of w; sums are formed lane by lane, and once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ....ir.core import Operation, Value
from ....ir.dialects.tile import extents_of
from ....ir.schedule import Schedule
from ....ir.types import DTYPE_BYTES, SCALED
from ..builder import KernelBuilder

MOST_ELEMENTS = 2048
"""Elements of a row of w that are read at a time: 16 bytes for each of 128 threads, twice."""

LONG = 8192
"""Elements of a row from which it is read in shorter blocks: they end sooner together."""

FEW = 8192
"""Results up to which twice as much of a row is read at a time: of few programs each has more on
its way, and all of a row of 4096."""

AHEAD = 32 << 10
"""Bytes of 8-bit weights that a program asks for at a time: 64 registers of each of 128 threads."""


def block_of(k: int, most: int = MOST_ELEMENTS) -> int:
    """Return how many elements of a row of K are read at a time: all, or a power of two that
    divides K."""
    if k <= most:
        return k
    sizes = (most >> shift for shift in range(4))
    return next((size for size in sizes if k % size == 0), most)


@dataclass(frozen=True)
class Matvec:
    """What a kernel computes: `parts` as of `graph.fused_matmul` (bias, residual), `silu` where w
    holds gate and up rows [2N, K] and the result is silu(gate) * up. `block_n` results a program,
    which reads up to `most` elements of their rows at a time, and asks for as many blocks as have
    up to `asked` bytes, but at least one, before it uses the first. With `early` it asks for these
    before the kernel in front has ended, as nothing in a step writes weights.
    """

    n: int
    k: int
    weight: str = "bf16"
    x: str = "bf16"
    out: str = "bf16"
    bias: bool = False
    residual: bool = False
    silu: bool = False
    block_n: int = 2
    most: int = MOST_ELEMENTS
    asked: int = 0
    early: bool = False

    @property
    def block_k(self) -> int:
        """Elements of a row read at a time."""
        return block_of(self.k, self.most)

    @property
    def halves(self) -> int:
        """Rows of w that a result is made of: with `silu` its gate's and its up's."""
        return 2 if self.silu else 1

    @property
    def ahead(self) -> int:
        """Blocks of a row that are asked for before the first is used: as many as divide the row,
        up to `asked` bytes a program."""
        if self.k % self.block_k:
            return 1
        blocks = self.k // self.block_k
        bytes_ = DTYPE_BYTES[self.weight] * self.block_n * self.block_k * self.halves
        most = max(1, self.asked // bytes_)
        return next(n for n in range(min(blocks, most), 0, -1) if blocks % n == 0)

    @property
    def name(self) -> str:
        """A name that tells the parts."""
        flags = ("bias", self.bias), ("residual", self.residual), ("silu", self.silu)
        parts = [name for name, present in flags if present]
        formats = dict.fromkeys((self.weight, self.x, self.out))
        return "_".join([f"matvec_{self.n}x{self.k}", *formats, *parts])


def matvec(shape: Matvec) -> Operation:
    """Return the kernel. Arguments: T, x [T, K], w [N, K], out [T, N], then those of scale [N] (of
    i8 and f8e4m3 weights), bias [N] and residual [T, N] that it asks for, in this order; with
    `silu` w, scale and bias have 2N rows.

    Program (j, t) computes `block_n` results of row t, so that more rows read w again.
    """
    return _Builder(shape).kernel()


def suited(shape: Matvec) -> Matvec:
    """Return the blocks that suit a shape on a GPU, as measured on an H200.

    A result a program; of long rows four, in shorter blocks, so that as many bytes are on their
    way. The first are asked for before the kernel in front has ended. A block of 8 bits has half
    the bytes of one of bf16 and takes as long to arrive, so more of them are asked for: the rate is
    that of the bytes on their way (Little's law). Of fp8 four results a program share what they
    read of x, which has twice the bytes of a row of w: a step of 8 layers of the 8 B shape took 734
    us in place of 765.
    """
    if shape.weight == "f8e4m3":
        return replace(shape, block_n=4, asked=AHEAD, early=True)
    if shape.weight in SCALED:
        return replace(shape, asked=AHEAD)
    most = 2 * MOST_ELEMENTS // DTYPE_BYTES[shape.weight]  # as many bytes, of f32 half the elements
    if shape.k <= LONG or shape.silu:
        many = shape.silu or shape.n > FEW
        return replace(shape, block_n=1, most=most if many else 2 * most, early=True)
    return replace(shape, block_n=4, most=most // 2, early=True)


def matvec_schedule(kernel: Operation) -> Schedule:
    """Return the GPU schedule: small programs, of which many are on their way at once; larger ones
    where two rows of bf16 or f32 make a result, or a row of bf16 is read whole (of q, k and v 13.1
    us of an H200, not 13.5; with a residual as long either way). Those that ask for weights early
    let the next kernel come before they do: behind loads, which queue for the memory, it would come
    late."""
    arguments = {value.name for value in kernel.regions[0].arguments}
    wide = "_silu" in kernel["name"].name and "scale" not in arguments
    plain = arguments.isdisjoint({"residual", "scale"})
    whole = plain and _elements(kernel) > MOST_ELEMENTS
    warps = 8 if (wide or whole) and kernel["of"] == "graph.matmul" else 4
    return Schedule(num_warps=warps, opens="w" in (kernel.attribute("given") or ()))


def _elements(kernel: Operation) -> int:
    """Return how many elements of weights a program reads at a time."""
    loads = (op for op in kernel.regions[0].operations if op.name == "tile.load")
    return max((prod(map(int, extents_of(op.result.type))) for op in loads
                if op.operands[0].name == "w"), default=0)  # fmt: skip


@dataclass(frozen=True)
class _Block:
    """Where a block of rows lies, which of it is past their end, and its weights, half by half."""

    depth: Value
    short: Value | None
    weights: list[Value]


class _Builder:
    """Writes the kernel."""

    def __init__(self, shape: Matvec) -> None:
        self.shape, self.b = shape, KernelBuilder(shape.name)

    def kernel(self) -> Operation:
        """Return the kernel."""
        s, b = self.shape, self.b
        wide = s.n * s.halves
        b.scalar("T")
        self.x, self.w = b.buffer("x", s.x, "T", s.k), b.buffer("w", s.weight, wide, s.k)
        out = b.buffer("out", s.out, "T", s.n)
        self.scale = b.buffer("scale", "f32", wide) if s.weight in SCALED else None
        self.bias = b.buffer("bias", "f32", wide) if s.bias else None
        residual = b.buffer("residual", s.out, "T", s.n) if s.residual else None
        self._enter()
        result = self._result()
        if residual is not None:
            before = b.load(residual, self.row, self.column, mask=self.inside)
            result = b.map("a + b", result, before, dtype="f32", hint="sum")
        b.store(out, self.row, self.column, result, mask=self.inside)
        grid = (-(-s.n // s.block_n), "T")
        given = (self.w,) if s.early else ()
        return b.finish(*grid, requires=("T >= 0",), of="graph.matmul", given=given)

    def _enter(self) -> None:
        """Say which results of which row are this program's."""
        b, s = self.b, self.shape
        part, self.row = b.program_id(0, "part"), b.program_id(1, "row")
        self.column = b.map(
            f"a * {s.block_n} + b", part, b.iota(s.block_n), dtype="i32", hint="column"
        )
        ragged = s.n % s.block_n
        self.inside = b.map(f"a < {s.n}", self.column, hint="inside") if ragged else None

    def _result(self) -> Value:
        sums = [self._biased(total, half) for half, total in enumerate(self._sums())]
        if not self.shape.silu:
            return sums[0]
        return self.b.map("a / (1.0 + exp2(-1.4426950408889634 * a)) * b", *sums, hint="gated")

    def _sums(self) -> list[Value]:
        """Return the products of the halves."""
        b, s = self.b, self.shape
        sums = [b.full(0.0, "f32", s.block_n, s.block_k) for _ in range(s.halves)]
        step = s.block_k * s.ahead
        start = b.full(0, "i32")
        sums = self._added(sums, [self._block(start, number) for number in range(s.ahead)])
        if step < s.k:
            start = b.full(step, "i32")
            with b.loop(start, b.full(s.k, "i32"), *sums, step=step, hint="k") as loop:
                blocks = [self._block(loop.index, number) for number in range(s.ahead)]
                loop.yields(*self._added(loop.carried, blocks))
            sums = loop.results
        return [b.reduce("sum", acc, 1, hint="total") for acc in sums]

    def _added(self, sums: list[Value], blocks: list[_Block]) -> list[Value]:
        """Return the sums with blocks' products; all weights are there before the first is used."""
        b = self.b
        for block in blocks:
            x = b.load(self.x, self.row, block.depth, mask=block.short, dtype="f32", hint="x_block")
            x = b.expand(x, 0)
            sums = [b.map("a + b * c", acc, w, x, dtype="f32", hint="acc")
                    for acc, w in zip(sums, block.weights, strict=True)]  # fmt: skip
        return sums

    def _block(self, start: Value, number: int) -> _Block:
        b, s = self.b, self.shape
        lane = f"a + b + {number * s.block_k}" if number else "a + b"
        depth = b.map(lane, start, b.iota(s.block_k), dtype="i32", hint="depth")
        short = b.map(f"a < {s.k}", depth) if s.k % s.block_k else None
        weights = [self._weights(half, b.expand(depth, 0), short) for half in range(s.halves)]
        return _Block(depth, short, weights)

    def _weights(self, half: int, depth: Value, short: Value | None) -> Value:
        b = self.b
        masks = [b.expand(self.inside, 1)] if self.inside is not None else []
        masks += [b.expand(short, 0)] if short is not None else []
        mask = b.map("a & b", *masks) if len(masks) == 2 else masks[0] if masks else None
        row = b.expand(self._place(half), 1)
        return b.load(self.w, row, depth, mask=mask, hint="w_block", stream=True)

    def _place(self, half: int) -> Value:
        """Return the rows of w of a half of the results."""
        return self.column if half == 0 else self.b.map(f"a + {self.shape.n}", self.column)

    def _biased(self, total: Value, half: int) -> Value:
        if self.scale is not None:
            held = self.b.load(self.scale, self._place(half), mask=self.inside)
            total = self.b.map("a * b", total, held)
        if self.bias is None:
            return total
        held = self.b.load(self.bias, self._place(half), mask=self.inside)
        return self.b.map("a + b", total, held)
