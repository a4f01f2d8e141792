"""Pages of expert weights: pools of them in the memories, and where they come from.

A page is one expert of one layer, or a slice of one: its gate and up rows [2F, D], its down rows
[D, F], and for int8 a scale a row; with S slices an expert F / S in the place of F. A pool holds
each part of its pages side by side, so that kernels take a part of all pages as one tensor
[S, N, K] with a table of places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...ir.core import Operation, thaw
from ...ir.types import dtype_of, shape_of
from ..execution.dtypes import TORCH
from ..execution.weights import TensorSource, quantize_rows

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


class PageSource(Protocol):
    """Where pages come from when they are not in memory."""

    def read(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
        """Fill a page's parts; raises ModelError."""
        ...


def fill(into: Mapping[str, Tensor], role: str, rows: Iterator[tuple[slice, Tensor]]) -> None:
    """Write rows to a part of a page, in its format; numbers are made narrower where the page lies,
    as a GPU has no room to spare."""
    if into[role].dtype == torch.int32:
        from .twelve_bits import RARE, pack

        pack(torch.cat([values.bfloat16() for _, values in rows]), into[role], into[role + RARE])
        return
    for where, values in rows:
        if into[role].dtype in (torch.int8, torch.uint8):
            narrow = quantize_rows if into[role].dtype == torch.int8 else pack_rows
            data, scale = narrow(values.to(into[role].device).float())
            into[role][where].copy_(data)
            into[f"{role}_scale"][where].copy_(scale)
        else:
            into[role][where].copy_(values)


def pack_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return four-bit numbers of rows [N, K], two a byte (the low half first), and f32 scales [N].

    Symmetric, largest magnitude 7, kept with 8 added; K is even.
    """
    scale = rows.abs().amax(-1).clamp_min(1e-12) / 7.0
    numbers = (torch.round(rows / scale[..., None]) + 8).to(torch.uint8)
    low, high = numbers.unflatten(-1, (-1, 2)).unbind(-1)
    return low | high << 4, scale


@dataclass(frozen=True)
class Piece:
    """Rows of a named tensor that are rows of a page: `count` from `first` on, of all its rows in a
    row [-1, K]; of them the columns of one slice."""

    name: str
    shape: tuple[int, ...]
    first: int
    count: int
    columns: tuple[int, int] | None = None


def pieces(weight: Operation, page: int) -> Iterator[Piece]:
    """Yield the rows of the checkpoint's tensors that a page of a `graph.weight` [P, N, K] is."""
    tensors = thaw(weight["tensors"])
    axis, cuts = weight.attribute("slices", (0, 1))
    experts, n, k = (int(extent) for extent in shape_of(weight.result.type))  # type: ignore[arg-type]
    expert, number = divmod(page, cuts)
    columns = (number * k, (number + 1) * k) if axis == 1 else None
    halves = 2 if axis == 0 and cuts > 1 else 1
    rows = n * cuts if axis == 0 else n  # of an expert
    width = k * cuts if axis == 1 else k
    named = isinstance(tensors, list)
    names = tensors[expert] if named else [tensors]
    shape = (rows // len(names), width) if named else (experts // cuts, rows, width)
    count = n // (len(names) if named else halves)
    parts = range(1 if named else halves)
    for name in names:
        for part in parts:
            first = 0 if named else expert * rows + part * (rows // halves)
            yield Piece(name, shape, first + (number * count if axis == 0 else 0), count, columns)


def placed(found: Iterator[tuple[Piece, Tensor]]) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of a page where they belong in it, one after another."""
    at = 0
    for piece, rows in found:
        yield slice(at, at + piece.count), rows[:, slice(*(piece.columns or (None,)))]
        at += piece.count


class TensorPages:
    """Pages made from whole tensors of a source: one of random weights."""

    def __init__(self, source: TensorSource, weights: Sequence[Sequence[Operation]]) -> None:
        self._source, self._weights = source, weights

    def read(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
        """Fill a page's parts."""
        for role, weight in zip(ROLES, self._weights[layer], strict=True):
            fill(into, role, placed((p, self._rows(p)) for p in pieces(weight, expert)))

    def _rows(self, piece: Piece) -> Tensor:
        whole = self._source.read(piece.name, piece.shape).flatten(0, -2)
        return whole[piece.first : piece.first + piece.count]
