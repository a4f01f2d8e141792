"""Lowering of mixture of experts: route, dispatch, the experts' products, combine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....ir.core import Operation
from ....ir.types import dtype_of
from ..products import moe
from ..products.expert_matvec import ExpertMatvec, experts_gated, experts_mixed
from ..products.matmul import blocks
from .value_shapes import format_of, scale_of, sizes_of, width_of

if TYPE_CHECKING:
    from .lower import _Lowering


DEEP = 1024
"""The depth of a product from which one large block a multiprocessor pays."""

CHUNKS = 4
"""Programs that share an expert's rows: with 8 K tokens, 8 of 128 experts each, a block each."""

PAIRS = 4096
"""Pairs that a program of dispatch looks at at a time in steps of many rows."""


def _many(lowering: _Lowering) -> bool:
    """Whether a step may have many rows an expert, on a GPU."""
    return lowering.on_gpu and not lowering.options.rows


def lower_route(lowering: _Lowering, op: Operation) -> list[Operation]:
    """The top experts of each token."""
    kernel = lowering.once(moe.route, width_of(op.operands[0]), op["top_k"],
                           bool(op.attribute("renormalize")), op.attribute("local"),
                           op.attribute("slices", 1))  # fmt: skip
    return [lowering.call(op, kernel, "T in0 out0 out1")]


def lower_dispatch(lowering: _Lowering, op: Operation) -> list[Operation]:
    """Pairs by expert."""
    block = PAIRS if _many(lowering) else moe.BLOCK
    kernel = lowering.once(moe.dispatch, op["experts"], block)
    return [lowering.call(op, kernel, "M flat0 out0 out1")]


def lower_expert(lowering: _Lowering, op: Operation) -> list[Operation]:
    """The experts' matmul; an expert has few rows in decode, so blocks of rows are small. On a GPU
    blocks of other steps are those of a product of its own: as large as registers hold."""
    weight, per_row = op.operands[1], op["per_row"]
    silu = bool(op.attribute("silu"))
    paged = len(op.operands) == 5
    if paged and not lowering.on_gpu and dtype_of(weight.type) == "bf16":
        why = ("experts read from pages: the library uses the CPU's units of bf16, and reads a "
               "page once for all its rows")  # fmt: skip
        return [lowering.library(op, "moe_expert_silu" if silu else "moe_expert", why)]
    n, k = width_of(op.result), width_of(weight)
    experts = sizes_of(op.operands[4])[0] if paged else sizes_of(weight)[0]
    rows, block_n, block_k = (4, 64, 64) if lowering.options.rows else (8, 16, blocks(n, k)[1])
    chunks = 1
    if lowering.on_gpu:
        rows, block_n, block_k = 16, 64, 128
    if _many(lowering) and n >= 128 and k >= 64:
        (rows, block_n, block_k), chunks = _large_blocks(n, k, silu), CHUNKS
    kernel = lowering.once(
        moe.expert_matmul,
        experts, n, k, per_row, dtype_of(weight.type), rows, min(block_n, n), min(block_k, k),
        format_of(op), format_of(op), paged, chunks, silu,
    )  # fmt: skip
    first = "T" if per_row > 1 else "M"
    inputs = "M S in0 in1 in2 in3 in4" if paged else "M in0 in1 in2 in3"
    return [lowering.call(op, kernel, f"{first} {inputs} out0" + scale_of(weight, 1))]


def _large_blocks(n: int, k: int, silu: bool) -> tuple[int, int, int]:
    """Return rows, columns and depth of a block of products with many rows.

    A multiprocessor gets some 50 GB/s from the cache: a block of 128 x 256 reads 48 KB for 4.2
    MFLOP, and is bound at 600 TFLOP/s of 132 of them; one of 128 x 128 reads 32 KB for 2.1, bound
    at 450, but two are resident, of which one computes while the other begins or stores: that pays
    where the depth is small. Gate and up are two halves of a block.
    """
    wide = 256 if k >= DEEP and (2 * n if silu else n) % 256 == 0 else 128
    return 128, wide // 2 if silu else wide, 64


def lower_gated(lowering: _Lowering, op: Operation) -> list[Operation]:
    """Gate, up and silu of each pair."""
    _, weight, chosen = op.operands
    experts, wide, k = sizes_of(weight)
    shape = ExpertMatvec(experts, wide // 2, k, width_of(chosen), dtype_of(weight.type),
                         format_of(op), partial=bool(op.attribute("partial")))  # fmt: skip
    arguments = "T M in0 in1 flat2 out0" + scale_of(weight, 1)
    return [lowering.call(op, lowering.once(experts_gated, shape), arguments)]


def lower_mixed(lowering: _Lowering, op: Operation) -> list[Operation]:
    """Down, and the weighted sum with the residual; of short rows a program has four, so that it
    has enough to read."""
    _, weight, chosen, *rest = op.operands
    experts, n, k = sizes_of(weight)
    residual = len(rest) == 2
    shape = ExpertMatvec(experts, n, k, width_of(chosen), dtype_of(weight.type), format_of(op),
                         residual, 4 if k < DEEP else 2, bool(op.attribute("partial")))  # fmt: skip
    arguments = "T M in0 in1 flat2 flat3 out0" + (" in4" if residual else "")
    return [lowering.call(op, lowering.once(experts_mixed, shape), arguments + scale_of(weight, 1))]


def lower_combine(lowering: _Lowering, op: Operation) -> list[Operation]:
    """The weighted sum of a token's pairs."""
    residual = len(op.operands) == 3
    kernel = lowering.once(moe.combine, width_of(op.result), width_of(op.operands[1]), residual,
                         dtype=format_of(op), partial=bool(op.attribute("partial")))  # fmt: skip
    return [lowering.call(op, kernel, "T M in0 in1 out0" + (" in2" if residual else ""))]
