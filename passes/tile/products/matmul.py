"""Matmul kernels for few rows: y = x w^T with what comes before and after it in a transformer.

Every weight element is read once for all rows; sums run along K, the way both x and w lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ....ir.core import Operation, Value
from ....ir.schedule import Schedule
from ....ir.types import DTYPE_BYTES
from ..builder import KernelBuilder


@dataclass(frozen=True)
class Matmul:
    """What one matmul kernel computes, for `rows` rows a program, and how it is blocked.

    `weight` is f32, bf16, or i8 with an f32 scale a row. Optional parts: `bias`; `residual`,
    added to the result; `norm_eps`, an rmsnorm of x first; `silu`, where w holds gate and up rows
    [2N, K] and the result is silu(gate) * up. With `words` only the rows of w that are named are
    multiplied: those of a head's words.
    """

    n: int
    k: int
    weight: str = "f32"
    rows: int = 1
    bias: bool = False
    residual: bool = False
    norm_eps: float | None = None
    silu: bool = False
    block_n: int = 8
    block_k: int = 256
    words: bool = False

    @property
    def name(self) -> str:
        """A name that tells the parts."""
        flags = ("bias", self.bias), ("residual", self.residual), ("silu", self.silu)
        parts = [name for name, present in flags if present]
        parts += ["norm"] * (self.norm_eps is not None) + ["words"] * self.words
        return "_".join([f"matmul{self.rows}_{self.weight}_{self.n}x{self.k}", *parts])


def matmul(shape: Matmul) -> Operation:
    """Return the kernel. Arguments: T, x [T, K], w [N, K], out [T, N], then those of scale [N],
    bias [N], norm [K] and residual [T, N] that the parts ask for, in this order.

    Vectors of gate and up (`silu`) have 2N elements. `out` may be the memory of `residual`. With
    `words`: T, W, C, x [T, K], w [N, K], words [W] i32, out [T, C], ...; result j of a row is that
    of row words[j] of w, and what stands behind W of them stays.
    """
    return _Builder(shape).kernel()


def blocks(n: int, k: int, rows: int = 1) -> tuple[int, int]:
    """Return block_n and block_k that suit a CPU: whole blocks where the shape has them.

    Short rows of x stay in the first-level cache, so each row of w is read from end to end. With
    many rows a block is wide: turning x round is worth it for many rows of w only.
    """
    if rows % MANY_ROWS == 0 and k % 16 == 0:
        block_k = max(size for size in range(16, 2049, 16) if k % size == 0)
        wanted = (size for size in (128, 64, 32, 8, 4) if n % size == 0 and n >= 4 * size)
        return next(wanted, 8), block_k
    wide = 32 if n >= 2048 and _whole_rows(k, rows) else 8
    wanted = (64 if n >= 512 and rows <= 4 else 32) if k <= SHORT_ROW else 16 if rows > 2 else wide
    block_n = next((size for size in (wanted, 32, 8, 4) if n % size == 0), wanted)
    if _whole_rows(k, rows) and k % 16 == 0:
        return block_n, k
    sizes = (512, 384, 256, 192, 128, 96, 64, 48, 32, 16)
    return block_n, next((size for size in sizes if k % size == 0), 64)


WORDS_BLOCK = 128
"""Words of a head of short rows that a program has: of 2,048 of 4,096 words of 256 numbers one row
took .76 of the time of all, four .60 and sixteen .61 (an AMD machine, one thread, weights as far as
in a step); with blocks of 64 .82, .62 and .66."""


def word_blocks(n: int, k: int, rows: int = 1) -> tuple[int, int]:
    """Return block_n and block_k of a product with some words' rows of w, as `blocks` does."""
    block_n, block_k = blocks(n, k, rows)
    return WORDS_BLOCK if k <= SHORT_ROW else block_n, block_k


