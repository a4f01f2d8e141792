"""What of a product's kernel becomes which warps' work: one loop that streams weights beside rows.

Blocks of both are copied by a warp of its own; groups of four warps, each with 64 of the rows, wait
for them and multiply. A round's products run while the next round's are begun.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from ....ir.core import Operation, Value, walk
from ....ir.dialects.tile import extents_of
from ....ir.schedule import SWIZZLED
from ....ir.types import dtype_of, shape_of
from ..shapes import axes_of, padded_shapes
from .form import GROUP_ROWS, WRITTEN, NoGluon, Split, has_own_names

ATOM = 8
"""Rows that lie together in a swizzled block: copies begin at their multiples."""

_PLUS = re.compile(r"a \+ \d+")
_INSIDE = re.compile(r"a < (\d+)")


@dataclass(frozen=True)
class StreamedForm(Split):
    """A kernel's loop, what it loads and multiplies: the same rows by blocks of weights."""

    loop: Operation
    left: Operation
    weights: tuple[Operation, ...]
    dots: tuple[Operation, ...]

    @property
    def own(self) -> int:
        """Columns whose weights are read: those of a block, or fewer."""
        load = self.weights[0]
        if not load.attribute("masked"):
            return self.keys
        inside = self.makers[self.makers[load.operands[-1].name].operands[0].name]
        found = _INSIDE.fullmatch(inside["expr"])
        assert found is not None
        return int(found[1])

    @property
    def given(self) -> bool:
        """Whether all weights were there before the step."""
        given = self.kernel.attribute("given") or ()
        return all(load.operands[0].name in given for load in self.weights)

    @property
    def piece(self) -> int:
        """Rows of a copy of weights: a power of two that these columns are made of."""
        return self.own & -self.own

    @property
    def dtype(self) -> str:
        """What is multiplied."""
        return dtype_of(self.left.result.type)


def is_product(kernel: Operation) -> bool:
    """Whether a kernel's only loop adds up products by transposed blocks, as those of weights."""
    loops = [op for op in walk(kernel.regions[0].operations) if op.regions]
    inside = [op for loop in loops for op in loop.regions[0].operations]
    dots = [op for op in inside if op.name == "tile.dot"]
    return len(loops) == 1 and bool(dots) and all(dot.attribute("transpose_b") for dot in dots)


def product_form(kernel: Operation) -> StreamedForm:
    """Return how a product's kernel is split among warps; raises NoGluon."""
    return _Reader(kernel).form()


