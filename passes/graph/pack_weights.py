"""A second copy of weights that decode steps stream, which lies in memory as programs read it.

A program reads some rows of w [N, K], some numbers of each at a time: 128 bytes here and 128 bytes
there, a row's length apart. Packed, w is [K / 64, N, 64], and what it reads at a time is one piece.
The library, which multiplies prompts, reads the usual one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, prod
from typing import ClassVar

from ...ir.core import Module, Operation
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context
from .body import Body, GraphPass, rewrite_functions


@dataclass(frozen=True)
class PackWeights(GraphPass):
    """Packs the weights of gated and of cut products, `width` numbers of a row side by side, where
    `packed` says so of N, K and whether it is gated (it is the columns of a program, else 0), in
    copies of `room` bytes at most: those of gated products first, which gain more."""

    packed: Callable[[int, int, bool], int]
    width: int = 64
    room: float = inf

    name: ClassVar[str] = "pack-weights"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such weights packed."""
        return rewrite_functions(module, lambda body: self._all(body, context))

    def _all(self, body: Body, context: Context) -> None:
        found = [weight for kind in ("graph.fused_matmul", "graph.cut_matmul")
                 for op in body.operations
                 if op.name == kind and (weight := self._weight(body, op))]  # fmt: skip
        taken, left = 0, 0
        for weight in found:
            size = 2 * prod(_sizes(weight))
            if taken + size <= self.room:
                self._pack(body, weight)
                taken += size
            else:
                left += 1
        if taken:
            context.did(
                f"{len(found) - left} weights of streamed products lie a second time in memory, as "
                f"programs of decode steps read them: {taken / 1e9:.2f} GB that keys have not; the "
                "library, which multiplies prompts, reads the others"
            )
        if left:
            context.left(
                f"{left} weights of streamed products lie in memory but once: copies as decode steps "
                f"would rather read them have room for {self.room / 1e9:.2f} GB"
            )

    def _weight(self, body: Body, op: Operation) -> Operation | None:
        """Return the weight of a product that is to be packed."""
        silu, weight = bool(op.attribute("silu")), body.made_by(op.operands[1], "graph.weight")
        if weight is None or body.uses[weight.result.name] > 1 or op.attribute("parts"):
            return None
        n, k = _sizes(weight)
        return weight if self.packed(n // (2 if silu else 1), k, silu) else None

    def _pack(self, body: Body, weight: Operation) -> None:
        n, k = _sizes(weight)
        type = tensor(dtype_of(weight.result.type), k // self.width, n, self.width)
        result = body.names.value(f"{weight.result.name}_packed", type)
        packed = replace(weight.with_attributes(packed=self.width), results=(result,))
        body.rename(weight.result, result)
        body.replace(weight, [weight], [packed])


def _sizes(weight: Operation) -> tuple[int, int]:
    n, k = shape_of(weight.result.type)
    assert isinstance(n, int) and isinstance(k, int)
    return n, k
