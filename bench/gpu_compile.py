"""Compiles a bench's kernels before it starts, many at a time: one after another takes longer than
what is measured."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from weft.codegen.emit_triton import emit
from weft.codegen.load_triton import load_module
from weft.codegen.triton_expressions import TRITON
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.ir.types import dtype_of

WORKERS = 16


def compile_ahead(kernels: Iterable[tuple[Operation, Schedule]], folder: Path) -> None:
    """Have Triton's cache hold every kernel; a launch finds it there. Files go to the folder."""
    wanted = {emit(*each).module: each for each in kernels}
    workers = min(WORKERS, os.cpu_count() or 1, len(wanted))
    if workers:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            list(pool.map(_compiled, wanted.values(), repeat(folder)))


def _compiled(each: tuple[Operation, Schedule], folder: Path) -> None:
    import torch

    kernel, schedule = each
    source = emit(kernel, schedule)
    types = {name: getattr(torch, text.removeprefix("tl."), None) for name, text in TRITON.items()}
    arguments = [types[dtype_of(value.type)] if value.type.name == "buffer" else 1
                 for value in kernel.regions[0].arguments]  # fmt: skip
    options = {"num_warps": schedule.num_warps, "num_stages": schedule.num_stages}
    options |= {"maxnreg": schedule.registers} if schedule.registers else {}
    options |= {"launch_pdl": True} if schedule.chained else {}
    function = getattr(load_module(source, folder), source.name)
    function.warmup(*arguments, grid=(1,), **options)
