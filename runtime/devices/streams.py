"""The device that a partitioned model runs on: memory with a cap that holds, streams, pinning.

`SimulatedDevice` is the GPU's level on a machine without one: memory of its own, counted and
capped, and streams that are threads. `CudaDevice` is the same over CUDA's streams and events.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Any, Protocol

import torch
from torch import Tensor

from ...ir.display.units import bytes_text
from .device import NoGpu
from .memory import BLOCK, MIB, Memory
from .pinned import remembered

PIECE, UNDER_WAY = 32 * MIB, 3
"""Bytes of a page that are copied at a time where others copy too, and how many such pieces the
copy engine may know of: 0.6 ms each."""


MOST_SMALL, PATIENCE, LOOK = 16, 0.02, 5e-5
"""Small copies that are remembered, the seconds that pages wait for them at the most, and how often
they look."""


class Stream(Protocol):
    """An order of work on a device; its tasks run one after another."""

    def __call__(self) -> AbstractContextManager[Any]:
        """Return a context in which what is launched goes to this stream."""
        ...

    def wait(self, event: Any) -> None:
        """Let what comes next on the stream wait for an event of another."""
        ...

    def record(self) -> Any:
        """Return an event for what has been launched so far; None: it is done already."""
        ...


class OffloadDevice(Protocol):
    """What the executor needs of a device."""

    name: str
    place: str
    memory: Memory
    refusals: list[str]
    """Why host memory that was asked for stayed pageable, each once."""
    triton: bool
    """Whether its kernels are Triton's: they take torch's tensors as they are."""

    def stream(self, queue: str) -> Stream:
        """Return the stream of a queue, the same for the same name."""
        ...

    def register(self, buffer: Tensor) -> str:
        """Pin host memory where it lies; returns why it stays pageable, or an empty text."""
        ...

    def host(self, size: int) -> Tensor:
        """Return host memory for buffers that copies go through, zeroed bytes."""
        ...

    def send(self, tensor: Tensor) -> Tensor:
        """Return a small tensor of the step's inputs on the device."""
        ...

    def copy(self, target: Tensor, source: Tensor, scratch: Tensor | None = None) -> None:
        """Copy between host and device in the order of the current stream, to another dtype too:
        then through `scratch`, bytes of the device that are the current stream's."""
        ...

    def trickle(self, target: Tensor, source: Tensor) -> None:
        """Copy much to the device so that small copies of other streams come in between."""
        ...

    def beside(self, queue: str, work: Callable[[], None]) -> Any:
        """Do work on a stream of its own, after what the current one has so far; return the event
        of its end (None: it is done)."""
        ...

    def hold_until(self, event: Any) -> None:
        """Let what comes next on the current stream wait for an event."""
        ...

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return host memory for one copy, free again once that is done."""
        ...

    def settle(self) -> None:
        """Wait for all that was launched."""
        ...

    def close(self) -> None:
        """Let go of pinned memory; nothing may be under way."""
        ...


def convert(target: Tensor, source: Tensor, scratch: Tensor) -> None:
    """Copy to another dtype, piece by piece, what lies in one piece each; the device converts.

    `scratch` is bytes of the device: each piece is there in the host's dtype on its way. The
    device's own allocator is not asked: what it gave would be beyond what was counted.
    """
    wire = source.dtype if target.device == scratch.device else target.dtype
    room = scratch[: scratch.numel() // wire.itemsize * wire.itemsize].view(wire)
    pieces = (each.view(-1).split(room.numel()) for each in (target, source))
    for into, piece in zip(*pieces, strict=True):
        into.copy_(room[: piece.numel()].copy_(piece, non_blocking=True), non_blocking=True)


class Event(Protocol):
    """The end of a copy on a device."""

    def query(self) -> bool:
        """Return whether it is past."""
        ...


def wait_for(events: deque[Event]) -> None:
    """Wait until the events are past, the oldest first, and drop them; not longer than PATIENCE."""
    until = perf_counter() + PATIENCE
    while events and perf_counter() < until:
        if events[0].query():
            events.popleft()
        else:
            sleep(LOOK)


def mapped(size: int) -> Tensor:
    """Return zeroed bytes in pages of their own, which can be pinned and touch no neighbour.

    The pages are large where the system has such: they are faster to take, to pin and to read.
    """
    pages = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):  # a matter of speed alone
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)[:size]


class Now:
    """A stream whose work is done when it is launched."""

    def __call__(self) -> AbstractContextManager[Any]:
        """Nothing changes: there is no other stream."""
        return nullcontext()

    def wait(self, event: Any) -> None:
        """Nothing is left to wait for."""

    def record(self) -> None:
        """What was launched is done."""


@dataclass
class SimulatedDevice:
    """The GPU's level simulated on the CPU: memory apart, capped; a stream is its queue's thread.

    `refusal` plays a system that does not pin: the reason it gives. With `triton` its kernels are
    the GPU's own, interpreted.
    """

    memory: Memory
    refusal: str = ""
    name: str = "simulated GPU"
    place: str = "cpu"
    triton: bool = False
    refusals: list[str] = field(default_factory=list)

    @staticmethod
    def of(cap: int, refusal: str = "") -> SimulatedDevice:
        """Return a device with `cap` bytes of memory."""
        return SimulatedDevice(Memory("cpu", cap), refusal)

    def stream(self, queue: str) -> Stream:
        """Work is done by the thread that launches it."""
        return Now()

    def register(self, buffer: Tensor) -> str:
        """Pinning does nothing here, unless it is to be refused."""
        _refused(self.refusals, self.refusal)
        return self.refusal

    def host(self, size: int) -> Tensor:
        """Memory as a GPU's host has it, in pages of its own."""
        buffer = mapped(size)
        self.register(buffer)
        return buffer

    def send(self, tensor: Tensor) -> Tensor:
        """The inputs lie in the same memory."""
        return tensor

    def copy(self, target: Tensor, source: Tensor, scratch: Tensor | None = None) -> None:
        """A copy in the same memory; another dtype takes the way that it takes on a GPU."""
        if target.dtype == source.dtype:
            target.copy_(source)
        else:
            assert scratch is not None
            convert(target, source, scratch)

    def trickle(self, target: Tensor, source: Tensor) -> None:
        """A copy in the same memory."""
        target.copy_(source)

    def beside(self, queue: str, work: Callable[[], None]) -> None:
        """Work is done at once."""
        work()

    def hold_until(self, event: Any) -> None:
        """Nothing is left to wait for."""

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Plain memory."""
        return torch.empty(shape, dtype=dtype)

    def settle(self) -> None:
        """Work is done when it is launched."""

    def close(self) -> None:
        """Nothing is pinned."""


class CudaStream:
    """A CUDA stream under the protocol."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def __call__(self) -> AbstractContextManager[Any]:
        """Make it torch's current stream."""
        return torch.cuda.stream(self._stream)

    def wait(self, event: Any) -> None:
        """Let the device wait, not the host."""
        self._stream.wait_event(event)

    def record(self) -> Any:
        """Return a CUDA event."""
        event = torch.cuda.Event()
        event.record(self._stream)
        return event


