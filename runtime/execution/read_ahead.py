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
    TensorSource,
    WeightFiles,
    part_of,
)

PIECE = 16 << 20
"""Bytes of a buffer, which a thread fills at a time: with several tensors, or a part of one."""

READERS, BUFFERS = 8, 16
"""Threads that read, and buffers of pinned memory: twice as many, as half of them are emptied."""

ALIGNMENT = 256
"""Bytes at whose multiples tensors begin in a buffer."""


@contextmanager
def read_ahead(source: TensorSource, reads: Iterable[Read]) -> Iterator[TensorSource]:
    """Give a source of tensors that will be read in this order: a checkpoint's for a GPU read ahead
    of that, any other as it is."""
    device = torch.device(source.device) if isinstance(source, Checkpoint) else None
    if device is None or device.type != "cuda":
        yield source
        return
    assert isinstance(source, Checkpoint)
    try:
        ahead = ReadAhead(source, reads, device)
    except RuntimeError:  # the host pins no memory
        yield source
        return
    try:
        yield ahead
    finally:
        ahead.close()


@dataclass(frozen=True)
class _Wanted:
    """A tensor that will be read: the request, its file and first byte there, and what it is."""

    read: Read
    file: str
    begin: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    bytes: int

    @staticmethod
    def of(read: Read, files: WeightFiles) -> _Wanted:
        """Return what to read of a tensor: a part that lies in one piece, or the whole of it."""
        name, shape, shard = read
        stored = files.find(name, shape)
        begin, size = stored.begin, stored.bytes
        if shard is not None and shard[0] == 0:
            _, index, count = shard
            shape, size = (shape[0] // count, *shape[1:]), size // count
            begin += index * size
        return _Wanted(read, stored.file, begin, stored.dtype, shape, size)


_Part = tuple[str, int, int, int]
"""What is read into a buffer: a file, its first byte there, how many, and where they come."""


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
    what that raises, and BrokenWeights where a file cannot be read any more; what is read after
    that comes from the checkpoint, too.
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
        self._under_way: deque[tuple[Future[None], list[_Part], _Buffer]] = deque()
        self._here: deque[Tensor] = deque()  # tensors of a buffer that nobody has taken yet
        for number in range(buffers):
            try:
                buffer = _Buffer.of(piece, device)
            except RuntimeError:
                if number == 0:
                    self.close()
                    raise
                break  # fewer buffers do, too
            self._read_into(buffer)

    def read(self, name: str, shape: tuple[int, ...], shard: tuple[int, int, int] | None = None
             ) -> Tensor:  # fmt: skip
        """Return a tensor, or a part of it, on the device."""
        if not self._wanted or self._wanted[0].read != (name, shape, shard):
            return self._source.read(name, shape, shard)
        wanted = self._wanted.popleft()
        if wanted.bytes > self._piece:
            data, at = torch.empty(wanted.bytes, dtype=torch.uint8, device=self._device), 0
            while at < wanted.bytes:
                at += len(self._take(data[at:])[0])
        else:
            if not self._here:
                self._here.extend(self._take())
            data = self._here.popleft()  # a part of a buffer's memory, which it would keep
        found = data.view(wanted.dtype).view(wanted.shape)
        found = found if wanted.bytes > self._piece else found.clone()
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

    def _cut(self, wanted: Iterable[_Wanted]) -> Iterator[list[_Part]]:
        """Yield what each buffer holds: tensors while they fit, or a part of one that does not."""
        parts: list[_Part] = []
        end = 0
        for one in wanted:
            if parts and end + one.bytes > self._piece:
                yield parts
                parts, end = [], 0
            if one.bytes > self._piece:
                for at in range(0, one.bytes, self._piece):
                    yield [(one.file, one.begin + at, min(self._piece, one.bytes - at), 0)]
            else:
                parts.append((one.file, one.begin, one.bytes, end))
                end += -(-one.bytes // ALIGNMENT) * ALIGNMENT
        if parts:
            yield parts

    def _begin(self) -> None:
        if self._number is not None:  # a thread's first call would take the first GPU otherwise
            torch.cuda.set_device(self._number)

    def _read_into(self, buffer: _Buffer) -> None:
        """Let the next parts be read, once those before have left the buffer."""
        for parts in islice(self._pieces, 1):
            filled = self._readers.submit(self._fill, buffer, parts)
            self._under_way.append((filled, parts, buffer))

    def _fill(self, buffer: _Buffer, parts: list[_Part]) -> None:
        if buffer.sent is not None:
            buffer.sent.synchronize()
        data = buffer.data.numpy().data
        try:
            for file, begin, size, at in parts:
                self._files.read(file, begin, data[at : at + size])
        except OSError as error:
            raise BrokenWeights(file=error.filename, problem=error.strerror) from None

    def _take(self, into: Tensor | None = None) -> list[Tensor]:
        """Send the next buffer to the device, `into` some bytes of it or new ones; return the
        bytes of each part."""
        filled, parts, buffer = self._under_way.popleft()
        try:
            filled.result()
        except BrokenWeights:
            self._wanted.clear()  # the buffers that follow hold what comes behind those lost
            raise
        *_, (_, _, size, last) = parts
        end = last + size
        if into is None:
            into = torch.empty(end, dtype=torch.uint8, device=self._device)
        into[:end].copy_(buffer.data[:end], non_blocking=True)
        if buffer.sent is not None:
            buffer.sent.record(torch.cuda.current_stream(self._device))
        self._read_into(buffer)
        return [into[at : at + size] for _, _, size, at in parts]
