"""Products to kernels that stream their weights on a GPU: of a single row, and of some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....ir.core import Operation
from ....ir.types import dtype_of
from ..products.matvec import Matvec, matvec, suited
from ..products.skinny_matmul import NARROW, ROWS, skinny_matmul, streamed
from .value_shapes import format_of, rows_of, scale_of, sizes_of, width_of

if TYPE_CHECKING:
    from .lower import _Lowering


def lower_matvec(lowering: _Lowering, op: Operation, parts: list[str]) -> Operation:
    """Return the call of a single row's product with its parts."""
    x, weight = op.operands[:2]
    shape = Matvec(
        width_of(op.result), width_of(weight), dtype_of(weight.type), dtype_of(x.type),
        format_of(op), "bias" in parts, "residual" in parts, bool(op.attribute("silu")),
    )  # fmt: skip
    rest = "".join(f" in{2 + place}" for place in range(len(parts)))
    arguments = f"{rows_of(op.result)} in0 in1 out0{scale_of(weight, 1)}{rest}"
    return lowering.call(op, lowering.once(matvec, suited(shape)), arguments)


def lower_skinny(lowering: _Lowering, op: Operation) -> list[Operation]:
    """A product of some rows, gated or cut, all in bf16; another kernel where rows are few."""
    silu, cuts = bool(op.attribute("silu")), op.attribute("cuts", 1)
    extents = sizes_of(op.operands[1])
    packed, k = len(extents) == 3, extents[-1] if len(extents) == 2 else extents[0] * extents[2]
    sizes = width_of(op.result), k, silu, cuts
    many, few = (
        lowering.once(skinny_matmul, streamed(*sizes, rows, packed)) for rows in (ROWS, NARROW)
    )
    return [lowering.by_rows(lowering.call(op, many, "T in0 in1 out0"), few, NARROW)]
