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
from weft.codegen.emit_triton import emit
from weft.codegen.load_triton import load_launcher


def as_tensor(argument: Any) -> Any:
    if not isinstance(argument, np.ndarray):
        return argument
    if argument.dtype == np.uint16:
        return torch.from_numpy(argument.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(argument.copy())


def as_array(argument: Any) -> Any:
    if not isinstance(argument, torch.Tensor):
        return argument
    if argument.dtype == torch.bfloat16:
        return argument.view(torch.int16).numpy().view(np.uint16)
    return argument.numpy()


def serve(folder: Path, answers: Any) -> None:
    while True:
        try:
            kernel, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            tensors = [as_tensor(argument) for argument in arguments]
            load_launcher(emit(kernel), folder)(*tensors)
            answer = True, [as_array(tensor) for tensor in tensors]
        except Exception:
            answer = False, traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    serve(Path(sys.argv[1]), answers)
