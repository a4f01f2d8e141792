"""Matmul kernels for a single row on a GPU: y = x w^T as a stream of weights, without products of
tiles. Every program holds a few whole rows of w; sums are formed lane by lane, and once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.core import Operation, Value
from ...ir.schedule import Schedule
from ...ir.types import SCALED
from .builder import KernelBuilder

MOST_ELEMENTS = 2048
"""Elements of a row of w that are read at a time: 16 bytes for each of 128 threads, twice."""

AHEAD = 32 << 10
"""Bytes of 8-bit weights that a program asks for at a time: 64 registers of each of 128 threads."""


def block_of(k: int) -> int:
    """Return how many elements of a row of K are read at a time: all, or a power of two that
    divides K."""
    if k <= MOST_ELEMENTS:
        return k
    sizes = (MOST_ELEMENTS >> shift for shift in range(4))
    return next((size for size in sizes if k % size == 0), MOST_ELEMENTS)


@dataclass(frozen=True)
class Matvec:
    """What a kernel computes: `parts` as of `graph.fused_matmul` (bias, residual), `silu` where w
    holds gate and up rows [2N, K] and the result is silu(gate) * up. `block_n` results a program.
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

    @property
    def block_k(self) -> int:
        """Elements of a row read at a time."""
        return block_of(self.k)

    @property
    def ahead(self) -> int:
        """Blocks of a row that are asked for before the first is used: of 8 bits as many as divide
        the row, up to AHEAD bytes a program. A block is half the bytes of one of bf16, and takes
        as long to arrive: the rate is that of the bytes on their way (Little's law)."""
        if self.weight not in SCALED or self.k % self.block_k:
            return 1
        blocks = self.k // self.block_k
        most = AHEAD // (self.block_n * self.block_k * (2 if self.silu else 1))
        return next(n for n in range(min(blocks, max(1, most)), 0, -1) if blocks % n == 0)

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


def matvec_schedule() -> Schedule:
    """Return the GPU schedule: small programs, of which many are on their way at once."""
    return Schedule(num_warps=4)


@dataclass
class _Builder:
    shape: Matvec
    b: KernelBuilder = field(init=False)

    def kernel(self) -> Operation:
        s = self.shape
        b = self.b = KernelBuilder(s.name)
        b.scalar("T")
        wide = s.n * (2 if s.silu else 1)
        self.x, self.w = b.buffer("x", s.x, "T", s.k), b.buffer("w", s.weight, wide, s.k)
        out = b.buffer("out", s.out, "T", s.n)
        self.scale = b.buffer("scale", "f32", wide) if s.weight in SCALED else None
        self.bias = b.buffer("bias", "f32", wide) if s.bias else None
        residual = b.buffer("residual", s.out, "T", s.n) if s.residual else None
        part, self.row = b.program_id(0, "part"), b.program_id(1, "row")
        self.column = b.map(
            f"a * {s.block_n} + b", part, b.iota(s.block_n), dtype="i32", hint="column"
        )
        ragged = s.n % s.block_n
        self.inside = b.map(f"a < {s.n}", self.column, hint="inside") if ragged else None
        result = self._result()
        if residual is not None:
            before = b.load(residual, self.row, self.column, mask=self.inside)
            result = b.map("a + b", result, before, dtype="f32", hint="sum")
        b.store(out, self.row, self.column, result, mask=self.inside)
        grid = (-(-s.n // s.block_n), "T")
        return b.finish(*grid, requires=("T >= 0",), of="graph.matmul")

    def _result(self) -> Value:
        b = self.b
        sums = [self._biased(total, half) for half, total in enumerate(self._sums())]
        if not self.shape.silu:
            return sums[0]
        return b.map("a / (1.0 + exp2(-1.4426950408889634 * a)) * b", *sums, hint="gated")

    def _sums(self) -> list[Value]:
        b, s = self.b, self.shape
        zeros = [b.full(0.0, "f32", s.block_n, s.block_k) for _ in range(2 if s.silu else 1)]
        step = s.block_k * s.ahead
        with b.loop(b.full(0, "i32"), b.full(s.k, "i32"), *zeros, step=step, hint="k") as loop:
            blocks = [self._block(loop.index, number) for number in range(s.ahead)]
            sums = list(loop.carried)
            for x, weights in [(self._x(*block), weights) for block, weights in blocks]:
                sums = [b.map("a + b * c", acc, w, x, dtype="f32", hint="acc")
                        for acc, w in zip(sums, weights, strict=True)]  # fmt: skip
            loop.yields(*sums)
        return [b.reduce("sum", acc, 1, hint="total") for acc in loop.results]

    def _block(
        self, start: Value, number: int
    ) -> tuple[tuple[Value, Value | None], list[Value]]:  # fmt: skip
        """Return where a block of the rows lies, with its mask, and its weights, half by half."""
        b, s = self.b, self.shape
        lane = f"a + b + {number * s.block_k}" if number else "a + b"
        depth = b.map(lane, start, b.iota(s.block_k), dtype="i32", hint="depth")
        short = b.map(f"a < {s.k}", depth) if s.k % s.block_k else None
        halves = range(2 if s.silu else 1)
        return (depth, short), [self._weights(h, b.expand(depth, 0), short) for h in halves]

    def _x(self, depth: Value, short: Value | None) -> Value:
        x = self.b.load(self.x, self.row, depth, mask=short, dtype="f32", hint="x_block")
        return self.b.expand(x, 0)

    def _weights(self, half: int, depth: Value, short: Value | None) -> Value:
        b = self.b
        masks = [b.expand(self.inside, 1)] if self.inside is not None else []
        masks += [b.expand(short, 0)] if short is not None else []
        mask = b.map("a & b", *masks) if len(masks) == 2 else masks[0] if masks else None
        return b.load(self.w, b.expand(self._place(half), 1), depth, mask=mask, hint="w_block")

    def _place(self, half: int) -> Value:
        return self.column if half == 0 else self.b.map(f"a + {self.shape.n}", self.column)

    def _biased(self, total: Value, half: int) -> Value:
        if self.scale is not None:
            held = self.b.load(self.scale, self._place(half), mask=self.inside)
            total = self.b.map("a * b", total, held)
        if self.bias is None:
            return total
        held = self.b.load(self.bias, self._place(half), mask=self.inside)
        return self.b.map("a + b", total, held)
