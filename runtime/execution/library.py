"""Routines of torch that a lowered graph calls: products of many rows, exchanges of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, distributed

from ...ir.types import DTYPE_BYTES
from .ranks import peers

Launch = tuple[Callable[..., Any], tuple[Any, ...]]

Multiply = Callable[[Tensor, Tensor, Tensor | None, Tensor], Launch]
"""Binds out [T, N] = x [T, K] w [N, K]^T + bias [N], all f32; given x, w, bias or None, out."""


def blas(x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> Launch:
    """Bind a product of f32 matrices by torch's BLAS."""
    return _matmul_f32, (x, w.T, bias, out)


def nothing(*arguments: Any) -> None:
    """Stand in a step's launches for one that steps of its way do not have."""


def matmul(
    values: Sequence[Any], scratch: Tensor | None = None, multiply: Multiply = blas
) -> Launch:
    """Bind out [T, N] = x [T, K] w [N, K]^T + bias [N]; values: out, x, w, scale or None[, bias].

    Where x is f32, narrower weights are widened to f32 first: with many rows that costs little
    beside the product, and the result is that of our kernels. Likewise weights of 8 bits are
    widened to bf16 where x is. bf16 by bf16 stays so, with sums in f32; the result may be f32.
    What is widened lies in `scratch`, bytes that `workspace` counts, or in memory of its own.
    `multiply` is for products of f32 by f32, widened weights included.
    """
    out, x, w, scale, *rest = values
    bias = rest[0] if rest else None
    if x.dtype == torch.bfloat16 and scale is not None:
        return _matmul_scaled, (x, w, scale, bias, out, scratch)
    if x.dtype == w.dtype == torch.bfloat16:
        return _matmul_bf16, (x, w.T, bias, out)
    if x.dtype == torch.bfloat16:
        return _matmul_router, (x, w.T, bias, out, scratch)
    if w.dtype != torch.float32:
        return _matmul_widened, (x, w, scale, bias, out, scratch, multiply)
    return multiply(x, w, bias, out)


def _matmul_f32(x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, w, out=out)
    else:
        torch.addmm(bias, x, w, out=out)


