"""The text of the parts that a kernel's warps have: those that compute, and the one that copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ....ir.core import Operation, Value, walk
from ....ir.schedule import Schedule
from ....ir.types import dtype_of, shape_of
from ..emitter import Emitter
from ..expressions import TRITON
from ..names import identifier
from .form import Form, NoGluon, Round, Split
from .slices import Slice

F = TypeVar("F", bound=Split)

OF = "\0"
"""Stands in a line before the number of the operation that it comes from."""

CLEARED = "rest_cleared"
"""The barrier of groups that share a block of values whose end one of them clears."""


class Part(Emitter, Generic[F]):
    """Writes those operations of a kernel that are `kept`, of so many rows of its tiles, in
    registers that lie as `WHOLE` says."""

    def __init__(self, form: F, schedule: Schedule, kept: Slice, rows: int) -> None:
        super().__init__(form.kernel, schedule)
        self.form, self.kept, self.rows = form, kept, rows
        self._numbers = {id(op): at for at, op in enumerate(walk((form.kernel,)))}
        self._now = 0

    def written(self, operations: Sequence[Operation | str] | None = None) -> list[str]:
        """Return the lines, without those of operations that are not kept."""
        self._block(operations or self.kernel.regions[0].operations)
        return self.lines

    def function_lines(self) -> list[str]:
        """Return the lines of a function of its own."""
        return [line.removeprefix("    ") for line in self.written()]

    def _block(self, operations: Sequence[Operation | str]) -> None:
        for operation in operations:
            if isinstance(operation, str):
                self._line(operation)
            elif id(operation) in self.kept.operations:
                self._one(operation)

    def _one(self, operation: Operation) -> None:
        method = getattr(self, "_" + operation.name.partition(".")[2])
        around, self._now = self._now, self._numbers[id(operation)]
        method(operation)
        self._now = around

    def _line(self, text: str) -> None:
        super()._line(f"{text}{OF}{self._now}")

    def _refuse(self, operation: Operation, problem: str) -> None:
        raise NoGluon(kernel=self.name, problem=problem, span=operation.span)

    # Layouts

    def _shape(self, value: Value) -> tuple[int, ...]:
        return tuple(self.rows if (value.name, at) in self.form.rows else extent
                     for at, extent in enumerate(super()._shape(value)))  # fmt: skip

    def _layout(self, columns: int) -> str:
        """Return the layout of a tile of so many columns."""
        return "WHOLE"

    def _lies(self, value: Value) -> str:
        """Return the layout of a value."""
        shape = self._shape(value)
        if len(shape) == 2:
            return self._layout(shape[1])
        if (value.name, 0) in self.form.rows:
            return f"tl.SliceLayout(1, {self._layout(self.form.keys)})"
        return f"tl.SliceLayout(0, {self._layout(shape[0])})"

    def _at(self, value: Value, shape: Sequence[int]) -> str:
        maker = self.form.makers.get(value.name)
        if maker is None or maker.name != "tile.expand":
            return super()._at(value, shape)
        (inner,), axis = maker.operands, maker["axis"]
        text, layout = identifier(inner.name), f"tl.SliceLayout({axis}, {self._layout(shape[1])})"
        if self._lies(inner) != layout:
            text = f"tl.convert_layout({text}, {layout})"
        return f"tl.expand_dims({text}, {axis})"

    def _mask(self, mask: Value | None, dims: Sequence[int], shape: Sequence[int]) -> str:
        return super()._mask(mask, shape, shape)

    # Operations that lie in a layout

    def _full(self, operation: Operation) -> None:
        result, value = operation.result, operation["value"]
        shape = list(self._shape(result))
        if not shape:
            self._set(result, f"tl.to_tensor({value!r})")
            return
        dtype = TRITON[dtype_of(result.type)]
        self._set(result, f"tl.full({shape!r}, {value!r}, {dtype}, {self._lies(result)})")

    def _iota(self, operation: Operation) -> None:
        result = operation.result
        text = f"tl.arange(0, {self._shape(result)[0]}, {self._lies(result)})"
        if (result.name, 0) in self.form.rows and self.rows < self.form.lanes:
            text += f" + warp_group * {self.rows}"
        self._set(result, text)

    def _expand(self, operation: Operation) -> None:
        """Written where it is used, in the layout that it meets there."""
        if not self._shape(operation.operands[0]):
            self._refuse(operation, "a number along an axis")

    def _map(self, operation: Operation) -> None:
        shape = self._shape(operation.result)
        if len(shape) > 2 or (len(shape) == 2 and 1 in shape):
            self._refuse(operation, f"a tile of {list(shape)}")
        super()._map(operation)

    def _dot(self, operation: Operation) -> None:
        self._refuse(operation, "a number that comes of its loops")

    def _for(self, operation: Operation) -> None:
        self._loop(operation, lambda: self._block(operation.regions[0].operations))

    def _loop(
        self, loop: Operation, body: Callable[[], None], last: Sequence[tuple[str, str]] = ()
    ) -> None:  # fmt: skip
        """Write a loop that carries what is kept, and at a round's end sets names as `last`."""
        low, high, *starts = loop.operands
        (region,), carried = loop.regions, self.kept.carried(loop)
        index, *arguments = region.arguments
        for at in carried:
            self._set(arguments[at], identifier(starts[at].name))
        bounds = f"{identifier(low.name)}, {identifier(high.name)}, {loop.attribute('step', 1)}"
        self._line(f"for {identifier(index.name)} in range({bounds}):")
        self.indent += "    "
        body()
        given = dict(last)
        ends = {identifier(arguments[at].name): identifier(region.operations[-1].operands[at].name)
                for at in carried} | given  # fmt: skip
        if ends:
            self._line(f"{', '.join(ends)} = {', '.join(ends.values())}")
        self.indent = self.indent[4:]
        for at in carried:
            self._set(loop.results[at], identifier(arguments[at].name))


