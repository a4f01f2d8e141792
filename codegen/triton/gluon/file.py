"""What Gluon files have in common: their head, their launch, and what their functions take."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ....ir.core import Operation
from ....ir.expression import read
from ....ir.schedule import Schedule
from ..expressions import TRITON, HostWriter
from ..names import identifier
from ..source import launch_options

COPIER_REGISTERS = 24
"""Registers a thread of the warp that copies."""

HEAD = """import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as tl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language import extra

copied = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
"""
SHARED = (
    "SHARED = tl.constexpr(tl.NVMMASharedLayout("
    "swizzle_byte_width=128, element_bitwidth=16, rank=2))"
)
WORD = re.compile(r"[A-Za-z_]\w*")


def parts_layouts(columns: Sequence[int]) -> list[str]:
    """Return the layouts of products of so many columns in the registers of four warps."""
    return [f"PART_{n} = tl.constexpr(tl.NVMMADistributedLayout("
            f"version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, {n}, 16]))"
            for n in columns]  # fmt: skip


class GluonFile:
    """The file of a kernel whose `groups` of four warps compute while one warp copies; `numbers`
    are its values without a shape that all parts may know."""

    def __init__(
        self, kernel: Operation, schedule: Schedule, groups: int, dtype: str, numbers: list[str]
    ) -> None:  # fmt: skip
        self.kernel, self.schedule, self.numbers = kernel, schedule, numbers
        self.name = kernel["name"].name
        self.arguments = kernel.regions[0].arguments
        self._groups, self._dtype = groups, dtype

    def names(self) -> str:
        """Return what the kernel takes."""
        return ", ".join(identifier(value.name) for value in self.arguments)

    def function(self, name: str, takes: Sequence[str], body: Sequence[str]) -> list[str]:
        """Return the lines of a part's function."""
        lines = [f"    {line}" for line in body]
        return ["\n", "@gluon.jit", f"def {self.name}_{name}({', '.join(takes)}):", *lines]

    def kernel_head(self) -> list[str]:
        """Return the first lines of the kernel itself."""
        scalars = [identifier(v.name) for v in self.arguments if v.type.name != "buffer"]
        jit = f"@gluon.jit(do_not_specialize={scalars!r})"
        return ["\n", jit, f"def {self.name}({self.names()}):"]

    def wanted(
        self, lines: Sequence[str], more: Sequence[str], numbers: Sequence[str] | None = None
    ) -> list[str]:  # fmt: skip
        """Return what a function of some lines takes, of the kernel's numbers these (None: any)."""
        words = {word for line in lines for word in WORD.findall(line)}
        known = [identifier(value.name) for value in self.arguments]
        known += [identifier(name) for name in (self.numbers if numbers is None else numbers)]
        return [name for name in dict.fromkeys([*known, *more]) if name in words]

    def specialised(self, computes: Sequence[str], copies: Sequence[str]) -> list[str]:
        """Return the lines that start the parts, which take these names."""
        calls = []
        for group in range(self._groups):
            names = ", ".join(str(group) if name == "warp_group" else name for name in computes)
            calls += [f"        ({self.name}_compute, ({names})),"]
        calls += [f"        ({self.name}_copy, ({', '.join(copies)})),"]
        warps = [4] * (self._groups - 1) + [1]
        registers = [self._registers()] * (self._groups - 1) + [COPIER_REGISTERS]
        return ["    tl.warp_specialize([", *calls, f"    ], {warps}, {registers})"]

    def _registers(self) -> int:
        """Return the registers a thread that computes may have: those of the copier's group, but
        for its own, are theirs."""
        threads = 128 * (self._groups + 1)
        most = (self.schedule.specialised or 65536 // threads // 8 * 8) * threads
        return min((most - 128 * COPIER_REGISTERS) // (threads - 128) // 8 * 8, 240)

    def launch(self, given: Sequence[str], more: Sequence[str]) -> list[str]:
        """Return the functions of the host: `given` is what stands for each argument, `more` says
        what `blocks`, of a pool and others, returns."""
        names = self.names()
        extents = [read(extent, HostWriter()) for extent in self.kernel["grid"]]
        grid = ", ".join(extents) + ("," if len(extents) == 1 else "")
        options = ", ".join(f"{k}={v!r}" for k, v in launch_options(self.schedule).items())
        return [
            "\n", f"def grid({names}):\n    return ({grid})",
            "\n", "class Pool:",
            '    """A pool of pages at an address."""',
            f'    dtype = "{TRITON[self._dtype].removeprefix("tl.")}"', "",
            "    def __init__(self, address):", "        self.address = address", "",
            "    def data_ptr(self):", "        return self.address",
            "\n", *more,
            "\n", f"def described({names}):",
            '    """Return what the kernel takes in place of some arguments."""',
            f"    return {', '.join(given)}",
            "\n", f"def launch({names}):", f'    """Run @{self.name} over its grid."""',
            f"    programs = grid({names})", "    if min(programs) > 0:",
            f"        return {self.name}[programs](*described({names}), {options})",
        ]  # fmt: skip


def rings(names: Sequence[tuple[str, str]], dtype: str, stages: int) -> list[str]:
    """Return lines that make rings of blocks in shared memory, each of so many `stages`."""
    return [f"    {ring} = tl.allocate_shared_memory({dtype}, [{stages}, {block}], SHARED)"
            for ring, block in names]  # fmt: skip


def barriers(names: dict[str, int], stages: int) -> list[str]:
    """Return lines that make barriers, each name's for so many arrivals."""
    lines = [f"    {ring} = tl.allocate_shared_memory(tl.int64, [{stages}, 1], "
             "mbarrier.MBarrierLayout())" for ring in names]  # fmt: skip
    lines += [f"    for stage in tl.static_range({stages}):"]
    return lines + [f"        mbarrier.init({ring}.index(stage), count={count})"
                    for ring, count in names.items()]  # fmt: skip


POOL_OR_ADDRESS = [
    "    if not hasattr(pool, 'data_ptr'):",
    "        pool = Pool(pool if isinstance(pool, int) else 0)",
]
"""Lines of `blocks`: a kernel is launched with tensors, with addresses, and without either."""
