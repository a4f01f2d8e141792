"""Routines of torch that a lowered graph calls where they beat our kernels: many rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Launch = tuple[Callable[..., Any], tuple[Any, ...]]


def matmul(values: Sequence[Any]) -> Launch:
    """Bind out [T, N] = x [T, K] w [N, K]^T + bias [N]; values: out, x, w, scale or None[, bias].

    bf16 and int8 weights are widened to f32 first: with many rows that costs little beside the
    product, and the result is that of our kernels.
    """
    out, x, w, scale, *rest = values
    bias = rest[0] if rest else None
    if w.dtype != torch.float32:
        return _matmul_widened, (x, w, scale, bias, out)
    return _matmul_f32, (x, w.T, bias, out)


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


ROUTINES: dict[str, Callable[[Sequence[Any]], Launch]] = {"matmul": matmul}
