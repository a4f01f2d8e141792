"""Tile IR to Gluon: kernels whose warps have parts of their own, attention's and products'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ....ir.core import Operation, Value, walk
from ....ir.dialects.tile import extents_of
from ....ir.schedule import Schedule
from ....ir.types import shape_of
from ..chain import in_order
from ..expressions import TRITON
from ..names import identifier
from ..source import TritonSource
from .file import (
    HEAD,
    POOL_OR_ADDRESS,
    SHARED,
    WORD,
    GluonFile,
    barriers,
    parts_layouts,
    rings,
)  # fmt: skip
from .form import GROUP_ROWS, Form, form_of
from .parts import CLEARED, OF, Asker, Computer, Copier, Part
from .slices import Slice
from .streamed import StreamedFile
from .streamed_form import is_product, product_form

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
    file = (
        StreamedFile(product_form(kernel), schedule)
        if is_product(kernel)
        else _File(form_of(kernel), schedule)
    )
    for line in "\n".join(file.lines()).split("\n"):
        text, _, number = line.partition(OF)
        yield text, int(number or 0)


class _File(GluonFile):
    def __init__(self, form: Form, schedule: Schedule) -> None:
        self.form = form
        inside = {id(op) for each in form.rounds for op in each.loop.regions[0].operations}
        numbers = [value.name for op in walk(form.kernel.regions[0].operations)
                   if id(op) not in inside and not op.regions
                   for value in op.results if not extents_of(value.type)]  # fmt: skip
        super().__init__(form.kernel, schedule, form.groups, form.dtype, numbers)

    def lines(self) -> list[str]:
        """Return the file's lines."""
        form = self.form
        streamed = [load for each in form.rounds for load in each.loads]
        stores = [op for op in walk(self.kernel.regions[0].operations) if op.name == "tile.store"]
        loops = [each.loop for each in form.rounds]
        there = [*self.numbers, form.query.result.name, *(op.result.name for op in streamed)]
        asked = self._part(Asker, Slice(self.kernel, (), self.numbers, [form.query]))
        computed = self._part(Computer, Slice(self.kernel, (), there, [*stores, *loops]))
        takes = self.wanted(asked, ("asked_rows", "warp_group"))
        computed = ["asked_rows = query_rows.index(warp_group)",
                    f"{self.name}_ask({', '.join(takes)})", "fence_async_shared()",
                    *computed]  # fmt: skip
        used = {word for line in (*asked, *computed) for word in WORD.findall(line)}
        early = [name for name in self.numbers if identifier(name) in used or self._early(name)]
        places = [value for op in streamed for value in op.operands[1:4]]
        copied = self._part(Copier, Slice(self.kernel, places, early))
        bodies = {"ask": asked, "compute": computed, "copy": copied}
        wanted = {
            "ask": takes,
            "compute": self.wanted(computed, ("query_rows", "warp_group", *_RINGS, CLEARED)),
            "copy": self.wanted(copied, _RINGS, early),
        }
        functions = [line for name, body in bodies.items()
                     for line in self.function(name, wanted[name], body)]  # fmt: skip
        lines = self._prologue({n for names in wanted.values() for n in names}, wanted)
        body = [*functions, *self.kernel_head(), *lines]
        body = [line.replace("tl.extra.", "extra.") for line in body]
        head = [f'"""Gluon form of @{self.name}, emitted by weft."""', HEAD]
        return [*head, *self._layouts(body), *body, *self._launch(), ""]

    def _part(self, kind: type[Part], kept: Slice) -> list[str]:
        """Return the lines of a part's function."""
        return kind(self.form, self.schedule, kept, GROUP_ROWS).function_lines()

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
        lines += rings([(ring, block) for ring in _RINGS[:2]], dtype, stages)
        counts = {ring: form.groups if ring.endswith("free") else 1 for ring in _RINGS[2:]}
        lines += barriers(counts, stages)
        if CLEARED in wanted["compute"]:
            lines += barriers({CLEARED: 1}, 1)
        lines += [f"    values_ring.index(0).store(tl.full([{block}], 0.0, {dtype}, WHOLE))",
                  "    fence_async_shared()",
                  "    mbarrier.arrive(values_ring_there.index(0), count=1)"]  # fmt: skip
        return [*lines, *self.specialised(wanted["compute"], wanted["copy"])]

    def _layouts(self, body: Sequence[str]) -> list[str]:
        form = self.form
        columns = sorted({int(found) for line in body for found in re.findall(r"PART_(\d+)", line)})
        across = min(form.width // 8, 32)
        lines = [
            SHARED,
            f"WHOLE = tl.constexpr(tl.BlockedLayout([1, 8], [{32 // across}, {across}], "
            "[4, 1], [1, 0]))",
        ]
        return lines + parts_layouts(columns)

    def _launch(self) -> list[str]:
        width = self.form.width
        blocks = [
            "def blocks(pool, rows):",
            '    """Return what copies of blocks of rows are told of a pool."""',
            *POOL_OR_ADDRESS,
            f"    return TensorDescriptor(pool, [rows, {width}], [{width}, 1], "
            f"[{self.form.keys}, {width}], SHARED.value)",
        ]
        return self.launch([self._given(value) for value in self.arguments], blocks)

    def _given(self, value: Value) -> str:
        name = identifier(value.name)
        if value.name not in {pool.name for pool in self.form.pools}:
            return name
        pages, heads, rows, _ = shape_of(value.type)
        each = int(heads) * int(rows)  # type: ignore[arg-type]
        return f"blocks({name}, {getattr(pages, 'name', pages)} * {each})"
