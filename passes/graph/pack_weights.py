"""A second copy of weights that decode steps stream, which lies in memory as programs read it.

A program reads some rows of w [N, K], some numbers of each at a time: 128 bytes here and 128 bytes
there, a row's length apart. Packed, w is [K / 64, N, 64], and what it reads at a time is one piece.
The library, which multiplies prompts, reads the usual one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

from ...ir.core import Module, Operation
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions


@dataclass(frozen=True)
class PackWeights(GraphPass):
    """Packs the weights of gated products, `width` numbers of a row side by side, where that
    `saves` seconds of a step (of N, K), in copies of `room` bytes at most: those of the first
    layers."""

    saves: Callable[[int, int], float]
    width: int = 64
    room: float = inf

    name: ClassVar[str] = "pack-weights"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such weights packed."""
        return rewrite_functions(module, lambda body: self._all(body, context))

    def _all(self, body: Body, context: Context) -> None:
        found = [copy for op in body.operations if (copy := self._copy(body, op))]
        taken: list[_Copy] = []
        for copy in found:
            if sum(each.bytes for each in taken) + copy.bytes <= self.room:
                self._pack(body, copy.weight)
                taken.append(copy)
        size, seconds = sum(copy.bytes for copy in taken), sum(copy.seconds for copy in taken)
        if taken:
            context.did(
                f"{len(taken)} weights lie a second time in memory, as decode steps read "
                f"them: {size / 1e9:.2f} GB that keys have not, for {1e3 * seconds:.2f} ms less a "
                "step by prediction; the library, which multiplies prompts, reads the usual ones"
            )
        if len(taken) < len(found):
            lost = sum(copy.seconds for copy in found) - seconds
            context.left(
                f"{len(found) - len(taken)} weights lie in memory but once: copies as decode steps "
                f"would rather read them have {self.room / 1e9:.2f} GB, and a step takes "
                f"{1e3 * lost:.2f} ms more by prediction"
            )

    def _copy(self, body: Body, op: Operation) -> _Copy | None:
        """Return the copy that a product's weight may have, if that saves time."""
        gated = op.name == "graph.fused_matmul" and op.attribute("silu") and not op["parts"]
        weight = body.made_by(op.operands[1], "graph.weight") if gated else None
        if weight is None or body.uses[weight.result.name] > 1:
            return None
        n, k = _sizes(weight)
        seconds = self.saves(n // 2, k)
        return _Copy(weight, 2 * n * k, seconds) if seconds > 0 else None

    def _pack(self, body: Body, weight: Operation) -> None:
        n, k = _sizes(weight)
        type = tensor(dtype_of(weight.result.type), k // self.width, n, self.width)
        result = body.names.value(f"{weight.result.name}_packed", type)
        packed = replace(weight.with_attributes(packed=self.width), results=(result,))
        body.rename(weight.result, result)
        body.replace(weight, [weight], [packed])


@dataclass(frozen=True)
class _Copy:
    """A weight that may be packed: bytes of the copy, seconds that it saves a step."""

    weight: Operation
    bytes: int
    seconds: float


def _sizes(weight: Operation) -> tuple[int, int]:
    n, k = shape_of(weight.result.type)
    assert isinstance(n, int) and isinstance(k, int)
    return n, k
