"""Pages of four bits on their way: two numbers a byte, a scale a row; int8 where they are used."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .pages import PageShape


def packed_shape(shape: PageShape) -> PageShape:
    """Return what a page of int8 is in four bits: half the bytes of its data, the same scales."""
    parts = (
        part if part.role.endswith("_scale")
        else replace(part, shape=(part.shape[0], -(-part.shape[1] // 2)), dtype=torch.uint8)
        for part in shape.parts
    )  # fmt: skip
    return PageShape(tuple(parts))


def pack_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return four-bit numbers of rows [N, K], two a byte (the low half first), and f32 scales [N].

    Symmetric, largest magnitude 7, kept with 8 added; K is even.
    """
    scale = rows.abs().amax(-1).clamp_min(1e-12) / 7.0
    numbers = (torch.round(rows / scale[..., None]) + 8).to(torch.uint8)
    low, high = numbers.unflatten(-1, (-1, 2)).unbind(-1)
    return low | high << 4, scale


def unpack_into(target: Tensor, packed: Tensor) -> None:
    """Write the int8 numbers [..., K] of packed bytes [..., K / 2], the low half first, where both
    lie: on the device, so that the link carries four bits. Takes no memory beside."""
    pairs = target.view(torch.uint8).unflatten(-1, (-1, 2))
    torch.bitwise_and(packed, 15, out=pairs[..., 0])
    torch.bitwise_right_shift(packed, 4, out=pairs[..., 1])
    pairs.sub_(8)  # modulo 256: the bytes of int8


def unpack_rows(data: Tensor) -> Tensor:
    """Return int8 numbers [N, K] of packed bytes [N, K / 2]."""
    found = torch.empty((*data.shape[:-1], 2 * data.shape[-1]), dtype=torch.int8)
    unpack_into(found, data)
    return found
