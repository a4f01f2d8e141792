"""Probes of an NVIDIA GPU and its link: reads, copies both ways, products, launches.

Copies are measured alone and together, from pinned and from pageable memory, and beside reads of
the host's processors. What each probe runs is given a `Device`, so that tests can run it on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ...ir.types import DTYPE_NAMES
from .cpu import CpuProbes, LinkProbes, Measure, MemoryProbes

COPY_BYTES = 512 << 20
READ_BYTES = 2 << 30
SMALL_BYTES = 4096
LAUNCHES = 200
CUBE = 8192
READS = 2
"""How often the probe of a read reads: once to warm up, once timed."""
HOPPER = 132
"""Multiprocessors of an H100 or H200."""


class Device:
    """The device that probes run on; a subclass may stand for a GPU where there is none."""

    name = "cuda"
    copy_bytes, read_bytes, cube = COPY_BYTES, READ_BYTES, CUBE

    def sync(self) -> None:
        """Wait until everything is done."""
        import torch

        torch.cuda.synchronize()

    def stream(self) -> AbstractContextManager[Any]:
        """A queue of its own."""
        import torch

        return torch.cuda.stream(torch.cuda.Stream())

    def capacity(self) -> float:
        """Bytes of its memory."""
        import torch

        return float(torch.cuda.mem_get_info()[1])

    def cache(self) -> int:
        """Bytes of its last cache."""
        import torch

        return int(torch.cuda.get_device_properties(0).L2_cache_size)

    def title(self) -> str:
        """What the device is called."""
        import torch

        return torch.cuda.get_device_name()

    def units(self) -> int:
        """How many multiprocessors it has."""
        import torch

        return torch.cuda.get_device_properties(0).multi_processor_count

    def products(self) -> tuple[str, ...]:
        """Data types whose products are measured: of 8 bits from compute capability 8.9 on."""
        import torch

        usual = "bf16", "f16", "f32"
        return (*usual, "f8e4m3") if torch.cuda.get_device_capability() >= (8, 9) else usual

    def pinned(self, bytes_: int) -> Any:
        """Return so many bytes of host memory that the device may read by itself."""
        import torch

        return torch.empty(bytes_, dtype=torch.uint8, pin_memory=True)

    def replay(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Return a function that repeats what a run launched, from a recorded graph."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay


def has_gpu() -> bool:
    """Return whether torch sees an NVIDIA GPU."""
    import torch

    return torch.cuda.is_available()


def streaming_processors() -> int:
    """Return the multiprocessors of a GPU of compute capability 9.0, as it is taken to be where
    there is none; 0 of another one: products of some rows were measured on an H200 only."""
    import torch

    if not torch.cuda.is_available():
        return HOPPER
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return properties.multi_processor_count if (properties.major, properties.minor) == (9, 0) else 0


def gpu_probes(device: Device | None = None) -> tuple[CpuProbes, list[LinkProbes]]:
    """Return the probes of the GPU, and of the links from and to the host."""
    import torch

    device = device or Device()
    x = torch.ones(16, device=device.name)
    level = CpuProbes(
        threads=device.units(),
        memories=[
            _memory(device, "L2", device.cache() // 2, 0.75 * device.cache()),
            _memory(device, "device", device.read_bytes, device.capacity()),
        ],
        matmul={dtype: [_product(device, dtype)] for dtype in device.products()},
        vector={"f32": [_product(device, "f32")]},
        launch={
            "eager": _launches(device, lambda: [x.add_(1.0) for _ in range(LAUNCHES)]),
            "graph": _launches(
                device, device.replay(lambda: [x.add_(1.0) for _ in range(LAUNCHES)])
            ),
        },
        name="gpu",
        kind="gpu",
        device=device.title(),
    )
    return level, _links(device)


def _copies(device: Device) -> Callable[[int], None]:
    """Return what starts so many copies of pinned memory to a device, on a stream of its own."""
    import torch

    host = device.pinned(device.copy_bytes)
    target = torch.empty_like(host, device=device.name)

    def copies(count: int) -> None:
        with device.stream():
            for _ in range(count):
                target.copy_(host, non_blocking=True)

    return copies


def shared_probe(read: Measure, device: Device | None = None) -> Measure:
    """Return reads of the host's processors beside copies to the device: bytes of both.

    There are as many copies as take the reads' time where each has the machine alone, as the
    shorter of the two leaves the longer one alone at the end: this is a lower bound.
    """
    device = device or Device()
    copies = _copies(device)
    alone = _timed(device, lambda: copies(1))()
    count = max(1, round(READS * read.probe() / alone))

    def probe() -> float:
        device.sync()
        start = time.perf_counter()
        copies(count)
        read.probe()
        device.sync()
        return time.perf_counter() - start

    return Measure(probe, READS * read.amount + count * device.copy_bytes)


def beside_probe(work: Measure, device: Device | None = None) -> Measure:
    """Return work of the host's processors while copies to the device go on: its amount alone.

    There are twice as many copies as take the work's time, its warming up included.
    """
    device = device or Device()
    copies = _copies(device)
    alone = _timed(device, lambda: copies(1))()
    start = time.perf_counter()
    work.probe()
    count = max(1, round(2 * (time.perf_counter() - start) / alone))

    def probe() -> float:
        device.sync()
        copies(count)
        seconds = work.probe()
        device.sync()
        return seconds

    return Measure(probe, work.amount)


def _timed(device: Device, run: Callable[[], Any], times: int = 1) -> Callable[[], float]:
    def probe() -> float:
        run()
        device.sync()
        start = time.perf_counter()
        for _ in range(times):
            run()
        device.sync()
        return time.perf_counter() - start

    return probe


def _memory(device: Device, name: str, size: int, capacity: float) -> MemoryProbes:
    """Reads and copies of a buffer of this size; small ones many times between two waits."""
    import torch

    rows = torch.zeros(max(2, size // 4 // 4096), 4096, device=device.name)
    half, times = rows.numel() // 2, max(1, device.read_bytes // 4 // size)
    source, target = rows.view(-1)[:half], rows.view(-1)[half : 2 * half]
    reads = [
        Measure(_timed(device, run, times), rows.numel() * 4 * times)
        for run in (rows.sum, rows.amax)
    ]
    copy = Measure(_timed(device, lambda: target.copy_(source), times), half * 8 * times)
    return MemoryProbes(name, capacity, reads, [copy])


def _product(device: Device, dtype: str) -> Measure:
    """Products of random numbers: of zeros they take less power, and a GPU's clock stays high."""
    import torch

    kind = getattr(torch, DTYPE_NAMES[dtype])
    size = device.cube if dtype != "f32" else device.cube // 2
    a, b = (torch.randn(size, size, device=device.name).to(kind) for _ in "ab")
    narrow, one = dtype == "f8e4m3", torch.ones((), device=device.name)
    out = torch.empty_like(a, dtype=torch.bfloat16 if narrow else kind)
    run = partial(torch.mm, a, b, out=out)
    if narrow:
        run = partial(torch.ops.aten._scaled_mm.out, a, b.T, one, one, out_dtype=out.dtype,
                      use_fast_accum=out.is_cuda, out=out)  # fmt: skip
    return Measure(_timed(device, run, 4), 4 * 2.0 * size**3)