class Numbers(Part[F]):
    """A warp that has numbers only, and of tiles of places the first one's: it copies blocks."""

    def _shape(self, value: Value) -> tuple[int, ...]:
        return ()

    def _iota(self, operation: Operation) -> None:
        self._set(operation.result, "tl.to_tensor(0)")

    def _expand(self, operation: Operation) -> None:
        self._set(operation.result, identifier(operation.operands[0].name))

    def written(self, operations: Sequence[Operation | str] | None = None) -> list[str]:
        """Return the lines."""
        self._line("ring_turn = 0")
        return super().written(operations)


class Copier(Numbers[Form]):
    """The warp that copies blocks of keys and values."""

    def _for(self, operation: Operation) -> None:
        found = [each for each in self.form.rounds if each.loop is operation]
        if not found:
            super()._for(operation)
            return

        def body() -> None:
            self._block(operation.regions[0].operations)
            for load, ring, late in zip(
                found[0].loads, ("keys_ring", "values_ring"), (0, 1), strict=True
            ):
                self._copy(load, ring, late)

        self._loop(operation, body, [("ring_turn", "ring_turn + 1")])

    def _load(self, operation: Operation) -> None:
        if any(operation is load for each in self.form.rounds for load in each.loads):
            return
        super()._load(operation)

    def _copy(self, load: Operation, ring: str, late: int) -> None:
        """Write the copy of a block to the place of a ring that is free next."""
        pool, page, head, row = load.operands[:4]
        _, heads, rows, _ = shape_of(pool.type)
        stages, form = self.schedule.num_stages, self.form
        entry = "ring_turn + 1" if late else "ring_turn"
        first = (f"({identifier(page.name)} * {heads} + {identifier(head.name)}) * {rows} + "
                 f"{identifier(row.name)}")  # fmt: skip
        size = form.keys * form.width * 2
        self._line(f"{ring}_at = ({entry}) % {stages}")
        self._line(f"mbarrier.wait({ring}_free.index({ring}_at), "
                   f"((({entry}) // {stages}) & 1) ^ 1)")  # fmt: skip
        self._line(f"mbarrier.expect({ring}_there.index({ring}_at), {size})")
        self._line(f"copied({identifier(pool.name)}, [{first}, 0], "
                   f"{ring}_there.index({ring}_at), {ring}.index({ring}_at))")  # fmt: skip


