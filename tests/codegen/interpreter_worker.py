"""A process that interprets Triton kernels: pickled (kernel, arguments) in, arguments out."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weft.codegen.triton.emit import emit
from weft.codegen.triton.load import load_launcher
from weft.ir.types import dtype_of
from weft.tests.quick_interpreter import quicken


def as_tensor(argument: Any, dtype: str) -> Any:
    if not isinstance(argument, np.ndarray):
        return argument
    if dtype == "f8e4m3":
        return torch.from_numpy(argument.copy()).view(torch.float8_e4m3fn)
    if argument.dtype == np.uint16:
        return torch.from_numpy(argument.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(argument.copy())


def as_array(argument: Any) -> Any:
    if not isinstance(argument, torch.Tensor):
        return argument
    if argument.dtype == torch.float8_e4m3fn:
        return argument.view(torch.uint8).numpy()
    if argument.dtype == torch.bfloat16:
        return argument.view(torch.int16).numpy().view(np.uint16)
    return argument.numpy()


def mend_narrow_floats() -> None:
    """Let the interpreter's dot see bf16 numbers (it multiplies their 16 bits as integers), and
    round to fp8 with a carry into the exponent (it rounds 1.99 to 1)."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    original = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, acc: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (self.create_fp_ext(side, tl.float32) for side in (a, b))
        return original(self, a, b, acc, *rest)

    convert = builder.create_fp_to_fp

    def create_fp_to_fp(self: Any, value: Any, target: Any, rounding: Any) -> Any:
        if target.scalar != tl.float8e4nv or value.dtype.scalar != tl.float32:
            return convert(self, value, target, rounding)
        narrow = torch.from_numpy(np.ascontiguousarray(value.data)).to(torch.float8_e4m3fn)
        return interpreter.TensorHandle(narrow.view(torch.uint8).numpy(), tl.float8e4nv)

    builder.create_dot, builder.create_fp_to_fp = create_dot, create_fp_to_fp


def serve(folder: Path, answers: Any) -> None:
    while True:
        try:
            kernel, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            types = (dtype_of(value.type) for value in kernel.regions[0].arguments)
            tensors = [as_tensor(*pair) for pair in zip(arguments, types, strict=True)]
            load_launcher(emit(kernel), folder)(*tensors)
            answer = True, [as_array(tensor) for tensor in tensors]
        except Exception:
            answer = False, traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    mend_narrow_floats()
    quicken()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    serve(Path(sys.argv[1]), answers)