def schedule(n: int, k: int, rows: int = 1, weight: str = "f32") -> Schedule:
    """Return the CPU schedule that goes with `blocks`.

    Short rows are read one after another, as one stream through memory; how long ones are read
    is the emitter's choice.
    """
    short = k <= SHORT_ROW and rows <= 4
    return Schedule(parallel=worth_threads(n, k, rows, weight), streams=1 if short else 0)


MANY_ROWS = 16
"""Rows that fill vectors by themselves: x is turned round once for a wide block of w's rows."""

SHORT_ROW = 1024
"""Up to this many elements a row of w is short: its end comes before a prefetcher has settled."""


def _whole_rows(k: int, rows: int) -> bool:
    return rows * k <= 4096


def worth_threads(n: int, k: int, rows: int, weight: str) -> bool:
    """Tell whether a matmul takes long enough on one core for a parallel launch to pay.

    A core streams about 10 bytes of weights, and does about 16 multiply-adds, in a nanosecond.
    """
    nanoseconds = max(n * k * DTYPE_BYTES[weight] / 10, n * k * rows / 16)
    return nanoseconds > PARALLEL_FROM_NS


PARALLEL_FROM_NS = 20_000


@dataclass
class _Builder:
    shape: Matmul
    b: KernelBuilder = field(init=False)

    def kernel(self) -> Operation:
        s = self.shape
        b = self.b = KernelBuilder(s.name)
        self.tokens = b.scalar("T")
        self.count = b.scalar("W") if s.words else None
        columns = b.scalar("C").name if s.words else s.n
        self.halves = 2 if s.silu else 1
        wide = s.n * self.halves
        self.x = b.buffer("x", "f32", "T", s.k)
        self.w = b.buffer("w", s.weight, wide, s.k)
        self.words = b.buffer("words", "i32", "W") if s.words else None
        self.out = b.buffer("out", "f32", "T", columns)
        self.scale = b.buffer("scale", "f32", wide) if s.weight == "i8" else None
        self.bias = b.buffer("bias", "f32", wide) if s.bias else None
        self.norm = b.buffer("norm", "f32", s.k) if s.norm_eps is not None else None
        self.residual = b.buffer("residual", "f32", "T", s.n) if s.residual else None
        self._body()
        parts: int | str = -(-s.n // s.block_n)
        facts: tuple[str, ...] = ("T >= 0",)
        if s.words:
            parts = f"ceildiv(W, {s.block_n})"
            facts += ("W >= 1", "C >= W", f"0 <= words[*] < {s.n}")
        return b.finish(parts, f"ceildiv(T, {s.rows})", requires=facts, of="graph.matmul")

    def _body(self) -> None:
        """Rows past the last repeat it, so that loads along K need no mask; they write nothing."""
        b, s = self.b, self.shape
        part, group = b.program_id(0, "part"), b.program_id(1, "group")
        self.row = b.map(f"a * {s.rows} + b", group, b.iota(s.rows), dtype="i32", hint="row")
        self.safe = b.expand(b.map("min(a, b - 1)", self.row, self.tokens, dtype="i32"), 1)
        self.column = b.map(
            f"a * {s.block_n} + b", part, b.iota(s.block_n), dtype="i32", hint="column"
        )
        self.inside = self.named = None
        if self.words is not None and self.count is not None:  # the last word is read again
            at = b.map("min(a, b - 1)", self.column, self.count, dtype="i32")
            self.named = b.load(self.words, at, hint="word")
        elif s.n % s.block_n:
            self.inside = b.map(f"a < {s.n}", self.column, hint="inside")
        factor = self._inverse_rms()
        sums = [self._finished(acc, factor, half) for half, acc in enumerate(self._products())]
        self._store(sums)

    def _depth(self, start: Value) -> tuple[Value, Value | None]:
        """Return this block's indices along K as a row, and their mask where K is ragged."""
        b, s = self.b, self.shape
        depth = b.map("a + b", start, b.iota(s.block_k), dtype="i32", hint="depth")
        mask = b.expand(b.map(f"a < {s.k}", depth), 0) if s.k % s.block_k else None
        return b.expand(depth, 0), mask

    def _inverse_rms(self) -> Value | None:
        """Return 1 / rms of each row as a column; it scales the sums, not the inputs."""
        b, s = self.b, self.shape
        if s.norm_eps is None:
            return None
        start = b.full(0.0, "f32", s.rows)
        with b.loop(b.full(0, "i32"), b.full(s.k, "i32"), start, step=s.block_k, hint="k") as loop:
            depth, mask = self._depth(loop.index)
            square = b.map("a * a", b.load(self.x, self.safe, depth, mask=mask), hint="square")
            loop.yields(b.map("a + b", loop.carried[0], b.reduce("sum", square, 1)))
        total = loop.results[0]
        return b.expand(b.map(f"rsqrt(a / {float(s.k)} + {s.norm_eps!r})", total, hint="factor"), 1)

    def _products(self) -> tuple[Value, ...]:
        b, s = self.b, self.shape
        zeros = [b.full(0.0, "f32", s.rows, s.block_n) for _ in range(self.halves)]
        with b.loop(b.full(0, "i32"), b.full(s.k, "i32"), *zeros, step=s.block_k, hint="k") as loop:
            depth, mask = self._depth(loop.index)
            x = b.load(self.x, self.safe, depth, mask=mask, hint="x_block")
            if self.norm is not None:
                x = b.map("a * b", x, b.load(self.norm, depth, mask=mask), hint="x_normed")
            loop.yields(*(
                b.dot(x, self._weights(half, depth, mask), acc, transpose_b=True)
                for half, acc in enumerate(loop.carried)
            ))  # fmt: skip
        return tuple(loop.results)

    def _weights(self, half: int, depth: Value, mask: Value | None) -> Value:
        b = self.b
        if self.inside is not None:
            inside = b.expand(self.inside, 1)
            mask = inside if mask is None else b.map("a & b", inside, mask)
        block = b.load(self.w, b.expand(self._place(half), 1), depth, mask=mask, hint="w_block")
        return b.map("f32(a)", block) if self.shape.weight != "f32" else block

    def _place(self, half: int) -> Value:
        """Return the rows of w (and places of its vectors) of the gate or up half."""
        column = self.column if self.named is None else self.named
        return column if half == 0 else self.b.map(f"a + {self.shape.n}", column)

    def _finished(self, acc: Value, factor: Value | None, half: int) -> Value:
        """Return sums with the row scale, the norm's factor and the bias."""
        b = self.b
        if self.scale is not None:
            acc = b.map("a * b", acc, self._columns_of(self.scale, half))
        if factor is not None:
            acc = b.map("a * b", acc, factor)
        if self.bias is not None:
            acc = b.map("a + b", acc, self._columns_of(self.bias, half))
        return acc

    def _columns_of(self, vector: Value, half: int) -> Value:
        values = self.b.load(vector, self._place(half), mask=self.inside)
        return self.b.expand(values, 0)

    def _store(self, sums: list[Value]) -> None:
        b = self.b
        result = sums[0]
        if self.shape.silu:
            result = b.map("a / (1.0 + exp2(-1.4426950408889634 * a)) * b", *sums, hint="gated")
        row, column = b.expand(self.row, 1), b.expand(self.column, 0)
        mask = b.expand(b.map("a < b", self.row, self.tokens), 1)
        inside = self.inside
        if self.count is not None:
            inside = b.map("a < b", self.column, self.count, hint="inside")
        if inside is not None:
            mask = b.map("a & b", mask, b.expand(inside, 0))
        if self.residual is not None:
            before = b.load(self.residual, row, column, mask=mask)
            result = b.map("a + b", result, before, hint="sum")
        b.store(self.out, row, column, result, mask=mask)
