"""Routines of torch that a lowered graph calls where they beat our kernels: many rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Launch = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Call:
    """What a routine is bound to: tensors, row scales of operands, settings, a layer's pages."""

    operands: list[Tensor]
    results: list[Tensor]
    scales: list[Tensor | None]
    settings: dict[str, Any] = field(default_factory=dict)
    k: Tensor | None = None  # [N, K, P, C]
    v: Tensor | None = None


def matmul(call: Call) -> Launch:
    """Bind out [T, N] = x [T, K] w [N, K]^T + bias; weights of any format.

    bf16 and int8 weights are widened to f32 first: with many rows that costs little beside the
    product, and the result is that of our kernels.
    """
    x, w, *rest = call.operands
    bias = rest[0] if rest else None
    if w.dtype == torch.float32:
        return _matmul_f32, (x, w.T, bias, call.results[0])
    return _matmul_widened, (x, w, call.scales[1], bias, call.results[0])


def _matmul_f32(x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, w, out=out)
    else:
        torch.addmm(bias, x, w, out=out)


def _matmul_widened(
    x: Tensor, w: Tensor, scale: Tensor | None, bias: Tensor | None, out: Tensor
) -> None:
    torch.mm(x, w.float().T, out=out)
    if scale is not None:
        out.mul_(scale)
    if bias is not None:
        out.add_(bias)


def attention(call: Call) -> Launch:
    """Bind causal attention over pages; operands: q, query_starts, page_table, kv_lengths.

    Settings: heads, kv_heads, head_dim, scale, window (0: none). Sequence by sequence, keys
    gathered into contiguous memory first.
    """
    return _attention, (*call.operands, call.results[0], call.k, call.v, call.settings)


def _attention(
    q: Tensor, starts: Tensor, table: Tensor, lengths: Tensor, out: Tensor, k_pool: Tensor,
    v_pool: Tensor, settings: dict[str, Any],
) -> None:  # fmt: skip
    heads, width, page = settings["heads"], settings["head_dim"], k_pool.shape[2]
    bounds = starts.tolist()
    for sequence, length in enumerate(lengths.tolist()):
        low, high = bounds[sequence], bounds[sequence + 1]
        first = max(0, length - (high - low) + 1 - settings["window"]) if settings["window"] else 0
        first -= first % page
        pages = table[sequence, first // page : -(-length // page)]
        k, v = (_gathered(pool, pages, length - first) for pool in (k_pool, v_pool))
        rows = q[low:high].view(-1, heads, width).transpose(0, 1)
        seen = F.scaled_dot_product_attention(
            rows[None], k[None], v[None], scale=settings["scale"], enable_gqa=True,
            attn_mask=_mask(high - low, length, first, settings["window"]),
        )  # fmt: skip
        out[low:high] = seen[0].transpose(0, 1).reshape(high - low, heads * width)


def _gathered(pool: Tensor, pages: Tensor, length: int) -> Tensor:
    """Return the keys or values of a sequence, [K, S, C], f32."""
    picked = pool[pages.long()].transpose(0, 1)
    return picked.reshape(picked.shape[0], -1, picked.shape[-1])[:, :length].float()


def _mask(rows: int, length: int, first: int, window: int) -> Tensor | None:
    """Return which keys [first, length) the last `rows` positions see; None: all of them."""
    if rows == 1 and not window:
        return None
    at = torch.arange(length - rows, length)[:, None]
    key = torch.arange(first, length)[None]
    seen = key <= at
    return seen & (key > at - window) if window else seen


ROUTINES: dict[str, Callable[[Call], Launch]] = {"matmul": matmul, "attention": attention}
