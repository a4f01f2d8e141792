"""Products that stream weights, as Gluon: a warp copies blocks of rows and of weights, and groups
of four warps multiply 64 rows each."""

from __future__ import annotations

from collections.abc import Callable

from ....ir.core import Operation, Value, walk
from ....ir.dialects.tile import extents_of
from ....ir.schedule import SWIZZLED, Schedule
from ....ir.types import shape_of
from ..chain import WAIT, in_order
from ..expressions import TRITON
from ..names import identifier
from .file import HEAD, POOL_OR_ADDRESS, SHARED, GluonFile, barriers, parts_layouts, rings
from .form import GROUP_ROWS, NoGluon
from .parts import Numbers, Part
from .slices import Slice
from .streamed_form import StreamedForm

_RINGS = ("rows_ring", "weights_ring", "blocks_there", "blocks_free")


class StreamedFile(GluonFile):
    """The file of a product whose weights are streamed."""

    def __init__(self, form: StreamedForm, schedule: Schedule) -> None:
        self.form = form
        if schedule.num_stages < 2:
            problem = "a ring of one block, which is let go of a round after it is read"
            raise NoGluon(kernel=form.kernel["name"].name, problem=problem)
        numbers = [value.name for op in form.kernel.regions[0].operations if not op.regions
                   for value in op.results if not extents_of(value.type)]  # fmt: skip
        super().__init__(form.kernel, schedule, form.groups, form.dtype, numbers)

    def lines(self) -> list[str]:
        """Return the file's lines."""
        form, top = self.form, self.kernel.regions[0].operations
        loads = (form.left, *form.weights)
        stores = [op for op in walk(top) if op.name == "tile.store"]
        there = [*self.numbers, *(load.result.name for load in loads)]
        places = [value for load in loads for value in _place(load)]
        kept = Slice(self.kernel, (), there, [*stores, form.loop])
        computed = StreamedComputer(form, self.schedule, kept, GROUP_ROWS).function_lines()
        copies = Slice(self.kernel, places, self.numbers, [form.loop])
        copied = StreamedCopier(form, self.schedule, copies, form.lanes).function_lines()
        computes = self.wanted(computed, (*_RINGS, "warp_group"))
        takes = self.wanted(copied, _RINGS)
        functions = [*self.function("compute", computes, computed),
                     *self.function("copy", takes, copied)]  # fmt: skip
        body = [*functions, *self.kernel_head(), *self._prologue({*computes, *takes}),
                *self.specialised(computes, takes)]  # fmt: skip
        body = [line.replace("tl.extra.", "extra.") for line in body]
        head = [f'"""Gluon form of @{self.name}, emitted by weft."""', HEAD, SHARED]
        return [*head, *parts_layouts([form.keys]), *body, *self._launch(), ""]

    def _prologue(self, used: set[str]) -> list[str]:
        """Return the kernel's own lines: numbers, and rings of blocks."""
        form, stages, dtype = self.form, self.schedule.num_stages, TRITON[self.form.dtype]
        roots = [form.makers[name].results[0] for name in self.numbers if identifier(name) in used]
        part = Part(form, self.schedule, Slice(self.kernel, roots), form.lanes)
        ordered = in_order(self.kernel, self.schedule)
        lines = part.written([each for each in ordered if each != WAIT or not _waits(self)])
        halves = len(form.weights)
        lines += rings([("rows_ring", f"{GROUP_ROWS}, {SWIZZLED}")], dtype, stages * form.groups)
        lines += rings([("weights_ring", f"{form.keys}, {SWIZZLED}")], dtype, stages * halves)
        lines += barriers({"blocks_there": 1, "blocks_free": form.groups}, stages)
        return [*lines, "    fence_async_shared()"]

    def _launch(self) -> list[str]:
        blocks = [
            "def blocks(pool, rows, width, block):",
            '    """Return what copies of blocks of rows are told of a pool."""',
            *POOL_OR_ADDRESS,
            f"    return TensorDescriptor(pool, [rows, width], [width, 1], [block, {SWIZZLED}], "
            "SHARED.value)",
        ]
        return self.launch([self._given(value) for value in self.arguments], blocks)

    def _given(self, value: Value) -> str:
        form, name = self.form, identifier(value.name)
        sizes = {form.left.operands[0].name: GROUP_ROWS,
                 **{load.operands[0].name: form.piece for load in form.weights}}  # fmt: skip
        if value.name not in sizes:
            return name
        *outer, width = (getattr(extent, "name", extent) for extent in shape_of(value.type))
        rows = " * ".join(map(str, outer))
        return f"blocks({name}, {rows}, {width}, {sizes[value.name]})"


