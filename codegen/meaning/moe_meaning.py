"""The meaning of graph operations of mixture of experts, in torch; see `graph_reference`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ir.core import Operation

if TYPE_CHECKING:
    from .graph_reference import GraphRun


def _moe_route(run: GraphRun, operation: Operation, logits: Tensor) -> tuple[Tensor, Tensor]:
    weights, experts = logits.softmax(-1).topk(operation["top_k"], dim=-1)
    if operation.attribute("renormalize"):
        weights = weights / weights.sum(-1, keepdim=True)
    local = operation.attribute("local")
    if local is not None:
        low, high = local
        here = (experts >= low) & (experts < high)
        weights, experts = weights * here, torch.where(here, experts - low, high - low)
    slices = operation.attribute("slices", 1)
    if slices > 1:
        experts = (experts[..., None] * slices + torch.arange(slices)).flatten(-2)
        weights = weights.repeat_interleave(slices, -1)
    return weights, experts


def _moe_dispatch(run: GraphRun, operation: Operation, experts: Tensor) -> tuple[Tensor, Tensor]:
    flat = experts.flatten()
    counts = torch.bincount(flat, minlength=operation["experts"])[: operation["experts"]]
    return flat.argsort(stable=True), F.pad(counts.cumsum(0), (1, 0))


def _moe_expert(run: GraphRun, operation: Operation, x: Tensor, w: Tensor, order: Tensor,
                starts: Tensor, places: Tensor | None = None) -> Tensor:  # fmt: skip
    """Rows of experts that are not there are not a number, so that nobody uses them."""
    bounds, out = starts.tolist(), x.new_full((len(order), w.shape[1]), torch.nan)
    experts = operation.attribute("experts", range(len(bounds) - 1))
    for expert in experts:
        page = expert if places is None else int(places[expert])
        if page >= 0:
            pairs = order[bounds[expert] : bounds[expert + 1]]
            out[pairs] = x[pairs // operation["per_row"]] @ w[page].T
    return _silu_mul(out) if operation.attribute("silu") else out


def _silu_mul(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


def _moe_gated(run: GraphRun, operation: Operation, x: Tensor, w: Tensor, chosen: Tensor
               ) -> Tensor:  # fmt: skip
    rows = x.repeat_interleave(chosen.shape[1], 0)
    return _silu_mul(_of_experts(operation, rows, w, chosen.flatten()))


def _moe_mixed(run: GraphRun, operation: Operation, rows: Tensor, w: Tensor, chosen: Tensor,
               weights: Tensor, residual: Tensor | None = None) -> Tensor:  # fmt: skip
    found = _of_experts(operation, rows, w, chosen.flatten())
    return _moe_combine(run, operation, found, weights, residual)


def _of_experts(operation: Operation, rows: Tensor, w: Tensor, chosen: Tensor) -> Tensor:
    """Each row times its expert's weights; not a number where that is elsewhere."""
    if not operation.attribute("partial"):
        return torch.einsum("pk,pnk->pn", rows, w[chosen])
    here = chosen < len(w)
    found = rows.new_full((len(rows), w.shape[1]), torch.nan)
    found[here] = torch.einsum("pk,pnk->pn", rows[here], w[chosen[here]])
    return found


def _moe_join(run: GraphRun, operation: Operation, rows: Tensor, others: Tensor, order: Tensor,
              starts: Tensor) -> Tensor:  # fmt: skip
    bounds, joined = starts.tolist(), rows.clone()
    for expert in operation["experts"]:
        pairs = order[bounds[expert] : bounds[expert + 1]]
        joined[pairs] = others[pairs]
    return joined


def _moe_combine(run: GraphRun, operation: Operation, rows: Tensor, weights: Tensor,
                 residual: Tensor | None = None) -> Tensor:  # fmt: skip
    rows = rows.unflatten(0, weights.shape)
    if operation.attribute("partial"):
        rows = torch.where(weights[..., None] != 0, rows, 0.0)
    mixed = (rows * weights[..., None]).sum(1)
    return mixed if residual is None else mixed + residual


MOE_MEANING: dict[str, Callable[..., Any]] = {
    "graph.moe_route": _moe_route,
    "graph.moe_dispatch": _moe_dispatch,
    "graph.moe_expert": _moe_expert,
    "graph.moe_gated": _moe_gated,
    "graph.moe_mixed": _moe_mixed,
    "graph.moe_join": _moe_join,
    "graph.moe_combine": _moe_combine,
}
"""Meanings by operation."""
