"""Kernel arguments as NumPy arrays: bf16 and fp8 are seen through their bits, tensors through a
view."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.core import Operation, Term
from ...ir.diagnostics import KernelError
from ...ir.types import dtype_of, shape_of

STORAGE: dict[str, np.dtype[Any]] = {
    "f64": np.dtype(np.float64), "f32": np.dtype(np.float32), "bf16": np.dtype(np.uint16),
    "f16": np.dtype(np.float16), "i64": np.dtype(np.int64), "i32": np.dtype(np.int32),
    "u32": np.dtype(np.uint32), "i16": np.dtype(np.int16), "u16": np.dtype(np.uint16),
    "i8": np.dtype(np.int8), "u8": np.dtype(np.uint8), "bool": np.dtype(np.bool_),
    "f8e4m3": np.dtype(np.uint8),
}  # fmt: skip
"""How a buffer's elements lie in memory, by dtype."""

FLOATS = frozenset({"f64", "f32", "bf16", "f16", "f8e4m3"})
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
    small = dtype_of(type) in ("bf16", "f8e4m3")
    if array.dtype != storage and small and array.dtype.itemsize == storage.itemsize:
        array = array.view(storage)
    if array.dtype != storage or array.ndim != len(shape_of(type)):
        problem = f"{array.dtype}{list(array.shape)} given for {type}"
        raise BadArgument(kernel=kernel, argument=name, problem=problem)
    return array


def _tensor_memory(tensor: Any) -> np.ndarray:
    import torch

    bits = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8}.get(tensor.dtype)
    return (tensor.detach() if bits is None else tensor.detach().view(bits)).numpy()


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
    if dtype == "f8e4m3":
        return _E4M3[array]
    return array.astype(np.float32) if dtype == "f16" else array


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return values as stored elements; floats round to the nearest, ties to even."""
    if dtype == "f8e4m3":
        return _narrow_e4m3(values)
    if dtype != "bf16":
        return values.astype(STORAGE[dtype])
    single = np.ascontiguousarray(values.astype(np.float32))
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(single), quiet, rounded).astype(np.uint16).reshape(values.shape)


def _e4m3_values() -> np.ndarray:
    """Return what each byte means: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity
    (arXiv:2209.05433, table 1)."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    small = mantissa * 2.0**-9
    values = np.where(exponent == 0, small, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    values = np.where((codes & 127) == 127, np.nan, values)
    return np.where(codes & 128, -values, values).astype(np.float32)


_E4M3 = _e4m3_values()


def _narrow_e4m3(values: np.ndarray) -> np.ndarray:
    """Round to the nearest byte, ties to the even one; what is larger than 448 is not a number."""
    given = np.asarray(values, np.float64)
    known = np.append(_E4M3[:127].astype(np.float64), 480.0)
    size = np.minimum(np.abs(np.nan_to_num(given, nan=1e9)), 479.0)
    low = np.clip(np.searchsorted(known, size, side="right") - 1, 0, 126)
    below, above = size - known[low], known[low + 1] - size
    code = low + ((above < below) | ((above == below) & (low % 2 == 1)))
    return (code | np.where(np.signbit(given), 128, 0)).astype(np.uint8)
