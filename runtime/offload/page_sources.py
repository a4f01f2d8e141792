"""Where pages of expert weights come from: rows of a checkpoint's tensors, in the page's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...ir.core import Operation, thaw
from ...ir.types import shape_of
from ..execution.weight_files import TensorSource
from ..execution.weights import quantize_rows
from .narrow import pack_rows
from .pages import ROLES
from .twelve_bits import RARE, pack


class PageSource(Protocol):
    """Where pages come from when they are not in memory."""

    def read(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
        """Fill a page's parts; raises ModelError."""
        ...


def fill(into: Mapping[str, Tensor], role: str, rows: Iterator[tuple[slice, Tensor]]) -> None:
    """Write rows to a part of a page, in its format; numbers are made narrower where the page lies,
    as a GPU has no room to spare."""
    if into[role].dtype == torch.int32:
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
