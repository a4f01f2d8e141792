"""Pages of four bits on their way: two numbers a byte, a scale a row; int8 where they are used."""

from __future__ import annotations

from collections.abc import Mapping
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


def unpack(page: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a page of four bits as int8, its scales as they are."""
    return {
        role: unpack_rows(data) if data.dtype == torch.uint8 else data
        for role, data in page.items()
    }


def unpack_rows(data: Tensor) -> Tensor:
    """Return int8 numbers [N, K] of packed bytes [N, K / 2]: the low half first."""
    pairs = torch.stack(((data & 15), (data >> 4)), dim=-1)
    return (pairs.to(torch.int8) - 8).flatten(-2)
