"""Compiles Triton kernels in several processes ahead: Triton keeps what it compiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import torch
from weft.codegen.emit_triton import emit, launch_options
from weft.codegen.load_triton import load_module
from weft.ir.core import Operation, Term
from weft.ir.schedule import Schedule
from weft.ir.types import dtype_of

DTYPES = {"i32": torch.int32, "u8": torch.uint8, "i8": torch.int8, "bf16": torch.bfloat16,
          "f16": torch.float16, "f32": torch.float32, "f8e4m3": torch.float8_e4m3fn}  # fmt: skip
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
    arguments = [_argument(value.type) for value in kernel.regions[0].arguments]
    function.warmup(*arguments, grid=(1,), **launch_options(schedule))


def _argument(type: Term) -> object:
    """Return what stands for an argument: a dtype for a buffer, any number for a scalar."""
    return DTYPES[dtype_of(type)] if type.name == "buffer" else 1 << 20
