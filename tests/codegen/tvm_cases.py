"""Runs kernels through the TVM emitter on NumPy arguments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weft.codegen.build import compile_kernels
from weft.codegen.kernel import Kernel
from weft.codegen.threads import configure_threads
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.ir.types import dtype_of

configure_threads(2, spin=0)
FOLDER = Path(tempfile.mkdtemp(prefix="weft-test-kernels-"))


def compile_one(kernel: Operation, schedule: Schedule | None = None) -> Kernel:
    """Compile one kernel, once for all tests of this process."""
    (built,) = compile_kernels([(kernel, schedule or Schedule())], cache=FOLDER).values()
    return built


def tensors(kernel: Operation, arguments: Iterable[Any]) -> list[Any]:
    """Return arrays as tensors that share no memory with them; u2 for bf16 buffers as bf16."""
    values = []
    for value, argument in zip(kernel.regions[0].arguments, arguments, strict=True):
        if isinstance(argument, np.ndarray):
            array = argument.copy()
            if dtype_of(value.type) == "bf16":
                values.append(compact(torch.from_numpy(array.view("i2")).view(torch.bfloat16)))
            else:
                values.append(compact(torch.from_numpy(array)))
        else:
            values.append(argument)
    return values


def compact(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor; one without elements with the strides that tvm takes for compact: products
    of the extents behind it (torch takes over NumPy's, which are 0)."""
    if tensor.numel():
        return tensor
    strides = [prod(tensor.shape[axis + 1 :]) for axis in range(tensor.dim())]
    return tensor.as_strided(tensor.shape, strides)


def arrays(values: Iterable[Any]) -> list[Any]:
    """Return tensors as arrays again."""
    return [
        value if not isinstance(value, torch.Tensor)
        else value.view(torch.int16).numpy().view("u2") if value.dtype == torch.bfloat16
        else value.numpy()
        for value in values
    ]  # fmt: skip


def run(kernel: Operation, arguments: Iterable[Any], schedule: Schedule | None = None) -> list[Any]:
    """Return the arguments as they are after the compiled kernel ran."""
    values = tensors(kernel, arguments)
    compile_one(kernel, schedule).launch(*values)
    return arrays(values)
