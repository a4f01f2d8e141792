"""Routines of torch that a lowered graph may call where they beat our kernels: large matmuls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Routine = Callable[
    [list[Tensor], list[Tensor], list[Tensor | None]], tuple[Callable[..., Any], tuple[Any, ...]]
]


def matmul(
    operands: list[Tensor], results: list[Tensor], scales: list[Tensor | None]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Bind out [T, N] = x [T, K] w [N, K]^T + bias; weights of any format.

    bf16 and int8 weights are widened to f32 first: with many rows that costs little beside the
    product, and the result is that of our kernels.
    """
    x, w, *bias = operands
    (out,) = results
    if w.dtype == torch.float32:
        return _matmul_f32, (x, w.T, bias[0] if bias else None, out)
    return _matmul_widened, (x, w, scales[1], bias[0] if bias else None, out)


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


ROUTINES: dict[str, Routine] = {"matmul": matmul}