def _matmul_bf16(x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if out.dtype == x.dtype:
        torch.mm(x, w, out=out)
    elif x.is_cuda:
        torch.ops.aten.mm.dtype_out(x, w, out.dtype, out=out)
    else:
        torch.mm(x.float(), w.float(), out=out)
    if bias is not None:
        out.add_(bias)


def _matmul_router(
    x: Tensor, w: Tensor, bias: Tensor | None, out: Tensor, scratch: Tensor | None
) -> None:
    """Multiply bf16 rows with the f32 weights that stay exact: those that choose experts."""
    torch.mm(_room(x.shape, torch.float32, x, scratch).copy_(x), w, out=out)
    if bias is not None:
        out.add_(bias)


def _matmul_scaled(
    x: Tensor, w: Tensor, scale: Tensor, bias: Tensor | None, out: Tensor, scratch: Tensor | None
) -> None:
    """Multiply bf16 rows with widened 8-bit weights; scales come after the sums, which are exact
    to what the library gives: f32 where logits are wanted, else bf16."""
    wide = _room(w.shape, torch.bfloat16, w, scratch).copy_(w).T
    if out.dtype == torch.float32:
        _matmul_bf16(x, wide, None, out)
        out.mul_(scale)
    else:
        rest = None if scratch is None else scratch[_aligned(wide.nbytes) :]
        product = _room(out.shape, out.dtype, x, rest)
        torch.mul(torch.mm(x, wide, out=product), scale, out=out)
    if bias is not None:
        out.add_(bias)


def workspace(rows: int, columns: int, depth: int, x: str, w: str, out: str) -> int:
    """Return the bytes that `matmul` takes for a while beside its operands and its result.

    Given are the extents of the product and the element formats: what is widened is x where
    weights stay f32, else the weights, and the product too where row scales come after it.
    """
    if x == w:
        return 0
    if (x, w) == ("bf16", "f32"):
        return DTYPE_BYTES[w] * rows * depth
    scaled = x == "bf16" and out != "f32"
    product = DTYPE_BYTES[out] * rows * columns if scaled else 0
    return _aligned(DTYPE_BYTES[x] * columns * depth) + product


def _aligned(size: int) -> int:
    return -(-size // 256) * 256


def _room(shape: Sequence[int], dtype: torch.dtype, like: Tensor, scratch: Tensor | None) -> Tensor:
    """Return a tensor in the scratch's first bytes, or a new one where `like` lies."""
    if scratch is None:
        return torch.empty(shape, dtype=dtype, device=like.device)
    return scratch[: prod(shape) * dtype.itemsize].view(dtype).view(shape)


def scaled_matmul(values: Sequence[Any]) -> Launch:
    """Bind out [T, N] = (x [T, K] w [N, K]^T) x_scale [T] w_scale [N] + bias [N], x and w in
    f8e4m3, out in bf16; values: out, x, x_scale, w, w_scale[, bias].

    Sums are the tensor cores' own (`use_fast_accum`): they keep fewer bits than f32, of which the
    rounding of x and w leaves nothing to be seen.
    """
    out, x, x_scale, w, w_scale, *rest = values
    bias = rest[0] if rest else None
    return _scaled_matmul, (x, w.T, x_scale[:, None], w_scale[None], bias, out)


def _scaled_matmul(
    x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, out: Tensor
) -> None:  # fmt: skip
    if not len(x):
        return
    torch.ops.aten._scaled_mm.out(
        x, w, x_scale, w_scale, out_dtype=out.dtype, use_fast_accum=x.is_cuda, out=out
    )
    if bias is not None:
        out.add_(bias)


def _matmul_widened(
    x: Tensor, w: Tensor, scale: Tensor | None, bias: Tensor | None, out: Tensor,
    scratch: Tensor | None, multiply: Multiply,
) -> None:  # fmt: skip
    wide = _room(w.shape, torch.float32, w, scratch).copy_(w)
    product, operands = multiply(x, wide, None, out)
    product(*operands)
    if scale is not None:
        out.mul_(scale)
    if bias is not None:
        out.add_(bias)


def moe_expert(values: Sequence[Any]) -> Launch:
    """Bind each expert's product over pages: out [M, N], x [T or M, K], w [S, N, K] bf16, order
    [M], starts [E + 1] and places [E]; an expert at -1 leaves its rows as they are.

    Rows are rounded to bf16, as on a GPU; sums are f32. A page is read once for all its rows.
    """
    out, *rest = values
    return _moe_expert, (*rest, out)


def moe_expert_silu(values: Sequence[Any]) -> Launch:
    """Bind the same of gate and up rows, w [S, 2 N, K]: out [M, N] is silu(gate) * up."""
    out, *rest = values
    return _moe_expert, (*rest, out, True)


def _moe_expert(
    x: Tensor, w: Tensor, order: Tensor, starts: Tensor, places: Tensor, out: Tensor,
    silu: bool = False,
) -> None:  # fmt: skip
    per_row, bounds = len(order) // max(len(x), 1), starts.tolist()
    for expert, place in enumerate(places.tolist()):
        pairs = order[bounds[expert] : bounds[expert + 1]].long()
        if place >= 0 and len(pairs):
            product = torch.mm(x[pairs // per_row].to(torch.bfloat16), w[place].T).to(out.dtype)
            out[pairs] = _gated(product) if silu else product


def _gated(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)


@contextmanager
def library_threads(count: int) -> Iterator[None]:
    """Let the library use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def all_reduce(values: Sequence[Any]) -> Launch:
    """Bind out = the sum of x over the ranks; values: out, x, which may be the same memory."""
    out, x = values
    return _all_reduce, (x, out)


def all_gather(values: Sequence[Any]) -> Launch:
    """Bind out [T, ranks * N] = the columns x [T, N] of each rank side by side; values: out, x."""
    out, x = values
    return _all_gather, (x, out)


def _all_reduce(x: Tensor, out: Tensor) -> None:
    if out.data_ptr() != x.data_ptr():
        out.copy_(x)
    with peers():
        distributed.all_reduce(out)


_gather: Callable[..., Any] = getattr(  # its name since torch 2.13, and the one before
    distributed, "all_gather_single", distributed.all_gather_into_tensor
)


def _all_gather(x: Tensor, out: Tensor) -> None:
    rows, width = x.shape
    count = out.shape[1] // width
    parts = torch.empty((count * rows, width), dtype=x.dtype, device=x.device)
    with peers():
        _gather(parts, x)
    out.view(rows, count, width).copy_(parts.view(count, rows, width).transpose(0, 1))


ROUTINES: dict[str, Callable[[Sequence[Any]], Launch]] = {
    "matmul": matmul, "scaled_matmul": scaled_matmul, "moe_expert": moe_expert,
    "moe_expert_silu": moe_expert_silu,
    "all_reduce": all_reduce, "all_gather": all_gather,
}  # fmt: skip


def of_rows(routine: str, values: Sequence[Any], rows: int) -> Launch:
    """Bind a product (`SCALES` names them) of the first rows of its operands."""
    by_row = SCALES[routine] + 1
    return ROUTINES[routine]([*(value[:rows] for value in values[:by_row]), *values[by_row:]])


SCALES = {"matmul": 1, "scaled_matmul": 2}
"""Routines that take the row scales of a weight behind it, and which operand that is."""
