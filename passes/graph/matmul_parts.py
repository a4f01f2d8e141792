"""Pulls norms, gates and residuals into the matmuls next to them, for steps of few rows.

With few rows a matmul waits for its weights, so arithmetic on its rows is free, and a launch less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir.core import Module, Operation, Value, make
from ..manager import Context, GraphPass
from .body import Body, rewrite_functions


@dataclass(frozen=True)
class FuseMatmulParts(GraphPass):
    """Makes `graph.fused_matmul` of norm, matmul, silu_mul and residual sum where they meet.

    Without `norms` a norm stays what it is: where many programs share a product, each would
    compute it again.
    """

    norms: bool = True

    name: ClassVar[str] = "fuse-matmul-parts"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with each matmul's neighbours pulled in."""
        return rewrite_functions(module, self._fuse_all)

    def _fuse_all(self, body: Body) -> None:
        taken: set[str] = set()
        for operation in body.operations:
            if operation.name == "graph.matmul":
                _fuse(body, operation, taken, self.norms)


def _fuse(body: Body, matmul: Operation, taken: set[str], norms: bool) -> None:
    """Pull in what stands before and after one matmul; `taken` names results already fused."""
    x, *rest = matmul.operands
    parts: dict[str, Value] = dict(zip(("weight", "bias"), rest, strict=False))
    gone, last = [matmul], matmul
    norm = body.made_by(x, "graph.rmsnorm") if norms else None
    if norm is not None and body.uses[x.name] == 1:
        x, parts["norm"] = norm.operands
        gone.append(norm)
    silu = _only_user(body, matmul.result, "graph.silu_mul")
    if silu is not None:
        gone.append(silu)
        last = silu
    add = _only_user(body, last.result, "graph.add")
    if add is not None and add.operands[0] != add.operands[1] and add.result.name not in taken:
        (parts["residual"],) = (value for value in add.operands if value != last.result)
        taken.add(add.result.name)
        gone.append(add)
        last = add
    if len(gone) == 1:
        return
    names = [name for name in ("bias", "norm", "residual") if name in parts]
    fused = make(
        "graph.fused_matmul", x, *(parts[name] for name in ("weight", *names)),
        results=(last.result,), parts=names, silu=True if silu else None,
        eps=norm["eps"] if "norm" in parts and norm else None, span=matmul.span,
    )  # fmt: skip
    body.replace(last, gone, [fused])


def _only_user(body: Body, value: Value, name: str) -> Operation | None:
    users = body.users(value, name)
    return users[0] if len(users) == 1 and body.uses[value.name] == 1 else None


@dataclass(frozen=True)
class FuseCombineResidual(GraphPass):
    """Lets the sum over a token's experts begin with the residual."""

    name: ClassVar[str] = "fuse-combine-residual"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with such sums joined."""
        return rewrite_functions(module, self._fuse)

    @staticmethod
    def _fuse(body: Body) -> None:
        for combine in body.operations:
            if combine.name != "graph.moe_combine" or len(combine.operands) == 3:
                continue
            add = _only_user(body, combine.result, "graph.add")
            if add is None or add.operands[0] == add.operands[1]:
                continue
            (residual,) = (value for value in add.operands if value != combine.result)
            fused = make("graph.moe_combine", *combine.operands, residual, results=add.results,
                         span=combine.span)  # fmt: skip
            body.replace(add, [combine, add], [fused])
