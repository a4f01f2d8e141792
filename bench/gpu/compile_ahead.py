"""Compiles Triton kernels in several processes ahead: Triton keeps what it compiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from weft.codegen.triton.emit import emit
from weft.codegen.triton.load import load_module
from weft.codegen.triton.precompile import stand_ins
from weft.codegen.triton.source import launch_options
from weft.ir.core import Operation
from weft.ir.schedule import Schedule

FEW = 4
"""Kernels that are not worth a process each."""


def compile_ahead(kernels: Sequence[tuple[Operation, Schedule]], folder: Path) -> None:
    """Have kernels compiled for the GPU here; `folder` is that of their modules' files."""
    found = {emit(*pair).module: pair for pair in kernels}
    if len(found) < FEW:
        return
    workers = min(len(found), 16, os.cpu_count() or 1)
    with get_context("spawn").Pool(workers) as pool:
        pool.starmap(_compile, [(*pair, folder) for pair in found.values()], chunksize=1)


def _compile(kernel: Operation, schedule: Schedule, folder: Path) -> None:
    source = emit(kernel, schedule)
    function = getattr(load_module(source, folder), source.name)
    function.warmup(*stand_ins(function, kernel), grid=(1,), **launch_options(schedule))