_STREAMS: dict[tuple[str, str], CudaStream] = {}


class CudaDevice:
    """An NVIDIA GPU, its memory capped for this process."""

    triton = True

    def __init__(self, cap: int, place: str = "cuda:0") -> None:
        if not torch.cuda.is_available():
            raise NoGpu(problem="none is visible")
        properties = torch.cuda.get_device_properties(place)
        self.name, self.place = properties.name, place
        self.memory = Memory(place, cap, block=BLOCK)
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / properties.total_memory), place)
        self._trickling: deque[torch.cuda.Event] = deque()
        self._small: deque[Event] = deque(maxlen=MOST_SMALL)
        self._pinned: list[Tensor] = []
        self.refusals: list[str] = []
        weakref.finalize(self, unpin, self._pinned, place)

    def stream(self, queue: str) -> Stream:
        """A CUDA stream for each queue, the same for all devices of a process: a library keeps 32
        MiB for each stream that it was ever called on, and after ten models a cap was exceeded."""
        key = (self.place, queue)
        if key not in _STREAMS:
            _STREAMS[key] = CudaStream(torch.cuda.Stream(device=self.place))
        return _STREAMS[key]

    def register(self, buffer: Tensor) -> str:
        """Pin with cudaHostRegister, which rounds to pages and not to powers of two; no bytes need
        none."""
        if not buffer.nbytes:
            return ""
        runtime: Any = torch.cuda.cudart()
        error = int(runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0))
        if error == 0:
            self._pinned.append(buffer)
            return ""
        with suppress(RuntimeError):  # the refusal is reported by the next launch, once
            torch.zeros(1, device=self.place)
        why = f"the system pins no {bytes_text(buffer.nbytes)}: cudaHostRegister gave error {error}"
        _refused(self.refusals, why)
        return why

    def host(self, size: int) -> Tensor:
        """Memory that is pinned, if the system allows it; else `refusals` says why."""
        buffer = mapped(size)
        self.register(buffer)
        return buffer

    def send(self, tensor: Tensor) -> Tensor:
        """A copy on the device, in the order of the current stream."""
        sent = tensor.to(self.place, non_blocking=True)
        self._let_pass()
        return sent

    def copy(self, target: Tensor, source: Tensor, scratch: Tensor | None = None) -> None:
        """Convert on the device: a copy that converts on the host goes through pageable memory."""
        if target.dtype == source.dtype:
            target.copy_(source, non_blocking=True)
        else:
            assert scratch is not None
            convert(target, source, scratch)
        if target.is_cuda:
            self._let_pass()

    def _let_pass(self) -> None:
        """Let pages wait for what has been copied on the current stream."""
        event = torch.cuda.Event()
        event.record()
        self._small.append(event)

    def trickle(self, target: Tensor, source: Tensor) -> None:
        """Pieces, of which few are under way, and none more while a small copy waits.

        A copy engine goes on with the stream that it has begun as long as there is more of it:
        beside a stream of pages that never ran dry, hidden states of 6 MB took 42 ms on an H200,
        as long as all pages of the layer. So whoever launches pages lets small copies of other
        streams go first: they wait for what is under way, 2 ms. Called by one thread at a time.
        """
        pieces = (each.view(-1).split(PIECE // each.element_size()) for each in (target, source))
        for into, piece in zip(*pieces, strict=True):
            wait_for(self._small)
            if len(self._trickling) == UNDER_WAY:
                self._trickling.popleft().synchronize()
            into.copy_(piece, non_blocking=True)
            event = torch.cuda.Event(blocking=True)
            event.record()
            self._trickling.append(event)

    def beside(self, queue: str, work: Callable[[], None]) -> Any:
        """Launch on the queue's stream, which waits for the current one."""
        stream, so_far = self.stream(queue), torch.cuda.Event()
        so_far.record()
        stream.wait(so_far)
        with stream():
            work()
        return stream.record()

    def hold_until(self, event: Any) -> None:
        """The current stream waits; nobody else does."""
        if event is not None:
            torch.cuda.current_stream(self.place).wait_event(event)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Pinned memory of torch's allocator, which waits for the copy before it gives it again."""
        return remembered(torch.empty(shape, dtype=dtype, pin_memory=True))

    def settle(self) -> None:
        """Weights came on another stream than those that read them."""
        torch.cuda.synchronize(self.place)

    def close(self) -> None:
        """Memory that stays registered is never given back to the system; and the library keeps 32
        MiB for each stream that its products ran on, until it is told."""
        self.settle()
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()
        unpin(self._pinned, self.place)


def _refused(refusals: list[str], why: str) -> None:
    if why and why not in refusals:
        refusals.append(why)


def unpin(buffers: list[Tensor], place: str) -> None:
    """Unregister buffers that were pinned, each once, when a device is at none of them any more."""
    if buffers:
        with suppress(RuntimeError):  # a device that is lost is at nothing
            torch.cuda.synchronize(place)
    runtime: Any = torch.cuda.cudart()
    while buffers:
        runtime.cudaHostUnregister(buffers.pop().data_ptr())
