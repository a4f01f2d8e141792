"""What was chosen on this machine and is kept: schedules, how short steps run, which library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..codegen.measure.autotune import Choices
    from ..options import Options
    from ..runtime.execution.compiled_executor import CompiledExecutor
    from ..runtime.execution.host_products import ProductChoice
    from ..runtime.execution.short_steps import ShortSteps
    from ..runtime.execution.weights import Weight

Kept = TypeVar("Kept")


def device_name(options: Options) -> str:
    """Return what choices of schedules hold for: the device, its threads, the compilers."""
    from importlib.metadata import version

    from ..codegen.cache import host_signature

    if options.target == "cuda":
        from ..runtime.devices.device import Device, NoGpu

        try:
            return f"{Device.find().name}, triton {version('triton')}"
        except NoGpu:  # kernels may be looked at where they cannot run
            return "no GPU"
    threads = options.thread_count
    return f"cpu {host_signature()}, {threads} threads, apache-tvm {version('apache-tvm')}"


def choices_of(options: Options) -> Choices:
    """Return the schedules that were chosen on this device."""
    from ..codegen.cache import default_folder
    from ..codegen.measure.autotune import Choices

    return Choices(options.cache or default_folder(), device_name(options))


def short_steps(executor: CompiledExecutor, options: Options) -> ShortSteps:
    """Return which steps of chunks run as decode steps: what is kept of this machine, kernels and a
    model of this shape, or what is measured now."""
    from ..codegen.build import emitter_digest
    from ..runtime.execution.short_steps import (
        BEHIND,
        MOST_KEYS,
        MOST_PARTS,
        WEIGHTS,
        measured,
        pages_behind,
        read,
    )
    from .formats import kv_dtype, weight_dtype

    what = [repr(executor.config), weight_dtype(options), kv_dtype(options), executor.products.name]
    sizes = [executor.decode_rows, executor.short_rows, executor.max_tokens, executor.max_batch,
             MOST_PARTS, MOST_KEYS, BEHIND, WEIGHTS, executor.page_size,
             pages_behind(executor, executor.max_batch)]  # fmt: skip
    parts = (emitter_digest(), *what, *map(str, sizes))
    return _kept("short", parts, options, read, lambda: measured(executor))


def host_products(weights: Mapping[str, Weight], options: Options) -> ProductChoice:
    """Return which library multiplies the f32 rows of long steps: what is kept of this machine and
    weights of these shapes, or what is measured now."""
    from ..runtime.execution.host_products import measured, read

    matrices = (w.data.shape for w in weights.values() if w.data.dim() == 2)
    shapes = sorted({(shape[0], shape[1]) for shape in matrices})
    return _kept("product", (repr(shapes),), options, read, lambda: measured(shapes))


def _kept(
    kind: str, parts: Iterable[str], options: Options, read: Callable[[Mapping[str, Any]], Kept],
    measure: Callable[[], Kept],
) -> Kept:  # fmt: skip
    """Return a choice that was kept for this machine and these parts, or what is measured now."""
    from importlib.metadata import version

    from ..codegen.cache import CacheFull, KernelCache, default_folder, key_of
    from ..runtime.devices.kept_choice import kept

    home = KernelCache((options.cache or default_folder()) / "tuned")
    key = key_of(device_name(options), version("torch"), *parts)
    path = home.folder / f"{kind}-{key[:16]}.json"

    def keep(content: bytes) -> None:
        with suppress(CacheFull):  # it is measured anew by the next run
            if home.writable():
                home.write(path, content)

    return kept(path, read, measure, keep)
