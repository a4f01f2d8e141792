"""A GPU as the runtime finds it: is it there, what is free, what fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ...ir.diagnostics import CapacityError, WeftError
from ...ir.display.units import sizes
from .pinned import keep_for_ever

GIB = 1 << 30
WORKSPACE = 3 * GIB
"""Bytes left to libraries, kernels, graphs, attention's states and what is on its way."""


class NoGpu(WeftError):
    """The target cuda on a machine, or with a torch, that has none."""

    kind = "device error"
    template = "the target cuda needs an NVIDIA GPU: {problem}"
    hint = (
        'run without the target cuda (`--target cuda`, `target="cuda"`), or install a torch that '
        "is built for CUDA"
    )


class ModelTooLarge(CapacityError):
    """A model whose weights and least working memory exceed what is free on a device."""

    template = (
        "{model} needs {need} ({weights} of {format} weights, {working} to work with), {over} "
        "more than the {free} free on {device}"
    )


class DeviceInUse(CapacityError):
    """A device whose memory other processes hold."""

    template = (
        "{model} needs {need}; {device} has {total}, of which other processes hold {held} and "
        "{free} are free"
    )
    hint = "end the other processes (nvidia-smi lists them), or choose another GPU"


class DeviceKept(CapacityError):
    """A device whose memory models hold that this process compiled before."""

    template = (
        "{model} needs {need}; {device} has {total}, of which this process holds {own} for what it "
        "compiled before, and {free} are free"
    )
    hint = (
        "a model gets all the memory that is left: give the first one a bound (kv_memory), or let "
        "go of it (del, then gc.collect())"
    )


class FormatNotThere(WeftError):
    """A format of numbers that a device cannot multiply."""

    kind = "device error"
    template = "{device} (compute capability {major}.{minor}) has no {format} products"
    hint = "they begin with compute capability {least}; weights=bf16 runs here"


class DeviceLost(WeftError):
    """A device that fails in mid-run: it was reset, fell off the bus, or a kernel crashed."""

    kind = "device error"
    template = "the GPU failed in mid-run: {problem}"
    hint = (
        "rows that are done stand in the journal; look at nvidia-smi, then run the same command "
        "again"
    )
    abrupt = True  # what lies on the device cannot be freed, and torch ends the process by a signal


class DeviceFull(CapacityError):
    """A device whose memory ran out in mid-run, after what a run needs was set aside."""

    template = (
        "the GPU's memory ran out in mid-run: {free} of {total} are free, and {held} are other "
        "processes'"
    )
    hint = "rows that are done stand in the journal; lower max_tokens, or end other processes"


_FAILED = ("CUDA error", "Triton Error [CUDA]", "NCCL error", "cuBLAS error", "device-side assert")


def device_error(error: RuntimeError) -> WeftError | None:
    """Return DeviceLost or DeviceFull for what torch, Triton and CUDA say when a device fails; None
    for anything else."""
    text = str(error)
    failed = any(mark in text for mark in _FAILED)
    if isinstance(error, torch.OutOfMemoryError) or (failed and "out of memory" in text):
        now = Device.find()
        held = max(0, now.total - now.free - now.own)
        return DeviceFull(**sizes(free=now.free, total=now.total, held=held))
    if not failed:
        return None
    keep_for_ever()
    return DeviceLost(problem=text.strip().splitlines()[0])


@contextmanager
def device_errors() -> Iterator[None]:
    """Raise DeviceLost and DeviceFull for what is said when a device fails: by what is launched, or
    by whatever comes next to it."""
    try:
        yield
    except RuntimeError as error:
        if (failure := device_error(error)) is None:
            raise
        raise failure from error


LEAST = {"bf16": (8, 0), "f8e4m3": (8, 9)}
"""The first compute capability that multiplies a format."""


@dataclass(frozen=True)
class Device:
    """A GPU: name, compute capability, bytes of memory, bytes free, bytes of this process."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int
    own: int = 0
    place: str = "cuda:0"

    @staticmethod
    def find() -> Device:
        """Return the current GPU; raises NoGpu."""
        if not torch.cuda.is_available():
            built = torch.version.cuda is not None
            raise NoGpu(problem="none is visible" if built else "this torch is built without CUDA")
        index = torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info()
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return Device(properties.name, (properties.major, properties.minor), total, free + cached,
                      torch.cuda.memory_allocated(), f"cuda:{index}")  # fmt: skip

    def require_format(self, format: str) -> None:
        """Raise FormatNotThere unless the device multiplies numbers of this format."""
        least = LEAST.get(format, (0, 0))
        if self.capability < least:
            major, minor = self.capability
            raise FormatNotThere(device=self.name, major=major, minor=minor, format=format,
                                 least=".".join(map(str, least)))  # fmt: skip

    @contextmanager
    def watched(self, model: str) -> Iterator[None]:
        """Raise DeviceInUse where memory that was free is not there any more, and DeviceLost."""
        try:
            with device_errors():
                yield
        except DeviceFull as error:
            now = Device.find()
            held = max(0, now.total - now.free - now.own)
            counts = sizes(need=self.free, total=now.total, held=held, free=now.free)
            raise DeviceInUse(model=model, device=self.name, **counts) from error

    def require_room(self, model: str, format: str, weights: int, working: int) -> int:
        """Return the bytes free beside weights and working memory, all in bytes.

        Raises DeviceKept where the model fits but for what this process has there already,
        DeviceInUse where it fits the device but not beside other processes, and ModelTooLarge,
        which says by how much and what would fit.
        """
        need = weights + working + WORKSPACE
        if need <= self.free:
            return self.free - need
        if need <= self.free + self.own:
            counts = sizes(need=need, total=self.total, own=self.own, free=self.free)
            raise DeviceKept(model=model, device=self.name, **counts)
        held = max(0, self.total - self.free - self.own)
        if held > WORKSPACE and need <= self.total - self.own:
            counts = sizes(need=need, free=self.free, total=self.total, held=held)
            raise DeviceInUse(model=model, device=self.name, **counts)
        counts = sizes(need=need, free=self.free, weights=weights, working=need - weights,
                       over=need - self.free)  # fmt: skip
        raise ModelTooLarge(
            model=model, device=self.name, format=format, **counts,
            hint=self._what_fits(format, weights, need),
        )  # fmt: skip

    def _what_fits(self, format: str, weights: int, need: int) -> str:
        room = max(0, self.free - (need - weights))
        element = {"f32": 4, "bf16": 2}.get(format, 1)
        billions = room / element / 1e9
        text = f"up to {billions:.1f} billion parameters of {format} fit here"
        narrower = {4: "bf16", 2: "fp8" if self.capability >= LEAST["f8e4m3"] else "int8"}
        if element in narrower and weights // 2 <= room:
            text += f"; this model does with weights={narrower[element]}"
        return text


H200_BYTES = 150 * 10**9
"""Memory of the GPU that kernels are made for where there is none."""


def free_bytes() -> int:
    """Return the bytes that are free on the current GPU; where there is none, those of an H200."""
    return Device.find().free if torch.cuda.is_available() else H200_BYTES
