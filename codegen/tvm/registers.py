"""How many vectors the registers hold of the CPU that kernels are compiled for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..cache import named_cpu


def vector_registers(lanes: int) -> int:
    """Return how many vectors of so many f32 lanes there are registers for: 32 with AVX-512; else
    as of AVX2, which has 16 of eight lanes (NEON has 32 of four)."""
    return 32 if _has_avx512(named_cpu()) else min(16, 128 // lanes)


@cache
def _has_avx512(name: str) -> bool:
    """Say whether a CPU that LLVM knows by a name, or this machine's (""), has AVX-512."""
    if name:
        from tvm.target import Target, codegen

        target = Target({"kind": "llvm", "mcpu": name})
        return bool(codegen.llvm_cpu_has_features("avx512f", target))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any("avx512f" in line.split() for line in lines if line.startswith("flags"))
