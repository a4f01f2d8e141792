"""The host's kernels that `bench.moe_kernels` compiled for several CPUs: the best for this one."""

from __future__ import annotations

import os
from pathlib import Path

CPUS = {
    "sapphirerapids": ("avx512_bf16", "avx512_fp16", "amx_tile"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512vl"),
    "x86-64-v3": ("avx2", "fma"),
}
"""LLVM's names of CPUs, the best first, and the flags that tell them."""


class NoKernels(Exception):
    """A machine that none of the compiled kernels is for."""


def use(folder: Path) -> str:
    """Let kernels come from a folder's best part for this CPU; return which."""
    flags = set(_flags())
    for cpu, wanted in CPUS.items():
        if flags.issuperset(wanted) and (folder / cpu).is_dir():
            os.environ["WEFT_CPU"], os.environ["WEFT_CACHE"] = cpu, str(folder / cpu)
            return cpu
    raise NoKernels(f"{folder} has kernels for none of this CPU's kinds")


def _flags() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return line.partition(":")[2].split()
    return []
