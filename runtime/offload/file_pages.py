"""Pages that lie on disk: read from a checkpoint's safetensors files, straight to their place."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...ir.core import Operation
from ...ir.diagnostics import ModelError
from ..execution.weights import (
    BrokenWeights,
    MissingTensor,
    NoFloats,
    NoWeights,
    WrongShape,
    bounds_of,
    not_finite,
    shard_files,
)
from .page_sources import Piece, fill, pieces, placed
from .pages import ROLES

_STORED = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip

CHUNK, READERS = 16 << 20, 4
"""Bytes that a thread reads at a time, and how many threads read beside the one that asks."""


class PageLost(ModelError):
    """A page whose file cannot be read any more."""

    template = "{file}: the page of layer {layer}, expert {expert} cannot be read: {problem}"
    hint = "bring the file back and run again: a batch with --out goes on where it was"


@dataclass(frozen=True)
class _Stored:
    file: str
    format: str
    shape: tuple[int, ...]
    begin: int

    @property
    def dtype(self) -> torch.dtype:
        return _STORED[self.format]


class FilePages:
    """Pages read from the safetensors files of a checkpoint when they are wanted.

    Files are read, not mapped: a mapped file that is cut short ends the process. What is stored as
    pages are goes straight to its place, by several threads: a disk is slow for one. Rows are
    looked at for NaN and Inf when they are first read.
    """

    def __init__(self, folder: Path, weights: Sequence[Sequence[Operation]]) -> None:
        self._folder, self._weights = folder, weights
        self._stored: dict[str, _Stored] = {}
        self._files: dict[str, int] = {}
        self._finite: set[tuple[str, int]] = set()
        self._kept: tuple[tuple[str, int], Tensor] | None = None
        self._readers = ThreadPoolExecutor(READERS, "weft-disk")
        self._end = weakref.finalize(self, _close, self._files, self._readers)
        for name in shard_files(folder):
            self._open(name)

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

    def _open(self, name: str) -> None:
        path = self._folder / name
        if not path.exists():
            raise NoWeights(file=str(path))
        descriptor = self._files[name] = os.open(path, os.O_RDONLY)
        try:
            size = int.from_bytes(os.pread(descriptor, 8, 0), "little")
            if size > os.fstat(descriptor).st_size:
                raise ValueError(f"{size} bytes of it are not there")
            header = json.loads(os.pread(descriptor, size, 8))
            for tensor, entry in header.items():
                if tensor != "__metadata__":
                    begin = 8 + size + entry["data_offsets"][0]
                    self._stored[tensor] = _Stored(name, entry["dtype"], tuple(entry["shape"]),
                                                   begin)  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise BrokenWeights(file=str(path), problem=f"no safetensors header: {error}") from None

    def _rows(self, piece: Piece) -> Tensor:
        if piece.columns is None:
            return self._pread(piece)
        key = (piece.name, piece.first)  # slices of an expert follow one another: its rows are kept
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._pread(piece))
        return self._kept[1]

    def _find(self, piece: Piece) -> _Stored:
        name, stored = piece.name, self._stored.get(piece.name)
        if stored is None:
            raise MissingTensor(folder=str(self._folder), tensor=name)
        file = str(self._folder / stored.file)
        if stored.format not in _STORED:
            raise NoFloats(file=file, tensor=name, found=stored.format)
        if stored.shape != piece.shape:
            raise WrongShape(file=file, tensor=name, found=list(stored.shape),
                             wanted=list(piece.shape))  # fmt: skip
        return stored

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
        jobs = [(stored.file, data[at : at + CHUNK], begin + at) for at in starts]
        under_way = [self._readers.submit(self._read, *job) for job in jobs[1:]]
        try:
            for job in jobs[:1]:
                self._read(*job)
        finally:
            wait(under_way)
        for each in under_way:
            each.result()
        if (piece.name, piece.first) not in self._finite:
            if not bounds_of(rows).isfinite().all():
                named = f"{piece.name} (rows {piece.first} to {piece.first + piece.count - 1})"
                raise not_finite(rows, str(self._folder / stored.file), named)
            self._finite.add((piece.name, piece.first))

    def _read(self, file: str, data: memoryview, begin: int) -> None:
        path, done = str(self._folder / file), 0
        while done < len(data):
            try:
                count = os.preadv(self._files[file], [data[done:]], begin + done)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            if count == 0:
                raise OSError(0, f"it ends {len(data) - done} bytes too early", path)
            done += count


def _close(files: dict[str, int], readers: ThreadPoolExecutor) -> None:
    readers.shutdown()
    while files:
        os.close(files.popitem()[1])


def _places(found: Sequence[Piece], into: Tensor) -> Iterator[Tensor]:
    """Yield the rows of a page's part that its pieces are, one after another."""
    at = 0
    for piece in found:
        yield into[at : at + piece.count]
        at += piece.count
