"""Where a cache of keys lies: memory with a cap, streams, and host memory that kernels reach."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from ..devices.memory import Memory
from ..devices.streams import CudaStream, Now, Stream, mapped, unpin
from ..devices.zeros import zeros

MAIN = "gpu"
"""The queue of all launches that name none: on a GPU its current stream."""


class KeyDevice(Protocol):
    """What keys in host memory need of a device."""

    place: str
    memory: Memory

    def stream(self, queue: str) -> Stream:
        """Return the stream of a queue."""
        ...

    def reached(self, size: int) -> Tensor:
        """Return zeroed bytes in host memory that the device's kernels read and write where they
        lie; raises NotPinned."""
        ...


class SimulatedKeys:
    """A device simulated on the CPU: memory of its own with a cap, and host memory beside it."""

    place = "cpu"

    def __init__(self, cap: int) -> None:
        self.memory = Memory("cpu", cap)

    def stream(self, queue: str) -> Stream:
        """Work is done when it is launched."""
        return Now()

    def reached(self, size: int) -> Tensor:
        """Plain memory."""
        return zeros((size,), torch.uint8)


class NotPinned(RuntimeError):
    """Host memory that the system does not pin; kernels cannot reach it."""


class CudaKeys:
    """An NVIDIA GPU. Host memory is pinned and reached through the GPU's own addresses of it."""

    def __init__(self, cap: int, place: str = "cuda:0") -> None:
        self.place, self.memory = place, Memory(place, cap)
        self._beside: dict[str, CudaStream] = {}
        self.pinned: list[Tensor] = []
        weakref.finalize(self, unpin, self.pinned, place)

    def stream(self, queue: str) -> Stream:
        """The current stream for the main queue, one of its own for each other."""
        if queue == MAIN:
            return CudaStream(torch.cuda.current_stream(self.place))
        if queue not in self._beside:
            self._beside[queue] = CudaStream(torch.cuda.Stream(device=self.place))
        return self._beside[queue]

    def reached(self, size: int) -> Tensor:
        """Pages of their own, pinned, as a tensor of the device."""
        buffer = mapped(size)
        runtime: Any = torch.cuda.cudart()
        error = int(runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0))
        if error:
            with suppress(RuntimeError):  # the refusal is reported by the next launch, once
                torch.zeros(1, device=self.place)
            raise NotPinned(f"cudaHostRegister gave error {error} for {size / 2**20:.0f} MiB")
        view = torch.as_tensor(_Reached(buffer.data_ptr(), size), device=self.place)
        assert view.data_ptr() == buffer.data_ptr(), "the GPU has another address for it"
        self.pinned.append(buffer)
        return view

    def close(self) -> None:
        """Give pinned memory back; nothing may use it any more. Done too where nobody has it."""
        unpin(self.pinned, self.place)


class _Reached:
    """Bytes at an address, in the form that torch takes without copying."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (address, False), "version": 2,
        }  # fmt: skip
