"""Chooses the format that activations are kept in between kernels: f32, or bf16 on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.core import Module, Operation, Value
from ...ir.types import dtype_of, shape_of, tensor
from ..manager import Context, GraphPass
from ..rewrite import rewrite, substitute


@dataclass(frozen=True)
class ChooseActivationFormat(GraphPass):
    """Keeps activations in a format; a step's results (logits), and what experts are chosen by,
    stay f32. Kernels compute in f32 whatever they read and write."""

    format: str = "f32"

    name: ClassVar[str] = "choose-activation-format"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with the types of its activations changed."""
        if self.format == "f32":
            return module
        exact = _exact(module)
        changed: dict[str, Value] = {}

        def retype(op: Operation) -> list[Operation]:
            if op.regions or op.name == "graph.weight":
                return [op]
            for value in op.results:
                if _is_f32(value) and value.name not in exact:
                    kept = tensor(self.format, *shape_of(value.type))
                    changed[value.name] = replace(value, type=kept)
            results = tuple(changed.get(value.name, value) for value in op.results)
            return [substitute(replace(op, results=results), changed)]

        module = rewrite(module, retype)
        context.did(f"{len(changed)} activations in {self.format}, {len(exact)} kept in f32")
        return module


def _is_f32(value: Value) -> bool:
    return value.type.name == "tensor" and dtype_of(value.type) == "f32"


def _exact(module: Module) -> set[str]:
    """Return the values that stay f32: results of the step, and routers' logits and weights."""
    exact: set[str] = set()
    for op in module.walk():
        if op.name in {"graph.return", "graph.moe_route"}:
            exact |= {value.name for value in op.operands}
        if op.name == "graph.moe_route":
            exact |= {value.name for value in op.results}
    return exact
