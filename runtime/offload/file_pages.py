"""Pages that lie on disk: read from a checkpoint's safetensors files, straight to their place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import torch
from torch import Tensor

from ...ir.core import Operation
from ...ir.diagnostics import ModelError
from ..execution.weight_files import Stored, WeightFiles
from ..execution.weights import bounds_of, not_finite
from .page_sources import Piece, fill, pieces, placed
from .pages import ROLES

CHUNK, READERS = 16 << 20, 4
"""Bytes that a thread reads at a time, and how many threads read beside the one that asks."""


class PageLost(ModelError):
    """A page whose file cannot be read any more."""

    template = "{file}: the page of layer {layer}, expert {expert} cannot be read: {problem}"
    hint = "bring the file back and run again: a batch with --out goes on where it was"


class FilePages:
    """Pages read from the safetensors files of a checkpoint when they are wanted.

    Files are read, not mapped: a mapped file that is cut short ends the process. What is stored as
    pages are goes straight to its place, by several threads: a disk is slow for one. Rows are
    looked at for NaN and Inf when they are first read.
    """

    def __init__(self, folder: Path, weights: Sequence[Sequence[Operation]]) -> None:
        self._weights, self._files = weights, WeightFiles(folder)
        self._finite: set[tuple[str, int]] = set()
        self._kept: tuple[tuple[str, int], Tensor] | None = None
        self._readers = ThreadPoolExecutor(READERS, "weft-disk")
        self._end = weakref.finalize(self, _close, self._files, self._readers)

    def read(self, layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
        """Fill a page's parts; raises PageLost, with the file's name, where it is gone or cut, and
        MissingTensor, WrongShape, NoFloats or NotFinite for what is no such page."""
        for role, weight in zip(ROLES, self._weights[layer], strict=True):
            try:
                found = list(pieces(weight, expert))
                if all(self._alike(piece, into[role]) for piece in found):
                    for piece, rows in zip(found, _places(found, into[role]), strict=True):
                        self._read_into(piece, rows)
                else:
                    fill(into, role, placed((p, self._rows(p)) for p in found))
            except OSError as error:
                raise PageLost(file=error.filename, layer=layer, expert=expert,
                               problem=error.strerror) from None  # fmt: skip

    @property
    def stored_as(self) -> str:
        """The format in which a checkpoint has its experts, as safetensors names it."""
        return self._find(next(iter(pieces(self._weights[0][0], 0)))).format

    def close(self) -> None:
        """Close the files; done too where nobody has the pages any more."""
        self._end()

    def _rows(self, piece: Piece) -> Tensor:
        if piece.columns is None:
            return self._pread(piece)
        key = (piece.name, piece.first)  # slices of an expert follow one another: its rows are kept
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._pread(piece))
        return self._kept[1]

    def _find(self, piece: Piece) -> Stored:
        return self._files.find(piece.name, piece.shape)

    def _alike(self, piece: Piece, into: Tensor) -> bool:
        """Whether a piece is stored as it is wanted, all of its rows one after another."""
        return piece.columns is None and self._find(piece).dtype == into.dtype

    def _pread(self, piece: Piece) -> Tensor:
        stored = self._find(piece)
        rows = torch.empty((piece.count, stored.shape[-1]), dtype=stored.dtype)
        self._read_into(piece, rows)
        return rows

    def _read_into(self, piece: Piece, rows: Tensor) -> None:
        """Read a piece's rows [n, K]; none is under way any more when this ends, or raises. Raises
        NotFinite."""
        stored = self._find(piece)
        begin = stored.begin + piece.first * stored.shape[-1] * stored.dtype.itemsize
        data = rows.view(torch.uint8).view(-1).numpy().data
        starts = range(0, len(data), CHUNK)
        jobs = [(stored.file, begin + at, data[at : at + CHUNK]) for at in starts]
        under_way = [self._readers.submit(self._files.read, *job) for job in jobs[1:]]
        try:
            for job in jobs[:1]:
                self._files.read(*job)
        finally:
            wait(under_way)
        for each in under_way:
            each.result()
        if (piece.name, piece.first) not in self._finite:
            if not bounds_of(rows).isfinite().all():
                named = f"{piece.name} (rows {piece.first} to {piece.first + piece.count - 1})"
                raise not_finite(rows, str(self._files.folder / stored.file), named)
            self._finite.add((piece.name, piece.first))


def _close(files: WeightFiles, readers: ThreadPoolExecutor) -> None:
    readers.shutdown()
    files.close()


def _places(found: Sequence[Piece], into: Tensor) -> Iterator[Tensor]:
    """Yield the rows of a page's part that its pieces are, one after another."""
    at = 0
    for piece in found:
        yield into[at : at + piece.count]
        at += piece.count
