"""Runs an emitted Triton kernel on the GPU: arguments in, arguments as they are after it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from weft.codegen.triton.emit import emit
from weft.codegen.triton.load import load_launcher
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.ir.types import dtype_of

PLAIN = Schedule()


def on_gpu(
    kernel: Operation, arguments: list[Any], folder: Path, schedule: Schedule = PLAIN
) -> list[Any]:  # fmt: skip
    """Return the arguments as they are after the kernel ran on the GPU."""
    types = (dtype_of(value.type) for value in kernel.regions[0].arguments)
    moved = [_tensor(*pair) for pair in zip(arguments, types, strict=True)]
    load_launcher(emit(kernel, schedule), folder)(*moved)
    torch.cuda.synchronize()
    return [_array(argument) for argument in moved]


def _tensor(argument: Any, dtype: str) -> Any:
    if not isinstance(argument, np.ndarray):
        return argument
    if dtype == "f8e4m3":
        return torch.from_numpy(argument).cuda().view(torch.float8_e4m3fn)
    if argument.dtype == np.uint16:
        return torch.from_numpy(argument.view(np.int16)).cuda().view(torch.bfloat16)
    return torch.from_numpy(argument).cuda()


def _array(argument: Any) -> Any:
    if not isinstance(argument, torch.Tensor):
        return argument
    if argument.dtype == torch.float8_e4m3fn:
        return argument.view(torch.uint8).cpu().numpy()
    if argument.dtype == torch.bfloat16:
        return argument.view(torch.int16).cpu().numpy().view(np.uint16)
    return argument.cpu().numpy()
