"""Tile kernels as loaded Triton files: what a GPU runs; on one they are compiled side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..ir.core import Operation
from ..ir.diagnostics import KernelError
from ..ir.printer import print_operation
from ..ir.schedule import Schedule
from .cache import default_folder
from .kernel import BuildStatistics, Kernel
from .triton.emit import emit
from .triton.gluon.form import HOPPER
from .triton.load import load_launcher, load_module
from .triton.precompile import precompile
from .triton.source import TritonSource


class SameName(KernelError):
    """Two kernels of one model with one name."""

    template = "two kernels are named {name}"


def load_kernels(
    kernels: Sequence[tuple[Operation, Schedule]],
    cache: Path | None = None,
    interpreted: bool = False,
) -> dict[str, Kernel]:
    """Emit and load kernels; return them by name.

    Their files lie in `cache` (default: the user's); Triton keeps what it compiles in a cache of
    its own. `interpreted`: for Triton's interpreter, which
    knows no launches before the end of others.
    """
    folder = (cache or default_folder()) / "triton"
    loaded: dict[str, Kernel] = {}
    functions = []
    for operation, schedule in kernels:
        start = time.perf_counter()
        if interpreted:
            schedule = replace(schedule, chained=False, opens=False)
        if interpreted or not can_specialise():
            schedule = replace(schedule, specialised=0)
        source = emit(operation, schedule)
        if source.name in loaded:
            raise SameName(name=source.name)
        launch = load_launcher(source, folder)
        functions.append((getattr(load_module(source, folder), source.name), operation, schedule))
        spent = time.perf_counter() - start
        statistics = BuildStatistics(False, spent, source.module)
        loaded[source.name] = Kernel(
            source.name, launch, partial(_text, source), print_operation(operation), statistics,
            "cuda", inspector=_inspector(operation, schedule),
        )  # fmt: skip
    if not interpreted:
        precompile(functions)
    return loaded


@cache
def can_specialise() -> bool:
    """Whether the GPU here has what kernels of specialised warps are made of: Hopper's products."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER


def _text(source: TritonSource) -> str:
    return source.text


def _inspector(operation: Operation, schedule: Schedule) -> Callable[[str], str]:
    def inspect(what: str) -> str:
        from .triton.compile import compile_offline

        stages: dict[str, Any] = compile_offline(operation, schedule)
        return str(stages["ptx" if what == "assembly" else what])

    return inspect
