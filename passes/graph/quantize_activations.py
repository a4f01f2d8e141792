"""Rounds what products of fp8 weights read to fp8 too: a library multiplies both as they are.

A row of activations gets a scale of its own, absmax / 448 (dynamic, a token each), a row of weights
has one already: y = (xq wq^T) * x_scale * w_scale. Rounding to a 3-bit mantissa is lossy: up to
1/16 of each activation, about 2.6 % of its size in the mean square, which sums of many
terms average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.core import Module, Operation, Value, make
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions

FORMAT = "f8e4m3"
MULTIPLE = 16
"""What divides both extents of a weight that the library multiplies in 8 bits."""

MAKERS = ("graph.rmsnorm", "graph.add_rmsnorm", "graph.silu_mul")
"""Operations whose kernel rounds its last result itself, where nothing else reads that."""


@dataclass(frozen=True)
class QuantizeActivations(GraphPass):
    """Makes `graph.scaled_matmul` of each product of bf16 rows with fp8 weights.

    Logits are left: they are wanted in f32. So is a weight whose extents 16 does not divide.
    """

    name: ClassVar[str] = "quantize-activations"
    requires: ClassVar[tuple[str, ...]] = ("weight-formats",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such products, and what they read rounded before."""
        return rewrite_functions(module, lambda body: self._rewrite(body, context))

    def _rewrite(self, body: Body, context: Context) -> None:
        products = [op for op in body.operations if op.name == "graph.matmul" and _narrow(op)]
        rounded: dict[str, tuple[Value, Value]] = {}
        fits = [op for op in products if _fits(op)]
        for op in products:
            if op not in fits:
                context.left(f"a product of {FORMAT} weights [{_extents(op)}]: the library's takes "
                             f"multiples of {MULTIPLE}, and gives no f32", op.span)  # fmt: skip
        for op in fits:
            x, w, *bias = op.operands
            new: list[Operation] = []
            if x.name not in rounded:
                rounded[x.name] = _rounded(body, x, fits, new)
            new.append(make("graph.scaled_matmul", *rounded[x.name], w, *bias, results=op.results,
                            span=op.span))  # fmt: skip
            body.replace(op, [op], new)
        if fits:
            context.did(f"what {len(fits)} products read is rounded to {FORMAT}, a scale a row: "
                        "lossy; activations=bf16 leaves it")  # fmt: skip


def _narrow(op: Operation) -> bool:
    x, w = op.operands[:2]
    return dtype_of(x.type) == "bf16" and dtype_of(w.type) == FORMAT


def _fits(op: Operation) -> bool:
    sizes = shape_of(op.operands[1].type)
    whole = all(isinstance(size, int) and size % MULTIPLE == 0 for size in sizes)
    return whole and dtype_of(op.result.type) == "bf16"


def _extents(op: Operation) -> str:
    return ", ".join(map(str, shape_of(op.operands[1].type)))


def _rounded(
    body: Body, x: Value, products: list[Operation], new: list[Operation]
) -> tuple[Value, Value]:  # fmt: skip
    """Return x in 8 bits and its scales: by the operation that makes x, or one of its own."""
    rows, *rest = shape_of(x.type)
    narrow = body.names.value(f"{x.name}_fp8", tensor(FORMAT, rows, *rest))
    scale = body.names.value(f"{x.name}_scale", tensor("f32", rows))
    maker, readers = body.maker.get(x.name), sum(x in op.operands for op in products)
    alone = maker is not None and body.uses[x.name] == readers and maker.results[-1] == x
    if maker is not None and maker.name in MAKERS and alone:
        results = (*maker.results[:-1], narrow, scale)
        fused = make(maker.name, *maker.operands, results=results, span=maker.span,
                     eps=maker.attribute("eps"))  # fmt: skip
        body.replace(maker, [maker], [fused])
    else:
        new.append(make("graph.quantize_rows", x, results=(narrow, scale), span=_span(maker)))
    return narrow, scale


def _span(maker: Operation | None) -> Any:
    return maker.span if maker is not None else None