class _Reader:
    def __init__(self, kernel: Operation) -> None:
        self.kernel = kernel
        self.operations = list(walk(kernel.regions[0].operations))
        self.makers = {value.name: op for op in self.operations for value in op.results}

    def form(self) -> StreamedForm:
        loops = [op for op in self.operations if op.regions]
        loads = [op for op in self.operations if op.name == "tile.load"]
        self._need(len(loops) == 1, f"{len(loops)} loops, not a product's one")
        self._check_plain()
        (region,), starts = loops[0].regions, loops[0].operands[2:]
        dots = tuple(op for op in region.operations if op.name == "tile.dot")
        sums = [value.name for value in region.arguments[1:]]
        added = [dot.operands[2].name for dot in dots]
        given = [value.name for value in region.operations[-1].operands]
        summed = added == sums and given == [dot.result.name for dot in dots]
        self._need(bool(dots and starts) and summed, "a loop that carries more than its products")
        left = self.makers.get(dots[0].operands[0].name)
        weights = tuple(self.makers.get(dot.operands[1].name) for dot in dots)
        same = {dot.operands[0].name for dot in dots} == {dots[0].operands[0].name}
        self._need(same, "products of different rows")
        self._need(all(dot.attribute("transpose_b") for dot in dots), "weights that lie by columns")
        here = left is not None and None not in weights and len(loads) == 1 + len(weights)
        inside = here and self._inside(region.operations, (left, *weights))
        if left is None or not inside:
            self._refuse("a loop that does more than load blocks, count and multiply")
        rows = axes_of(self.kernel, (dots[0].result.name, 0))
        form = StreamedForm(self.kernel, rows, self.makers, dots[0], loops[0], left,
                            tuple(filter(None, weights)), dots)  # fmt: skip
        self._check(form)
        return form

    def _need(self, true: bool, problem: str) -> None:
        if not true:
            self._refuse(problem)

    def _refuse(self, problem: str) -> NoReturn:
        raise NoGluon(kernel=self.kernel["name"].name, problem=problem, span=self.kernel.span)

    def _check_plain(self) -> None:
        """Refuse other operations than a product's, tiles that are padded, and names of the text's
        own. Nothing is reduced: rows are other groups' too, and columns may be unread."""
        for op in self.operations:
            self._need(op.name in WRITTEN and op.name != "tile.reduce", op.name)
        shapes = padded_shapes(self.kernel)
        values = [value for op in self.operations for value in op.results]
        whole = all(shapes.get(v.name, ()) == tuple(extents_of(v.type)) for v in values)
        self._need(whole, "tiles that are padded")
        self._need(not has_own_names(self.kernel), "names that its own text has")

    @staticmethod
    def _inside(operations: Sequence[Operation], loads: Sequence[Operation | None]) -> bool:
        """Whether a loop loads these, and besides only counts and multiplies."""
        allowed = ("tile.iota", "tile.map", "tile.expand", "tile.dot", "tile.yield")
        others = [op for op in operations if all(op is not load for load in loads)]
        return len(operations) - len(others) == len(loads) and all(
            op.name in allowed for op in others
        )

    def _check(self, form: StreamedForm) -> None:
        shapes = {tuple(extents_of(dot.result.type)) for dot in form.dots}
        x = shape_of(form.left.operands[0].type)
        depth = extents_of(form.left.result.type)[1]
        formats = {dtype_of(load.operands[0].type) for load in (form.left, *form.weights)}
        self._need(formats == {"bf16"}, f"products of {' and '.join(sorted(formats))}")
        sizes = form.lanes % GROUP_ROWS == 0 and form.groups in (1, 2) and form.keys in (64, 128)
        if not sizes or len(shapes) != 1 or depth != SWIZZLED:
            self._refuse(f"products of {form.lanes} rows, {form.keys} columns, {depth} deep")
        rows = form.left.operands
        counted = len(x) == 2 and self._counts(rows[1], 1) and self._counts(rows[2], 0)
        self._need(counted, "rows that are not read one after another")
        self._need(self._live(form.left), "rows that are masked otherwise than past the end")
        streamed = all(map(self._streamed, form.weights))
        self._need(streamed, "weights that are not whole rows, one after another")
        parts = {self._columns(load) for load in form.weights}
        fits = len(parts) == 1 and form.own <= form.keys and form.own % ATOM == 0
        self._need(fits, f"weights of {form.own} columns")
        own = all(map(self._stores_own, form.weights))
        self._need(own, "columns that are stored and whose weights are not read")

    def _stores_own(self, load: Operation) -> bool:
        """Whether no store is of columns whose weights a load leaves out, which are anything."""
        if not load.attribute("masked"):
            return True
        own = self.makers[load.operands[-1].name].operands[0]
        masks = [self.makers.get(op.operands[-1].name) if op.attribute("masked") else None
                 for op in self.operations if op.name == "tile.store"]  # fmt: skip
        return all(
            mask is not None and mask.attribute("expr") == "a & b"
            and any(self._along(value, own) for value in mask.operands)
            for mask in masks
        )  # fmt: skip

    def _along(self, value: Value, inner: Value) -> bool:
        maker = self.makers.get(value.name)
        spread = maker is not None and maker.name == "tile.expand" and maker["axis"] == 0
        return spread and maker.operands[0] == inner  # type: ignore[union-attr]

    def _streamed(self, load: Operation) -> bool:
        """Whether a load is of whole rows, one after another, but those past the first few."""
        *outer, column, depth = load.operands[1 : 1 + len(shape_of(load.operands[0].type))]
        blocks = all(not extents_of(value.type) for value in outer)
        return blocks and self._counts(column, 1) and self._counts(depth, 0) and (
            not load.attribute("masked") or self._columns(load) > 0
        )  # fmt: skip

    def _columns(self, load: Operation) -> int:
        """Return how many columns a mask lets be read; 0: all, or it masks otherwise."""
        if not load.attribute("masked") or load.attribute("other", 0):
            return 0
        mask = self.makers.get(load.operands[-1].name)
        if mask is None or mask.name != "tile.expand" or mask["axis"] != 1:
            return 0
        inside = self.makers.get(mask.operands[0].name)
        lane = self.makers.get(inside.operands[0].name) if inside is not None else None
        found = _INSIDE.fullmatch(inside.attribute("expr") or "") if inside is not None else None
        return int(found[1]) if found and lane is not None and lane.name == "tile.iota" else 0

    def _live(self, load: Operation) -> bool:
        """Whether a load's mask leaves out rows past the buffer's end, which copies give as 0."""
        if not load.attribute("masked") or load.attribute("other", 0):
            return False
        mask = self.makers.get(load.operands[-1].name)
        row = self.makers.get(load.operands[1].name)
        inside = self.makers.get(mask.operands[0].name) if mask is not None else None
        if inside is None or row is None or inside.attribute("expr") != "a < b":
            return False
        extent = shape_of(load.operands[0].type)[0]
        bound = getattr(extent, "name", extent)
        return inside.operands[0] == row.operands[0] and inside.operands[1].name == bound

    def _counts(self, value: Value, axis: int) -> bool:
        """Whether a value counts up along an axis, from any number."""
        maker = self.makers.get(value.name)
        spread = maker is not None and maker.name == "tile.expand" and maker["axis"] == axis
        return spread and self._counted(maker.operands[0])  # type: ignore[union-attr]

    def _counted(self, value: Value) -> bool:
        maker = self.makers.get(value.name)
        if maker is None or maker.name == "tile.iota":
            return maker is not None
        if maker.name != "tile.map":
            return False
        if len(maker.operands) == 1:
            return bool(_PLUS.fullmatch(maker["expr"])) and self._counted(maker.operands[0])
        start, plus, last = maker["expr"].rpartition(" + ")
        lane = self.makers.get(maker.operands[-1].name)
        counted = lane is not None and lane.name == "tile.iota" and plus and last == "b"
        alone = len(maker.operands) == 2 and not extents_of(maker.operands[0].type)
        return bool(counted) and alone and "b" not in start
