"""Chooses the format that weights are kept in: f32, bf16, or int8 with a scale a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.core import Module, Operation
from ...ir.types import shape_of, tensor
from ..manager import Context, GraphPass
from ..rewrite import rewrite, substitute

MATRICES = {"graph.matmul": 1, "graph.fused_matmul": 1, "graph.moe_expert": 1, "graph.embedding": 0}
"""Operations that read a weight in any format, and which operand it is."""


@dataclass(frozen=True)
class ChooseWeightFormat(GraphPass):
    """Keeps the matrices in a format; norms, biases and the router of experts stay f32."""

    format: str = "f32"

    name: ClassVar[str] = "choose-weight-format"
    ensures: ClassVar[tuple[str, ...]] = ("weight-formats",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with the types of its matrices changed."""
        if self.format == "f32":
            return module
        routers = {op.operands[0].name for op in module.walk() if op.name == "graph.moe_route"}
        matrices = {
            op.operands[MATRICES[op.name]].name
            for op in module.walk()
            if op.name in MATRICES and op.results[0].name not in routers
        }
        changed = {}
        for op in module.walk():
            if op.name == "graph.weight" and op.result.name in matrices:
                shape = shape_of(op.result.type)
                changed[op.result.name] = replace(op.result, type=tensor(self.format, *shape))

        def retype(op: Operation) -> list[Operation]:
            if op.name == "graph.weight" and op.result.name in changed:
                return [replace(op, results=(changed[op.result.name],))]
            return [op if op.regions else substitute(op, changed)]

        return rewrite(module, retype)
