"""Tile IR to Gluon: kernels of attention whose warps have parts of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ....ir.core import Operation, Value, walk
from ....ir.expression import read
from ....ir.schedule import Schedule
from ....ir.tile import extents_of
from ....ir.types import shape_of
from ..chain import in_order
from ..expressions import TRITON, HostWriter
from ..names import identifier
from ..source import TritonSource, launch_options
from .form import GROUP_ROWS, Form, form_of
from .parts import OF, Asker, Computer, Copier, Part
from .slices import Slice

COPIER_REGISTERS = 24
"""Registers a thread of the warp that copies."""

_HEAD = """import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as tl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language import extra

copied = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
"""
_WORD = re.compile(r"[A-Za-z_]\w*")
_RINGS = ("keys_ring", "values_ring", "keys_ring_there", "values_ring_there", "keys_ring_free",
          "values_ring_free")  # fmt: skip


def emit_gluon(kernel: Operation, schedule: Schedule) -> TritonSource:
    """Return the Gluon file of a kernel: `launch(*arguments)`, as a Triton file has it, and
    `described(*arguments)`, what the function takes in their place. Raises NoGluon."""
    lines = (text for text, _ in gluon_lines(kernel, schedule))
    return TritonSource(kernel["name"].name, "\n".join(lines))


def gluon_lines(kernel: Operation, schedule: Schedule) -> Iterator[tuple[str, int]]:
    """Yield the lines of the same file, each with the number of the operation that it comes from
    (see `ir.core.walk`); 0: none."""
    for line in "\n".join(_File(form_of(kernel), schedule).lines()).split("\n"):
        text, _, number = line.partition(OF)
        yield text, int(number or 0)


class _File:
    def __init__(self, form: Form, schedule: Schedule) -> None:
        self.form, self.schedule, self.kernel = form, schedule, form.kernel
        self.name = form.kernel["name"].name
        self.arguments = form.kernel.regions[0].arguments
        inside = {id(op) for each in form.rounds for op in each.loop.regions[0].operations}
        self.numbers = [value.name for op in walk(self.kernel.regions[0].operations)
                        if id(op) not in inside and not op.regions
                        for value in op.results if not extents_of(value.type)]  # fmt: skip

    def lines(self) -> list[str]:
        """Return the file's lines."""
        form = self.form
        streamed = [load for each in form.rounds for load in each.loads]
        stores = [op for op in walk(self.kernel.regions[0].operations) if op.name == "tile.store"]
        loops = [each.loop for each in form.rounds]
        there = [*self.numbers, form.query.result.name, *(op.result.name for op in streamed)]
        asked = self._part(Asker, Slice(self.kernel, (), self.numbers, [form.query]))
        computed = self._part(Computer, Slice(self.kernel, (), there, [*stores, *loops]))
        takes = self._wanted(asked, ("asked_rows", "warp_group"))
        computed = ["asked_rows = query_rows.index(warp_group)",
                    f"{self.name}_ask({', '.join(takes)})", "fence_async_shared()",
                    *computed]  # fmt: skip
        used = {word for line in (*asked, *computed) for word in _WORD.findall(line)}
        early = [name for name in self.numbers if identifier(name) in used or self._early(name)]
        places = [value for op in streamed for value in op.operands[1:4]]
        copied = self._part(Copier, Slice(self.kernel, places, early))
        bodies = {"ask": asked, "compute": computed, "copy": copied}
        wanted = {
            "ask": takes,
            "compute": self._wanted(computed, ("query_rows", "warp_group", *_RINGS)),
            "copy": self._wanted(copied, _RINGS, early),
        }
        functions = []
        for name, body in bodies.items():
            functions += ["\n", "@gluon.jit",
                          f"def {self.name}_{name}({', '.join(wanted[name])}):",
                          *(f"    {line}" for line in body)]  # fmt: skip
        lines = self._prologue({n for names in wanted.values() for n in names}, wanted)
        body = [*functions, "\n", self._jit(), f"def {self.name}({self._names()}):", *lines]
        body = [line.replace("tl.extra.", "extra.") for line in body]
        head = [f'"""Gluon form of @{self.name}, emitted by weft."""', _HEAD]
        return [*head, *self._layouts(body), *body, *self._launch(), ""]

    def _part(self, kind: type[Part], kept: Slice) -> list[str]:
        """Return the lines of a part's function."""
        lines = kind(self.form, self.schedule, kept, GROUP_ROWS).written()
        return [line.removeprefix("    ") for line in lines]

    def _early(self, name: str) -> bool:
        """Whether a number that one part alone needs is there before the parts begin: one that
        needs two loads, one after another, the other parts do not wait for."""

        def loads(names: Iterable[str]) -> list[Operation]:
            needed = Slice(self.kernel, [makers[each].results[0] for each in names])
            return [
                op for op in walk(outer) if op.name == "tile.load" and id(op) in needed.operations
            ]

        makers, outer = self.form.makers, self.kernel.regions[0].operations
        twice = (loads(v.name for v in op.operands[1:] if v.name in makers) for op in loads([name]))
        return any(op is makers[name] for op in outer) and not any(twice)

    def _names(self) -> str:
        return ", ".join(identifier(value.name) for value in self.arguments)

    def _jit(self) -> str:
        scalars = [identifier(v.name) for v in self.arguments if v.type.name != "buffer"]
        return f"@gluon.jit(do_not_specialize={scalars!r})"

    def _wanted(
        self, lines: Sequence[str], more: Sequence[str], numbers: Sequence[str] | None = None
    ) -> list[str]:  # fmt: skip
        """Return what a function of some lines takes, of the kernel's numbers these (None: any)."""
        words = {word for line in lines for word in _WORD.findall(line)}
        known = [identifier(value.name) for value in self.arguments]
        known += [identifier(name) for name in (self.numbers if numbers is None else numbers)]
        return [name for name in dict.fromkeys([*known, *more]) if name in words]

    def _prologue(self, used: set[str], wanted: dict[str, list[str]]) -> list[str]:
        """Return the kernel's own lines: what all parts need, and their start."""
        form, stages = self.form, self.schedule.num_stages
        roots = [form.makers[name].results[0] for name in self.numbers if identifier(name) in used]
        part = Part(form, self.schedule, Slice(self.kernel, roots), form.lanes)
        outer = {id(op) for op in self.kernel.regions[0].operations}
        escaping = [value for value in roots if id(form.makers[value.name]) not in outer]
        lines = [f"    {identifier(value.name)} = tl.to_tensor(0)" for value in escaping]
        lines += part.written(list(in_order(self.kernel, self.schedule)))
        dtype, block = TRITON[form.dtype], f"{form.keys}, {form.width}"
        shape = [form.groups, GROUP_ROWS, form.width]
        lines += [f"    query_rows = tl.allocate_shared_memory({dtype}, {shape!r}, SHARED)"]
        lines += [f"    {ring} = tl.allocate_shared_memory({dtype}, [{stages}, {block}], SHARED)"
                  for ring in _RINGS[:2]]  # fmt: skip
        lines += [f"    {ring} = tl.allocate_shared_memory(tl.int64, [{stages}, 1], "
                  "mbarrier.MBarrierLayout())" for ring in _RINGS[2:]]  # fmt: skip
        lines += [f"    for stage in tl.static_range({stages}):"]
        counts = {ring: form.groups if ring.endswith("free") else 1 for ring in _RINGS[2:]}
        lines += [f"        mbarrier.init({ring}.index(stage), count={count})"
                  for ring, count in counts.items()]  # fmt: skip
        lines += [f"    values_ring.index(0).store(tl.full([{block}], 0.0, {dtype}, WHOLE))",
                  "    fence_async_shared()",
                  "    mbarrier.arrive(values_ring_there.index(0), count=1)"]  # fmt: skip
        calls = []
        for group in range(form.groups):
            names = ", ".join(str(group) if name == "warp_group" else name
                              for name in wanted["compute"])  # fmt: skip
            calls += [f"        ({self.name}_compute, ({names})),"]
        calls += [f"        ({self.name}_copy, ({', '.join(wanted['copy'])})),"]
        warps = [4] * (form.groups - 1) + [1]
        registers = [self._registers()] * (form.groups - 1) + [COPIER_REGISTERS]
        return [*lines, "    tl.warp_specialize([", *calls, f"    ], {warps}, {registers})"]

    def _registers(self) -> int:
        """Return the registers a thread that computes may have: those of the copier's group, but
        for its own, are theirs."""
        threads = 128 * (self.form.groups + 1)
        most = (self.schedule.specialised or 65536 // threads // 8 * 8) * threads
        return min((most - 128 * COPIER_REGISTERS) // (threads - 128) // 8 * 8, 240)

    def _layouts(self, body: Sequence[str]) -> list[str]:
        form = self.form
        columns = sorted({int(found) for line in body for found in re.findall(r"PART_(\d+)", line)})
        across = min(form.width // 8, 32)
        lines = [
            "SHARED = tl.constexpr(tl.NVMMASharedLayout("
            "swizzle_byte_width=128, element_bitwidth=16, rank=2))",
            f"WHOLE = tl.constexpr(tl.BlockedLayout([1, 8], [{32 // across}, {across}], "
            "[4, 1], [1, 0]))",
        ]
        return lines + [f"PART_{n} = tl.constexpr(tl.NVMMADistributedLayout("
                        f"version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, {n}, 16]))"
                        for n in columns]  # fmt: skip

    def _launch(self) -> list[str]:
        names = self._names()
        extents = [read(extent, HostWriter()) for extent in self.kernel["grid"]]
        grid = ", ".join(extents) + ("," if len(extents) == 1 else "")
        given = ", ".join(self._given(value) for value in self.arguments)
        options = ", ".join(f"{k}={v!r}" for k, v in launch_options(self.schedule).items())
        return [
            "\n", f"def grid({names}):\n    return ({grid})",
            "\n", "class Pool:",
            '    """A pool of pages at an address."""',
            f'    dtype = "{TRITON[self.form.dtype].removeprefix("tl.")}"', "",
            "    def __init__(self, address):", "        self.address = address", "",
            "    def data_ptr(self):", "        return self.address",
            "\n", "def blocks(pool, rows):",
            '    """Return what copies of blocks of rows are told of a pool."""',
            "    if not hasattr(pool, 'data_ptr'):",
            "        pool = Pool(pool if isinstance(pool, int) else 0)",
            f"    return TensorDescriptor(pool, [rows, {self.form.width}], [{self.form.width}, 1], "
            f"[{self.form.keys}, {self.form.width}], SHARED.value)",
            "\n", f"def described({names}):",
            '    """Return what the kernel takes in place of some arguments."""',
            f"    return {given}",
            "\n", f"def launch({names}):", f'    """Run @{self.name} over its grid."""',
            f"    programs = grid({names})", "    if min(programs) > 0:",
            f"        return {self.name}[programs](*described({names}), {options})",
        ]  # fmt: skip

    def _given(self, value: Value) -> str:
        name = identifier(value.name)
        if value.name not in {pool.name for pool in self.form.pools}:
            return name
        pages, heads, rows, _ = shape_of(value.type)
        each = int(heads) * int(rows)  # type: ignore[arg-type]
        return f"blocks({name}, {getattr(pages, 'name', pages)} * {each})"
