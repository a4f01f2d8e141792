"""Tensors of a checkpoint on their way to a GPU: read by several threads into pinned memory, while
those before them cross the link.

A mapped file is copied page by page by one thread: 4 GB/s to an H200, whose link carries 55.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ...ir.diagnostics import ModelError
from ..devices.pinned import remembered
from .weight_files import (
    BrokenWeights,
    Checkpoint,
    Read,
    Stored,
    TensorSource,
    WeightFiles,
    part_of,
)

PIECE = 8 << 20
"""Bytes of a buffer, and that a thread reads at a time."""

READERS, BUFFERS = 8, 16
"""Threads that read, and buffers of pinned memory: twice as many, as half of them are emptied."""


@contextmanager
def read_ahead(source: TensorSource, reads: Iterable[Read]) -> Iterator[TensorSource]:
    """Give a source of tensors that will be read in this order: a checkpoint's for a GPU read ahead
    of that, any other as it is."""
    device = torch.device(source.device) if isinstance(source, Checkpoint) else None
    if device is None or device.type != "cuda":
        yield source
        return
    assert isinstance(source, Checkpoint)
    ahead = ReadAhead(source, reads, device)
    try:
        yield ahead
    finally:
        ahead.close()


@dataclass(frozen=True)
class _Wanted:
    """A tensor that will be read: the request, where its bytes begin, and what they are."""

    read: Read
    stored: Stored
    begin: int
    shape: tuple[int, ...]

    @staticmethod
    def of(read: Read, files: WeightFiles) -> _Wanted:
        """Return what to read of a tensor: a part that lies in one piece, or the whole of it."""
        name, shape, shard = read
        stored = files.find(name, shape)
        if shard is None or shard[0] != 0:
            return _Wanted(read, stored, stored.begin, shape)
        _, index, count = shard
        rows = (shape[0] // count, *shape[1:])
        skipped = index * (stored.bytes // shape[0]) * rows[0] if shape[0] else 0
        return _Wanted(read, stored, stored.begin + skipped, rows)

    @property
    def bytes(self) -> int:
        return self.stored.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass
class _Buffer:
    """Host memory that a piece is read into; `sent` is when the piece before has left it."""

    data: Tensor
    sent: torch.cuda.Event | None

    @staticmethod
    def of(size: int, device: torch.device) -> _Buffer:
        if device.type != "cuda":
            return _Buffer(torch.empty(size, dtype=torch.uint8), None)
        data = remembered(torch.empty(size, dtype=torch.uint8, pin_memory=True))
        return _Buffer(data, torch.cuda.Event())


class ReadAhead:
    """A checkpoint of which tensors are read in a known order, onto `device`.

    What is read in another order, or is not as wanted, comes from the checkpoint itself. Raises
    what that raises, and BrokenWeights where a file cannot be read any more.
    """

    def __init__(
        self, source: Checkpoint, reads: Iterable[Read], device: torch.device, *,
        piece: int = PIECE, readers: int = READERS, buffers: int = BUFFERS,
    ) -> None:  # fmt: skip
        self._source, self._device, self._piece = source, device, piece
        on_gpu = device.type == "cuda"
        self._number = torch.zeros(0, device=device).device.index if on_gpu else None
        self._files = WeightFiles(source.folder)
        self._wanted = deque(self._as_wanted(reads))
        self._pieces = self._cut(tuple(self._wanted))
        self._readers = ThreadPoolExecutor(readers, "weft-weights", self._begin)
        self._under_way: deque[tuple[Future[int], _Buffer]] = deque()
        for _ in range(buffers):
            self._read_into(_Buffer.of(piece, device))

    def read(self, name: str, shape: tuple[int, ...], shard: tuple[int, int, int] | None = None
             ) -> Tensor:  # fmt: skip
        """Return a tensor, or a part of it, on the device."""
        if not self._wanted or self._wanted[0].read != (name, shape, shard):
            return self._source.read(name, shape, shard)
        wanted, at = self._wanted.popleft(), 0
        data = torch.empty(wanted.bytes, dtype=torch.uint8, device=self._device)
        while at < wanted.bytes:
            at += self._take(data[at:])
        found = data.view(wanted.stored.dtype).view(wanted.shape)
        return found if wanted.shape != shape or shard is None else part_of(found, shape, shard)

    def place(self, name: str) -> str:
        """Return the file that a tensor is in."""
        return self._source.place(name)

    def close(self) -> None:
        """Read no further."""
        self._readers.shutdown(cancel_futures=True)
        self._files.close()

    def _as_wanted(self, reads: Iterable[Read]) -> Iterator[_Wanted]:
        for read in reads:
            with suppress(ModelError):  # told when it is read
                wanted = _Wanted.of(read, self._files)
                if wanted.bytes:
                    yield wanted

    def _cut(self, wanted: Iterable[_Wanted]) -> Iterator[tuple[str, int, int]]:
        """Yield the file, the first byte and the size of each piece, in their order."""
        for one in wanted:
            for at in range(0, one.bytes, self._piece):
                size = min(self._piece, one.bytes - at)
                yield one.stored.file, one.begin + at, size

    def _begin(self) -> None:
        if self._number is not None:  # a thread's first call would take the first GPU otherwise
            torch.cuda.set_device(self._number)

    def _read_into(self, buffer: _Buffer) -> None:
        """Let the next piece be read, once the one before has left the buffer."""
        for piece in islice(self._pieces, 1):
            self._under_way.append((self._readers.submit(self._fill, buffer, *piece), buffer))

    def _fill(self, buffer: _Buffer, file: str, begin: int, size: int) -> int:
        if buffer.sent is not None:
            buffer.sent.synchronize()
        try:
            self._files.read(file, begin, buffer.data.numpy().data[:size])
        except OSError as error:
            raise BrokenWeights(file=error.filename, problem=error.strerror) from None
        return size

    def _take(self, data: Tensor) -> int:
        """Send the next piece to the device; return its bytes."""
        future, buffer = self._under_way.popleft()
        size = future.result()
        data[:size].copy_(buffer.data[:size], non_blocking=True)
        if buffer.sent is not None:
            buffer.sent.record()
        self._read_into(buffer)
        return size
