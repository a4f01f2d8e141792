"""Kernel arguments as NumPy arrays: bf16 is seen through its 16 bits, tensors through a view."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.core import Operation, Term
from ..ir.diagnostics import KernelError
from ..ir.types import dtype_of, shape_of

STORAGE: dict[str, np.dtype[Any]] = {
    "f64": np.dtype(np.float64), "f32": np.dtype(np.float32), "bf16": np.dtype(np.uint16),
    "f16": np.dtype(np.float16), "i64": np.dtype(np.int64), "i32": np.dtype(np.int32),
    "u32": np.dtype(np.uint32), "i16": np.dtype(np.int16), "u16": np.dtype(np.uint16),
    "i8": np.dtype(np.int8), "u8": np.dtype(np.uint8), "bool": np.dtype(np.bool_),
}  # fmt: skip
"""How a buffer's elements lie in memory, by dtype."""

FLOATS = frozenset({"f64", "f32", "bf16", "f16"})
INTEGERS = {"index": np.dtype(np.int64)} | {
    name: dtype for name, dtype in STORAGE.items() if name not in FLOATS
}
"""How integer values are computed."""


class BadArgument(KernelError):
    """An argument that does not fit the kernel's parameter."""

    template = "@{kernel}: argument %{argument}: {problem}"


def as_array(argument: Any, type: Term, kernel: str, name: str) -> np.ndarray:
    """Return the memory of a NumPy array or CPU tensor as an array of the buffer's storage dtype.

    bf16 buffers take uint16 arrays of bits, `ml_dtypes.bfloat16` arrays or torch.bfloat16 tensors.
    """
    storage = STORAGE[dtype_of(type)]
    array = _tensor_memory(argument) if hasattr(argument, "data_ptr") else argument
    if not isinstance(array, np.ndarray):
        raise BadArgument(kernel=kernel, argument=name, problem=f"not an array: {array!r}")
    if array.dtype != storage and dtype_of(type) == "bf16" and array.dtype.itemsize == 2:
        array = array.view(storage)
    if array.dtype != storage or array.ndim != len(shape_of(type)):
        problem = f"{array.dtype}{list(array.shape)} given for {type}"
        raise BadArgument(kernel=kernel, argument=name, problem=problem)
    return array


def _tensor_memory(tensor: Any) -> np.ndarray:
    import torch

    narrow = tensor.detach()
    return (narrow.view(torch.int16) if narrow.dtype == torch.bfloat16 else narrow).numpy()


def bind(kernel: Operation, arguments: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the kernel's scalars and buffers by name; shapes must agree with the scalars."""
    parameters = kernel.regions[0].arguments
    name = kernel["name"].name
    if len(parameters) != len(arguments):
        problem = f"{len(arguments)} arguments given, {len(parameters)} wanted"
        raise BadArgument(kernel=name, argument="...", problem=problem)
    pairs = list(zip(parameters, arguments, strict=True))
    scalars = {
        value.name: float(given) if value.type.name in FLOATS else int(given)
        for value, given in pairs if value.type.name != "buffer"
    }  # fmt: skip
    buffers = {
        value.name: as_array(given, value.type, name, value.name)
        for value, given in pairs if value.type.name == "buffer"
    }  # fmt: skip
    for value, _ in pairs:
        if value.type.name == "buffer":
            _check_shape(name, value.name, shape_of(value.type), buffers[value.name], scalars)
    return scalars, buffers


def _check_shape(
    kernel: str, name: str, dims: tuple[Any, ...], array: np.ndarray, scalars: dict[str, Any]
) -> None:
    for axis, dim in enumerate(dims):
        want = scalars[dim.name] if isinstance(dim, Term) else dim
        if array.shape[axis] != want:
            problem = f"extent {array.shape[axis]} on axis {axis}, but {dim} is {want}"
            raise BadArgument(kernel=kernel, argument=name, problem=problem)


def widen(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return stored elements as values to compute with; bf16 and f16 become float32."""
    if dtype == "bf16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32) if dtype == "f16" else array


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return values as stored elements; floats round to the nearest, ties to even."""
    if dtype != "bf16":
        return values.astype(STORAGE[dtype])
    single = np.ascontiguousarray(values.astype(np.float32))
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(single), quiet, rounded).astype(np.uint16).reshape(values.shape)
