"""Small kernels over rows of activations: gather, norms, gated units, copies and sums.

Each function builds the kernel of given static shapes; T, the number of rows, is an argument.
Norms compute in f32 whatever the activations' dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ....ir.types import SCALED
from ..builder import KernelBuilder

NON_EMPTY = ("T >= 0",)
_LOG2E = 1.4426950408889634


def embedding(
    vocab: int, width: int, dtype: str = "f32", factor: float = 1.0, out: str = "f32",
    block: int = 1024,
) -> Operation:  # fmt: skip
    """Return `out[t] = factor * table[ids[t]]`; int8 and fp8 tables have a scale for each row.

    Arguments: T, table [V, D], ids [T], out [T, D], and for i8 and f8e4m3 last: scale [V].
    """
    b = KernelBuilder(f"embedding_{dtype}_{width}" + of_format(out))
    b.scalar("T")
    table, ids = b.buffer("table", dtype, vocab, width), b.buffer("ids", "i32", "T")
    target = b.buffer("out", out, "T", width)
    scale = b.buffer("scale", "f32", vocab) if dtype in SCALED else None
    row, column, mask = row_and_columns(b, width, block)
    token = b.load(ids, row)
    value = b.load(table, token, column, mask=mask)
    if scale is not None:
        value = b.map("f32(a) * b", value, b.load(scale, token), dtype="f32")
    if factor != 1.0:
        value = b.map(f"a * {factor!r}", value, dtype="f32")
    b.store(target, row, column, value, mask=mask)
    facts = (*NON_EMPTY, f"0 <= ids[*] < {vocab}")
    return b.finish("T", blocks_of(width, block), requires=facts, of="graph.embedding")


def rmsnorm(
    width: int, eps: float, dtype: str = "f32", weight: str = "f32", narrow: bool = False
) -> Operation:
    """Return `out = x / sqrt(mean(x^2) + eps) * w` by rows.

    Arguments: T, x [T, D], w [D], out [T, D], and where `narrow` the scales of out, as of
    `quantize_rows`.
    """
    b = KernelBuilder(f"rmsnorm_{width}" + of_format(dtype, narrow))
    b.scalar("T")
    x, w = b.buffer("x", dtype, "T", width), b.buffer("w", weight, width)
    out = _Rows.of(b, dtype, width, narrow)
    row, column = b.program_id(0, "row"), b.iota(width)
    value = b.load(x, row, column, dtype="f32")
    out.store(b, row, column, normalized(b, value, b.load(w, column), width, eps))
    return b.finish("T", requires=NON_EMPTY, of="graph.rmsnorm", given=(w,))


def add_rmsnorm(
    width: int, eps: float, dtype: str = "f32", weight: str = "f32", narrow: bool = False,
    parts: int = 1,
) -> Operation:  # fmt: skip
    """Return `total = x + y` and `out = rmsnorm(total)`; `total` may be the memory of `x`.

    Arguments: T, x [T, D], y [T, D] (of several `parts` [parts, T, D], whose sum in f32 it is), w
    [D], total [T, D], out [T, D], and where `narrow` the scales of out, as of `quantize_rows`.
    """
    name = f"add_rmsnorm_{width}" + of_format(dtype, narrow)
    b = KernelBuilder(name + (f"_parts{parts}" if parts > 1 else ""))
    b.scalar("T")
    x = b.buffer("x", dtype, "T", width)
    y = b.buffer("y", dtype, *((parts, "T", width) if parts > 1 else ("T", width)))
    w = b.buffer("w", weight, width)
    total, out = b.buffer("total", dtype, "T", width), _Rows.of(b, dtype, width, narrow)
    row, column = b.program_id(0, "row"), b.iota(width)
    places = [(b.full(part, "i32"), row, column) for part in range(parts)] if parts > 1 else []
    value = b.load(x, row, column)
    for added in [b.load(y, *place) for place in places or [(row, column)]]:
        value = b.map("a + b", value, added, dtype="f32")
    b.store(total, row, column, value)
    out.store(b, row, column, normalized(b, value, b.load(w, column), width, eps))
    return b.finish("T", requires=NON_EMPTY, of="graph.add_rmsnorm", given=(w,))


def silu_mul(width: int, dtype: str = "f32", block: int = 1024, narrow: bool = False) -> Operation:
    """Return `out = silu(x[:, :F]) * x[:, F:]`. Arguments: T, x [T, 2F], out [T, F], and where
    `narrow` the scales of out, as of `quantize_rows`: then a program has a whole row."""
    b = KernelBuilder(f"silu_mul_{width}" + of_format(dtype, narrow))
    b.scalar("T")
    x, out = b.buffer("x", dtype, "T", 2 * width), _Rows.of(b, dtype, width, narrow)
    block = width if narrow else block
    row, column, mask = row_and_columns(b, width, block)
    gate = b.load(x, row, column, mask=mask)
    up = b.load(x, row, b.map(f"a + {width}", column), mask=mask)
    value = b.map(f"a / (1.0 + exp2(a * {-_LOG2E!r})) * b", gate, up, dtype="f32")
    out.store(b, row, column, value, mask)
    return b.finish("T", blocks_of(width, block), requires=NON_EMPTY, of="graph.silu_mul")


def take_rows(width: int, dtype: str = "f32", block: int = 1024) -> Operation:
    """Return `out[r] = x[rows[r]]`. Arguments: T, R, x [T, D], rows [R], out [R, D]."""
    b = KernelBuilder(f"take_rows_{width}" + of_format(dtype))
    b.scalar("T")
    b.scalar("R")
    x, rows = b.buffer("x", dtype, "T", width), b.buffer("rows", "i32", "R")
    out = b.buffer("out", dtype, "R", width)
    row, column, mask = row_and_columns(b, width, block)
    b.store(out, row, column, b.load(x, b.load(rows, row), column, mask=mask), mask=mask)
    facts = ("T >= 0", "R >= 0", "0 <= rows[*] < T")
    return b.finish("R", blocks_of(width, block), requires=facts, of="graph.take_rows")


def add(width: int, dtype: str = "f32", block: int = 1024) -> Operation:
    """Return `out = x + y`; `out` may be the memory of `x`. Arguments: T, x, y, out [T, D]."""
    b = KernelBuilder(f"add_{width}" + of_format(dtype))
    b.scalar("T")
    x, y = b.buffer("x", dtype, "T", width), b.buffer("y", dtype, "T", width)
    out = b.buffer("out", dtype, "T", width)
    row, column, mask = row_and_columns(b, width, block)
    left, right = b.load(x, row, column, mask=mask), b.load(y, row, column, mask=mask)
    b.store(out, row, column, b.map("a + b", left, right, dtype="f32"), mask=mask)
    return b.finish("T", blocks_of(width, block), requires=NON_EMPTY, of="graph.add")


def quantize_rows(width: int, dtype: str = "bf16") -> Operation:
    """Return `scale = max(absmax(x), 1e-12) / 448` by rows and `out = x / scale` in f8e4m3.

    Arguments: T, x [T, D], out [T, D], scale [T].
    """
    b = KernelBuilder(f"quantize_rows_{width}" + of_format(dtype))
    b.scalar("T")
    x, out = b.buffer("x", dtype, "T", width), _Rows.of(b, dtype, width, True)
    row, column = b.program_id(0, "row"), b.iota(width)
    out.store(b, row, column, b.load(x, row, column, dtype="f32"))
    return b.finish("T", requires=NON_EMPTY, of="graph.quantize_rows")


@dataclass(frozen=True)
class _Rows:
    """Where a kernel puts whole rows: as they are, or in f8e4m3 beside a scale each."""

    out: Value
    scale: Value | None = None

    @staticmethod
    def of(b: KernelBuilder, dtype: str, width: int, narrow: bool) -> _Rows:
        """Declare the buffers."""
        if not narrow:
            return _Rows(b.buffer("out", dtype, "T", width))
        return _Rows(b.buffer("out", "f8e4m3", "T", width), b.buffer("scale", "f32", "T"))

    def store(
        self, b: KernelBuilder, row: Value, column: Value, value: Value, mask: Value | None = None
    ) -> None:  # fmt: skip
        """Write one row, all of which `value` is where there is a scale."""
        if self.scale is not None:
            size = b.reduce("max", b.map("abs(a)", value, dtype="f32", hint="size"), 0, hint="most")
            scale = b.map("max(a, 1e-12) / 448.0", size, dtype="f32", hint="scale")
            b.store(self.scale, row, scale)
            value = b.map("a / b", value, scale, dtype="f32", hint="narrow")
        b.store(self.out, row, column, value, mask=mask)


def of_format(dtype: str, narrow: bool = False) -> str:
    """Return the end of the name of a kernel whose activations are not f32, or leave in fp8."""
    return ("" if dtype == "f32" else f"_{dtype}") + ("_fp8" if narrow else "")


def normalized(b: KernelBuilder, value: Value, weight: Value, width: int, eps: float) -> Value:
    """Return the rmsnorm of a tile along its last axis, times a weight that broadcasts."""
    square = b.map("a * a", value, dtype="f32", hint="square")
    axis = 0 if value.type.parameters[1] == (width,) else 1
    total = b.reduce("sum", square, axis, hint="total")
    total = b.expand(total, 1) if axis else total
    return b.map(f"a * rsqrt(b / {float(width)} + {eps!r}) * c", value, total, weight, dtype="f32")


def row_and_columns(
    b: KernelBuilder, width: int, block: int
) -> tuple[Value, Value, Value | None]:  # fmt: skip
    """Return the row of this program, its columns, and their mask if the width needs one."""
    block = min(block, width)
    row, part = b.program_id(0, "row"), b.program_id(1, "part")
    column = b.map(f"a * {block} + b", part, b.iota(block), dtype="i32", hint="column")
    return row, column, b.map(f"a < {width}", column, hint="inside") if width % block else None


def blocks_of(width: int, block: int) -> int:
    """Return how many programs share a row."""
    return -(-width // min(block, width))