class StreamedCopier(Numbers[StreamedForm]):
    """The warp that copies: of tiles of places it has the first ones."""

    def _for(self, operation: Operation) -> None:
        low, high = (identifier(value.name) for value in operation.operands[:2])
        if not _waits(self):
            self._rounds(operation, low, high, self._copy_both)
            return
        step = self.schedule.num_stages * operation.attribute("step", 1)
        self._line(f"ring_filled = tl.minimum({low} + {step}, {high})")
        self._rounds(operation, low, "ring_filled", self._copy_weights)
        self._line(WAIT)
        self._line("ring_turn = 0")
        self._rounds(operation, low, "ring_filled", self._copy_rows)
        self._rounds(operation, "ring_filled", high, self._copy_both)

    def _rounds(self, loop: Operation, low: str, high: str, body: Callable[[], None]) -> None:
        """Write a loop over some of the rounds, whose numbers go on."""
        (region,) = loop.regions
        index = identifier(region.arguments[0].name)
        self._line(f"for {index} in range({low}, {high}, {loop.attribute('step', 1)}):")
        self.indent += "    "
        self._block(region.operations)
        self._line(f"ring_at = ring_turn % {self.schedule.num_stages}")
        body()
        self._line("ring_turn += 1")
        self.indent = self.indent[4:]

    def _copy_both(self) -> None:
        stages = self.schedule.num_stages
        self._line(f"mbarrier.wait(blocks_free.index(ring_at), ((ring_turn // {stages}) & 1) ^ 1)")
        self._copy_weights()
        self._copy_rows()

    def _copy_weights(self) -> None:
        """Write the copies of a round's weights, and what its copies come to."""
        form, halves = self.form, len(self.form.weights)
        size = (form.lanes + halves * form.own) * SWIZZLED * 2
        self._line(f"mbarrier.expect(blocks_there.index(ring_at), {size})")
        for half, load in enumerate(form.weights):
            ring = f"weights_ring.index(ring_at * {halves} + {half})"
            for at in range(0, form.own, form.piece):
                into = ring if form.piece == form.keys else f"{ring}.slice({at}, {form.piece})"
                self._copy_to(load, at, into)

    def _copy_rows(self) -> None:
        for group in range(self.form.groups):
            into = f"rows_ring.index(ring_at * {self.form.groups} + {group})"
            self._copy_to(self.form.left, group * GROUP_ROWS, into)

    def _load(self, operation: Operation) -> None:
        """Copied at a round's end."""

    def _dot(self, operation: Operation) -> None:
        """The others'."""

    def _copy_to(self, load: Operation, more: int, into: str) -> None:
        """Write a copy of rows, from `more` behind the first on."""
        around, self._now = self._now, self._numbers[id(load)]
        (*outer, row, depth), dims = _place(load), shape_of(load.operands[0].type)
        terms = [f"{identifier(value.name)} * {extent}"
                 for value, extent in zip(outer, dims[1:], strict=False)]  # fmt: skip
        first = " + ".join([*terms, identifier(row.name), *([str(more)] if more else [])])
        self._line(f"copied({identifier(load.operands[0].name)}, [{first}, "
                   f"{identifier(depth.name)}], blocks_there.index(ring_at), {into})")  # fmt: skip
        self._now = around


class StreamedComputer(Part[StreamedForm]):
    """A group of warps that multiplies: what it lets go of is what the round before has read."""

    def _layout(self, columns: int) -> str:
        return f"PART_{columns}"

    def _for(self, operation: Operation) -> None:
        form, stages, (region,) = self.form, self.schedule.num_stages, operation.regions
        sums = region.arguments[1:]
        dots = ", ".join(identifier(dot.result.name) for dot in form.dots)
        self._line("ring_turn = 0")

        def body() -> None:
            self._line(f"ring_at = ring_turn % {stages}")
            self._line("mbarrier.wait(blocks_there.index(ring_at), "
                       f"(ring_turn // {stages}) & 1)")  # fmt: skip
            self._line(f"asked_rows = rows_ring.index(ring_at * {form.groups} + warp_group)")
            for half, (dot, total) in enumerate(zip(form.dots, sums, strict=True)):
                self._begun(dot, half, total)
            self._line(f"{dots} = warpgroup_mma_wait({len(form.dots)}, deps=[{dots}])")
            self._line(f"mbarrier.arrive(blocks_free.index((ring_turn + {stages - 1}) % {stages})"
                       ", count=1, pred=ring_turn > 0)")  # fmt: skip

        self._loop(operation, body, [("ring_turn", "ring_turn + 1")])
        ends = ", ".join(identifier(value.name) for value in operation.results)
        self._line(f"{ends} = warpgroup_mma_wait(0, deps=[{ends}])")

    def _begun(self, dot: Operation, half: int, total: Value) -> None:
        around, self._now = self._now, self._numbers[id(dot)]
        at = f"ring_at * {len(self.form.dots)} + {half}"
        self._line(f"{identifier(dot.result.name)} = warpgroup_mma(asked_rows, "
                   f"weights_ring.index({at}).permute([1, 0]), {identifier(total.name)}, "
                   "is_async=True)")  # fmt: skip
        self._now = around


def _waits(part: StreamedFile | StreamedCopier) -> bool:
    """Whether the copier waits for the kernel before, behind the copies of its first weights."""
    schedule = part.schedule
    return schedule.chained and not schedule.opens and part.form.given


def _place(load: Operation) -> tuple[Value, ...]:
    """Return where a load reads, an index an axis."""
    return tuple(load.operands[1 : 1 + len(shape_of(load.operands[0].type))])