def _launches(device: Device, run: Callable[[], Any]) -> Measure:
    return Measure(_timed(device, run), LAUNCHES)


def _links(device: Device) -> list[LinkProbes]:
    """Both ways: alone, from pageable memory, with the other way busy, and nearly empty."""
    import torch

    pinned, back = device.pinned(device.copy_bytes), device.pinned(device.copy_bytes)
    pageable = torch.empty(device.copy_bytes // 4, dtype=torch.uint8)
    near = [torch.empty_like(pinned, device=device.name) for _ in "ab"]

    def up() -> None:
        near[0].copy_(pinned, non_blocking=True)

    def down() -> None:
        back.copy_(near[1], non_blocking=True)

    def both() -> None:
        with device.stream():
            up()
        with device.stream():
            down()

    def measure(run: Callable[[], Any], amount: float) -> Measure:
        return Measure(_timed(device, run), amount)

    def small(run: Callable[[Any, Any], Any], target: Any, source: Any) -> Measure:
        parts = target[:SMALL_BYTES], source[:SMALL_BYTES]
        return Measure(_timed(device, lambda: run(*parts), LAUNCHES), LAUNCHES)

    def copy(target: Any, source: Any) -> None:
        target.copy_(source, non_blocking=True)

    some = near[0][: device.copy_bytes // 4]
    return [
        LinkProbes(
            "cpu", "gpu", [measure(up, device.copy_bytes)],
            measure(lambda: some.copy_(pageable), device.copy_bytes // 4),
            measure(both, device.copy_bytes), small(copy, near[0], pinned),
        ),
        LinkProbes(
            "gpu", "cpu", [measure(down, device.copy_bytes)],
            measure(lambda: pageable.copy_(some), device.copy_bytes // 4),
            measure(both, device.copy_bytes), small(copy, back, near[1]),
        ),
    ]  # fmt: skip
