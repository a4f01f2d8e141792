"""Pages of expert weights, and pools of them in the memories.

A page is one expert of one layer, or a slice of one: its gate and up rows [2F, D], its down rows
[D, F], and for int8 a scale a row; with S slices an expert F / S in the place of F. A pool holds
each part of its pages side by side, so that kernels take a part of all pages as one tensor
[S, N, K] with a table of places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.core import Operation
from ...ir.types import dtype_of, shape_of
from ..execution.dtypes import TORCH

ROLES = ("gate_up", "down")


@dataclass(frozen=True)
class Part:
    """One part of a page: its role, its shape and dtype."""

    role: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class PageShape:
    """The parts of a page, scales after what they scale."""

    parts: tuple[Part, ...]

    @staticmethod
    def of(weights: Sequence[Operation]) -> PageShape:
        """Return the shape of a page of an experts section's weights, [E, N, K] each."""
        parts = []
        for role, weight in zip(ROLES, weights, strict=True):
            _, n, k = (int(extent) for extent in shape_of(weight.result.type))  # type: ignore[arg-type]
            dtype = TORCH[dtype_of(weight.result.type)]
            parts.append(Part(role, (n, k), dtype))
            if dtype == torch.int8:
                parts.append(Part(f"{role}_scale", (n,), torch.float32))
        return PageShape(tuple(parts))

    @property
    def narrow(self) -> bool:
        """Whether its numbers are of less than 16 bits."""
        return any(part.dtype == torch.int8 for part in self.parts)

    @property
    def bytes(self) -> int:
        """Memory that a page takes."""
        return sum(part.bytes for part in self.parts)


def _launch(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)


@dataclass(frozen=True)
class Pool:
    """Pages in one memory: each part's tensor [S, ...] by role."""

    tensors: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """S, its pages."""
        return next(iter(self.tensors.values())).shape[0]

    def page(self, place: int) -> dict[str, Tensor]:
        """Return the parts of one page, as views."""
        return {role: tensor[place] for role, tensor in self.tensors.items()}

    def copy(self, place: int, source: Mapping[str, Tensor],
             by: Callable[[Tensor, Tensor], None] = _launch) -> None:  # fmt: skip
        """Copy a page's parts to a place; on a device, in the order of the current stream."""
        for role, tensor in self.tensors.items():
            by(tensor[place], source[role])


def pool_in(buffer: Tensor, shape: PageShape, count: int) -> Pool:
    """Return a pool of `count` pages in a buffer of bytes."""
    tensors, at = {}, 0
    for part in shape.parts:
        end = at + count * part.bytes
        tensors[part.role] = buffer[at:end].view(part.dtype).view(count, *part.shape)
        at = -(-end // 64) * 64
    return Pool(tensors)


def pool_bytes(shape: PageShape, count: int) -> int:
    """Return the bytes of a buffer for a pool: parts begin at multiples of 64."""
    return sum(-(-count * part.bytes // 64) * 64 for part in shape.parts)