class Computer(Part[Form]):
    """A group of warps that computes: it waits for blocks, and has results as products leave them.

    Of the ring of values a round reads the block before: first one of zeros.
    """

    def _layout(self, columns: int) -> str:
        return f"PART_{columns}"

    def _for(self, operation: Operation) -> None:
        rounds = self.form.rounds
        found = [each for each in rounds if each.loop is operation]
        if not found:
            super()._for(operation)
            return
        (now,) = found
        if now is rounds[0]:
            width, dtype = self.form.width, TRITON[self.form.dtype]
            self._line("ring_turn = 0")
            self._line(f"block_behind = {identifier(operation.operands[0].name)} - "
                       f"{self.form.keys}")  # fmt: skip
            self._line(f"weights_behind = tl.full([{self.rows}, {self.form.keys}], 0.0, {dtype}, "
                       f"tl.DotOperandLayout(0, PART_{width}, 2))")  # fmt: skip
        sums = identifier(operation.regions[0].arguments[1 + now.sums].name)
        last = [(sums, identifier(now.dots[1].operands[2].name)), ("ring_turn", "ring_turn + 1"),
                ("block_behind", identifier(operation.regions[0].arguments[0].name))]  # fmt: skip
        self._loop(operation, lambda: self._round(now), last)
        if now is rounds[-1]:
            self._ended(now)

    def _round(self, now: Round) -> None:
        (region,) = now.loop.regions
        sums = region.arguments[1 + now.sums]
        operations = [op for op in region.operations[:-1]
                      if id(op) in self.kept.operations]  # fmt: skip
        waited, around = False, self._now
        for at, operation in enumerate(operations):
            self._now = self._numbers[id(operation)]
            if not waited and any(v.name == sums.name for v in operation.operands):
                self._waited(now, operations[:at], operations[at:])
                waited = True
            if operation is now.dots[0]:
                self._begun(operation, sums)
            elif operation is now.dots[1]:
                left = identifier(operation.operands[0].name)
                self._line(f"weights_behind = tl.convert_layout({left}, "
                           f"tl.DotOperandLayout(0, PART_{self.form.width}, 2))")  # fmt: skip
            else:
                self._one(operation)
        self._now = around

    def _begun(self, dot: Operation, sums: Value) -> None:
        """Write the product with keys, behind it that of the round before."""
        scores, blank = identifier(dot.result.name), identifier(dot.operands[2].name)
        acc = identifier(sums.name)
        self._line(f"ring_at = ring_turn % {self.schedule.num_stages}")
        self._line(f"ring_phase = (ring_turn // {self.schedule.num_stages}) & 1")
        self._line("mbarrier.wait(keys_ring_there.index(ring_at), ring_phase)")
        self._line(f"{scores} = warpgroup_mma(asked_rows, keys_ring.index(ring_at).permute([1, 0])"
                   f", {blank}, use_acc=False, is_async=True)")  # fmt: skip
        self._line("mbarrier.wait(values_ring_there.index(ring_at), ring_phase)")
        self._line(f"{acc} = warpgroup_mma(weights_behind, values_ring.index(ring_at), {acc}, "
                   "is_async=True)")  # fmt: skip
        self._line(f"{scores} = warpgroup_mma_wait(1, deps=[{scores}])")
        self._line("mbarrier.arrive(keys_ring_free.index(ring_at), count=1)")

    def _waited(
        self, now: Round, done: Sequence[Operation], left: Sequence[Operation]
    ) -> None:  # fmt: skip
        """Write the wait for the product behind; what was computed meanwhile comes before it."""
        ends = now.loop.regions[0].operations[-1]
        used = {self._inner(value) for op in (*left, ends) for value in op.operands}
        made = [identifier(op.result.name) for op in done
                if op.name not in ("tile.expand", "tile.full") and op.result.name in used
                and self._shape(op.result)]  # fmt: skip
        sums = now.loop.regions[0].arguments[1 + now.sums]
        names = ", ".join([identifier(sums.name), *made])
        self._line(f"{names} = warpgroup_mma_wait(0, deps=[{names}])")
        self._line("mbarrier.arrive(values_ring_free.index(ring_at), count=1)")

    def _inner(self, value: Value) -> str:
        maker = self.form.makers.get(value.name)
        return maker.operands[0].name if maker and maker.name == "tile.expand" else value.name

    def _ended(self, now: Round) -> None:
        """Write the last round's second product; rows past the end of its block become zeros."""
        acc, form = identifier(now.loop.results[now.sums].name), self.form
        end = identifier(now.loop.operands[1].name)
        self._line(f"ring_at = ring_turn % {self.schedule.num_stages}")
        self._line(f"mbarrier.wait(values_ring_there.index(ring_at), "
                   f"(ring_turn // {self.schedule.num_stages}) & 1)")  # fmt: skip
        if now.loads[1].attribute("masked"):
            self._line(f"if block_behind + {form.keys} > {end}:")
            for line in self._cleared(end):
                self._line(f"    {line}")
        self._line(f"{acc} = warpgroup_mma(weights_behind, values_ring.index(ring_at), {acc}, "
                   "is_async=True)")  # fmt: skip
        self._line(f"{acc} = warpgroup_mma_wait(0, deps=[{acc}])")

    def _cleared(self, end: str) -> list[str]:
        """Return lines that make zeros of the rows of a block past an end: one group does it, the
        others wait for that one."""
        rows = f"tl.arange(0, {self.form.keys}, tl.SliceLayout(1, WHOLE))"
        lines = [
            f"inside_block = tl.expand_dims({rows} + block_behind < {end}, 1)",
            "rest = values_ring.index(ring_at).load(WHOLE)",
            "values_ring.index(ring_at).store(tl.where(inside_block, rest, 0.0))",
            "fence_async_shared()",
        ]
        if self.form.groups == 1:
            return lines
        lines.append(f"mbarrier.arrive({CLEARED}.index(0), count=1)")
        return [f"if warp_group == {self.form.groups - 1}:", *(f"    {line}" for line in lines),
                "else:", f"    mbarrier.wait({CLEARED}.index(0), 0)"]  # fmt: skip

    def _reduce(self, operation: Operation) -> None:
        if (operation.operands[0].name, operation["axis"]) in self.form.rows:
            self._refuse(operation, "what all rows of a tile come to, which a store needs")
        super()._reduce(operation)


class Asker(Part[Form]):
    """The load of a group's rows, to shared memory."""

    def _load(self, operation: Operation) -> None:
        super()._load(operation)
        if operation is self.form.query:
            self._line(f"asked_rows.store({identifier(operation.result.name)})")
