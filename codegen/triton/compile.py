"""Compiles kernels for an NVIDIA architecture without a GPU: TTIR, TTGIR, PTX and cubin."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...ir.core import Operation, Term
from ...ir.diagnostics import KernelError
from ...ir.schedule import Schedule
from ...ir.types import dtype_of
from .emit import emit
from .gluon.form import HOPPER
from .load import NoTriton, load_module
from .precompile import stand_ins
from .source import launch_options

_POINTEE = {"f32": "fp32", "f64": "fp64", "bf16": "bf16", "f16": "fp16", "bool": "i1",
            "index": "i32", "f8e4m3": "fp8e4nv"}  # fmt: skip
STAGES = ("ttir", "ttgir", "ptx", "cubin")


class CannotCompile(KernelError):
    """A kernel that Triton refuses."""

    template = "@{kernel} does not compile for sm_{arch}: {problem}"


def compile_offline(
    kernel: Operation, schedule: Schedule | None = None, arch: int = 90, folder: Path | None = None
) -> dict[str, Any]:
    """Return every stage of a kernel's compilation, by name: text, and for `cubin` bytes.

    Raises NoTriton and CannotCompile.
    """
    if find_spec("triton") is None:
        raise NoTriton()
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as it does unasked, but then it warns
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    schedule = schedule or Schedule()
    if schedule.specialised and arch // 10 != HOPPER:  # the compiler would end the process
        problem = "warps that have parts of their own need Hopper"
        raise CannotCompile(kernel=kernel["name"].name, arch=arch, problem=problem)
    source = emit(kernel, schedule)
    with tempfile.TemporaryDirectory() as scratch:
        function = getattr(load_module(source, folder or Path(scratch)), source.name)
        options = launch_options(replace(schedule, chained=False))
        kind = GluonASTSource if schedule.specialised else ASTSource
        types = signature(kernel) | _blocks(function, kernel)
        ast = kind(function, types, attrs=_aligned(kernel))
        try:
            built = triton.compile(ast, target=GPUTarget("cuda", arch, 32), options=options)
        except Exception as error:
            problem = str(error).strip() or type(error).__name__
            raise CannotCompile(kernel=source.name, arch=arch, problem=problem) from error
    found = {stage: built.asm[stage] for stage in STAGES if stage in built.asm}
    return {"ttir": f"// @{source.name} is Gluon: there is no ttir of it\n", **found}


def signature(kernel: Operation) -> dict[str, str]:
    """Return Triton's type of each argument."""
    return {
        value.name: ("*" if value.type.name == "buffer" else "") + _scalar(value.type)
        for value in kernel.regions[0].arguments
    }


def _blocks(function: Any, kernel: Operation) -> dict[str, str]:
    """Return the types of buffers of which a kernel copies blocks."""
    pairs = zip(kernel.regions[0].arguments, stand_ins(function, kernel), strict=True)
    return {value.name: f"tensordesc<{_scalar(value.type)}{given.block_shape!r},{given.layout!r}>"
            for value, given in pairs if hasattr(given, "block_shape")}  # fmt: skip


def _scalar(type: Term) -> str:
    return _POINTEE.get(dtype_of(type), dtype_of(type))


def _aligned(kernel: Operation) -> dict[tuple[int], list[list[Any]]]:
    """Return the promise that buffers start at a multiple of 16 bytes, as torch's do."""
    return {
        (position,): [["tt.divisibility", 16]]
        for position, value in enumerate(kernel.regions[0].arguments)
        if value.type.name == "buffer"
    }
