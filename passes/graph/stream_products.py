"""Products of some rows that kernels of ours stream, on a GPU, where that was measured faster.

The vendor library's products are whole kernels. Ours take in what stands behind them: gate and up
are gated before they are stored, and sums over cut rows of weights are added by what stands
behind: a norm, or the rotation of q and k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ...ir.core import Module, Operation, make
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions

Cuts = Callable[[int, int, bool], int]
"""Says in how many parts K of a product [N, K] is cut, gated or not; 0: it stays the library's."""


@dataclass(frozen=True)
class StreamProducts(GraphPass):
    """Makes `graph.fused_matmul` of products with the gate behind them, and `graph.cut_matmul` of
    those that a norm's sum or a rotation takes, as `cuts` says."""

    cuts: Cuts

    name: ClassVar[str] = "stream-products"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such products changed."""
        return rewrite_functions(module, lambda body: self._all(body, context))

    def _all(self, body: Body, context: Context) -> None:
        count = 0
        for op in body.operations:
            if op.name == "graph.matmul" and len(op.operands) == 2 and _plain(op):
                count += self._streamed(body, op)
        if count:
            context.did(
                f"{count} products stream weights by kernels of ours, whose programs all run at "
                "once: they take in the gate, or leave sums to the norm or rotation behind them"
            )

    def _streamed(self, body: Body, op: Operation) -> bool:
        n, k = shape_of(op.operands[1].type)
        assert isinstance(n, int) and isinstance(k, int)
        if body.uses[op.result.name] != 1:
            return False
        gates = body.users(op.result, "graph.silu_mul")
        if gates and len(gates[0].results) == 1 and self.cuts(n // 2, k, True):
            fused = make("graph.fused_matmul", *op.operands, results=gates[0].results, parts=[],
                         silu=True, span=op.span)  # fmt: skip
            body.replace(gates[0], [op, gates[0]], [fused])
            return True
        sums = [user for user in body.users(op.result, "graph.add_rmsnorm")
                if user.operands[1] == op.result and len(user.results) == 2]  # fmt: skip
        sums += body.users(op.result, "graph.qkv_rope_write")
        cuts = self.cuts(n, k, False) if sums else 0
        if cuts:
            rows = shape_of(op.result.type)[0]
            parts = body.names.value(
                op.result.name, tensor(dtype_of(op.result.type), cuts, rows, n)
            )
            cut = make("graph.cut_matmul", *op.operands, results=(parts,), cuts=cuts, span=op.span)
            body.rename(op.result, parts)
            body.replace(op, [op], [cut])
        return cuts > 0


def _plain(op: Operation) -> bool:
    """Return whether all of a product is bf16."""
    return {dtype_of(value.type) for value in (*op.operands, op.result)} == {"bf16"}
