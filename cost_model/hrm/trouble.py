"""Errors of a policy search: what does not fit, by how much, and what would mend it."""

from __future__ import annotations

from ...ir.diagnostics import CapacityError
from ...ir.display.units import bytes_text, least_size, sizes
from .grid import PREFILL_TOKENS
from .memory import GPU_MARGIN, HOST_MARGIN, Batch, gpu_lines, host_lines
from .model import Site
from .shape import MoeShape, Workload


class GpuTooSmall(CapacityError):
    """A GPU memory cap below what one layer needs at work."""

    template = (
        "GPU memory of {given} is {short} too small: one layer's working set is {needed} ({lines})"
    )
    hint = "raise --gpu-memory to {least} or more, or take smaller pages or shorter prompts"


class HostTooSmall(CapacityError):
    """Host memory that cannot hold the weights that do not fit the GPU."""

    template = (
        "host memory of {given} is {short} too small: weights that do not fit the GPU, and keys "
        "and values of one sequence, are {needed} ({lines})"
    )
    hint = (
        "raise --host-memory to {least} or more, or --gpu-memory, let --disk hold pages, or take "
        "--pages int8 or int4"
    )


def explain_misfit(
    shape: MoeShape, workload: Workload, site: Site, pages_per_expert: int
) -> CapacityError:
    """Return the error of a search that found nothing: which memory is short, and of what."""
    batch = Batch(1, 1, "cpu", PREFILL_TOKENS[0], pages_per_expert)
    page = shape.page_bytes(pages_per_expert)
    gpu = gpu_lines(shape, workload, batch)
    held = shape.gpu_page_bytes(pages_per_expert)
    gpu["slots for pages"] = held * _least_slots(shape, site, pages_per_expert)
    needed = sum(gpu.values()) / (1 - GPU_MARGIN)
    if needed > site.gpu_memory:
        return _error(GpuTooSmall, needed, site.gpu_memory, gpu)
    resident = int((site.gpu_memory - needed) * (1 - GPU_MARGIN) / held)
    pages = shape.layers * shape.experts * pages_per_expert
    host = host_lines(shape, workload, batch)
    on_disk = site.disk // page if site.machine.disk else 0
    host["pages of experts"] = page * max(0, pages - resident - on_disk)
    needed = sum(host.values()) / (1 - HOST_MARGIN)
    return _error(HostTooSmall, needed, site.host_memory, host)


def _least_slots(shape: MoeShape, site: Site, pages_per_expert: int) -> int:
    """Slots with which a layer can run: two where the CPU may compute all, else a whole layer's."""
    if "cpu" in site.homes:
        return 2
    return shape.experts * pages_per_expert + 2


def _error(
    kind: type[CapacityError], needed: float, given: float, lines: dict[str, float]
) -> CapacityError:
    listed = ", ".join(f"{name} {bytes_text(size)}" for name, size in lines.items() if size)
    counts = sizes(needed=needed, given=given, short=needed - given)
    return kind(**counts, lines=listed, least=least_size(needed))
