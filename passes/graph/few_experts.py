"""Joins what a layer of experts does.

Of many rows silu belongs to the product before it. Of so few that no two pairs share an expert,
pairs need no order by expert: a pair's programs look up its expert and stream that one's rows.
Gate, up and silu are one launch, down, the weighted sum and the residual another: two for five.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.core import Module, Operation, make
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions


@dataclass(frozen=True)
class FuseExpertSilu(GraphPass):
    """Lets the experts' product of gate and up rows give silu(gate) * up, as both are there."""

    name: ClassVar[str] = "fuse-expert-silu"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such products."""
        return rewrite_functions(module, self._fuse)

    @staticmethod
    def _fuse(body: Body) -> None:
        for silu in [op for op in body.operations if op.name == "graph.silu_mul"]:
            both = body.made_by(silu.operands[0], "graph.moe_expert")
            if both is not None and body.uses[both.result.name] == 1:
                joined = replace(both.with_attributes(silu=True), results=silu.results)
                body.replace(silu, [both, silu], [joined])


@dataclass(frozen=True)
class FuseFewExperts(GraphPass):
    """Makes `graph.moe_gated` and `graph.moe_mixed` of dispatch, products, silu and combine."""

    name: ClassVar[str] = "fuse-few-experts"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such layers joined."""
        return rewrite_functions(module, lambda body: self._fuse_all(body, context))

    @staticmethod
    def _fuse_all(body: Body, context: Context) -> None:
        for combine in [op for op in body.operations if op.name == "graph.moe_combine"]:
            problem = _fuse(body, combine)
            if problem:
                context.left(f"a layer of experts: {problem}", combine.span)


def _fuse(body: Body, combine: Operation) -> str:
    """Fuse the layer that ends in this sum; return why not, if so."""
    rows, weights, *residual = combine.operands
    down = body.made_by(rows, "graph.moe_expert")
    silu = body.made_by(down.operands[0], "graph.silu_mul") if down else None
    up = body.made_by(silu.operands[0], "graph.moe_expert") if silu else None
    dispatch = body.made_by(up.operands[2], "graph.moe_dispatch") if up else None
    route = body.made_by(weights, "graph.moe_route")
    if down is None or silu is None or up is None or dispatch is None or route is None:
        return "its products are not those of gate, up and down"
    if any(len(op.operands) != 4 or op.attribute("experts") for op in (up, down)):
        return "some experts are elsewhere"
    (chosen,), span, partial = dispatch.operands, combine.span, combine.attribute("partial")
    hidden = make("graph.moe_gated", *up.operands[:2], chosen, results=silu.results,
                  partial=partial, span=span)  # fmt: skip
    mixed = make("graph.moe_mixed", silu.result, down.operands[1], chosen, weights, *residual,
                 results=combine.results, partial=partial, span=span)  # fmt: skip
    body.replace(combine, [dispatch, up, silu, down, combine], [hidden, mixed])
    return ""
