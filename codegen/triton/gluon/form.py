"""What of a kernel becomes which warps' work: loops that stream blocks of pools into two products.

Of such a loop the blocks are copied by a warp of its own; groups of four warps, each with 64 rows
of the tile, wait for them and do all else. The second product of a round, which adds to what the
loop carries, is left behind: it runs while the next round's first one does, and its softmax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from ....ir.core import Operation, Value, walk
from ....ir.diagnostics import KernelError
from ....ir.dialects.tile import extents_of
from ....ir.types import dtype_of, shape_of
from ..barriers import behind_barriers
from ..shapes import axes_of, padded_shapes

WRITTEN = frozenset(f"tile.{name}" for name in (
    "program_id", "full", "iota", "map", "load", "store", "reduce", "expand", "dot", "for", "yield",
    "return"))  # fmt: skip
"""Operations that can be split among groups of warps."""

HOPPER = 9
"""The major compute capability of a GPU whose groups of warps multiply from shared memory."""

GROUP_ROWS = 64
"""Rows of a product of four warps."""

_OWN = ("ring_", "keys_ring", "values_ring", "asked_", "block_behind", "weights_behind",
        "inside_block", "rest_cleared", "query_rows", "warp_group", "rows_ring", "weights_ring",
        "blocks_there", "blocks_free", "PART_", "warpgroup_")  # fmt: skip
"""How names begin that the text has besides those of values."""
_OWN_WORDS = frozenset(
    "SHARED TensorDescriptor WHOLE blocks copied described extra fence_async_shared gluon mbarrier "
    "rest stage tma".split()
)
"""Other such names."""

WIDEST = 256
"""Columns of one, at most."""


class NoGluon(KernelError):
    """A kernel whose warps cannot have parts of their own."""

    template = "@{kernel} has no Gluon form: {problem}"


@dataclass(frozen=True)
class Split:
    """A kernel whose rows are split among groups of warps: the axes, by value and place, that run
    over these rows, who makes each value, and the product that tells how large a tile is."""

    kernel: Operation
    rows: frozenset[tuple[str, int]]
    makers: dict[str, Operation]
    product: Operation

    @property
    def lanes(self) -> int:
        """Rows of a tile."""
        return int(extents_of(self.product.result.type)[0])

    @property
    def groups(self) -> int:
        """Groups of warps that compute."""
        return self.lanes // GROUP_ROWS

    @property
    def keys(self) -> int:
        """Rows of a block that is streamed: columns of the product."""
        return int(extents_of(self.product.result.type)[1])


@dataclass(frozen=True)
class Round:
    """A loop over blocks of keys: what it loads, its two products, which of what it carries the
    second adds to, and the axes of its loop."""

    loop: Operation
    loads: tuple[Operation, Operation]
    dots: tuple[Operation, Operation]
    sums: int


@dataclass(frozen=True)
class Form(Split):
    """A kernel's loops, and the load of the rows that they multiply."""

    rounds: tuple[Round, ...]
    query: Operation

    @property
    def width(self) -> int:
        """Columns of a row."""
        return int(extents_of(self.query.result.type)[1])

    @property
    def dtype(self) -> str:
        """What is multiplied."""
        return dtype_of(self.query.result.type)

    @property
    def pools(self) -> tuple[Value, Value]:
        """The buffers of which blocks are read."""
        first, second = self.rounds[0].loads
        return first.operands[0], second.operands[0]


def has_own_names(kernel: Operation) -> bool:
    """Whether a kernel's value has a name that the text has besides those of values."""
    return any(name.startswith(_OWN) or name in _OWN_WORDS for name in _names(kernel))


def _names(kernel: Operation) -> Iterator[str]:
    for operation in walk((kernel,)):
        yield from (value.name for value in operation.results)
        yield from (v.name for region in operation.regions for v in region.arguments)


def form_of(kernel: Operation) -> Form:
    """Return how a kernel is split among warps; raises NoGluon."""
    return _Reader(kernel).form()


class _Reader:
    def __init__(self, kernel: Operation) -> None:
        self.kernel = kernel
        operations = list(walk(kernel.regions[0].operations))
        self.makers = {value.name: op for op in operations for value in op.results}

    def form(self) -> Form:
        rounds = tuple(self._round(loop) for loop in self._loops())
        if not rounds:
            self._refuse("no loop of two products")
        queries = {round.dots[0].operands[0].name for round in rounds}
        self._check_ends(rounds)
        query = self.makers.get(queries.pop())
        pools = {tuple(load.operands[0].name for load in round.loads) for round in rounds}
        if queries or len(pools) > 1 or query is None or query.name != "tile.load":
            self._refuse("its loops are not of the same rows and pools")
        rows = axes_of(self.kernel, (rounds[0].dots[0].result.name, 0))
        form = Form(self.kernel, rows, self.makers, rounds[0].dots[0], rounds, query)
        self._check(form)
        return form

    def _check(self, form: Form) -> None:
        fits = form.keys <= WIDEST and form.width in (64, 128)
        if form.lanes % GROUP_ROWS or not form.groups or not fits or form.keys % 16:
            self._refuse(f"products of {form.lanes} rows, {form.keys} keys, {form.width} wide")
        if has_own_names(self.kernel):
            self._refuse("names that its own text has")
        if behind_barriers(self.kernel):
            self._refuse("it reads what it has written")
        if any(dims != extents_of(value.type) for value, dims in self._padded()):
            self._refuse("tiles that are padded")
        if form.dtype not in ("bf16", "f16"):
            self._refuse(f"products of {form.dtype}")
        for pool in form.pools:
            page = shape_of(pool.type)[2]
            if dtype_of(pool.type) != form.dtype:
                self._refuse(f"blocks of {dtype_of(pool.type)} for products of {form.dtype}")
            if not isinstance(page, int) or page % form.keys:
                self._refuse(f"blocks of {form.keys} keys in pages of {page}")

    def _padded(self) -> Iterator[tuple[Value, tuple[int, ...]]]:
        """Yield the values that have a shape, and that which Triton sees."""
        shapes = padded_shapes(self.kernel)
        operations = walk(self.kernel.regions[0].operations)
        return ((value, shapes[value.name]) for op in operations for value in op.results
                if value.name in shapes)  # fmt: skip

    def _loops(self) -> Iterator[Operation]:
        for operation in walk(self.kernel.regions[0].operations):
            if operation.name not in WRITTEN:
                self._refuse(operation.name)
            if operation.name == "tile.for":
                inside = [op.name for op in operation.regions[0].operations]
                if "tile.dot" in inside:
                    yield operation
                elif any("tile.dot" == op.name for op in walk(operation.regions[0].operations)):
                    self._check_once(operation)

    def _check_once(self, loop: Operation) -> None:
        """Refuse a loop around the rounds that may go round more than once: its copies and products
        count the places of rings from the start."""
        low, high = (self.makers.get(value.name) for value in loop.operands[:2])
        ends = high is not None and high.name == "tile.full" and high["value"] == 1
        text = low["expr"] if low is not None and low.name == "tile.map" else ""
        if not (ends and text.startswith("where(") and text.endswith(", 1, 0)")):
            self._refuse("a loop around its rounds")

    def _round(self, loop: Operation) -> Round:
        (region,) = loop.regions
        dots = [op for op in region.operations if op.name == "tile.dot"]
        if len(dots) != 2 or any(op.regions for op in region.operations):
            self._refuse("a loop that is not of two products")
        first, second = dots
        loads = tuple(self._streamed(dot, region.operations) for dot in dots)
        transposed = first.attribute("transpose_b") and not second.attribute("transpose_b")
        sums = [at for at, value in enumerate(region.operations[-1].operands)
                if value.name == second.result.name]  # fmt: skip
        used = [op for op in region.operations[:-1] for value in op.operands
                if value.name == second.result.name]  # fmt: skip
        if not transposed or len(sums) != 1 or used:
            self._refuse("a second product that a round waits for")
        blank = self.makers.get(first.operands[2].name)
        if blank is None or blank.name != "tile.full" or blank["value"] != 0:
            self._refuse("a first product that adds to something")
        keys = extents_of(loads[0].result.type)[0]
        if loop.attribute("step", 1) != keys or loads[0].attribute("masked"):
            self._refuse("a loop that is not over whole blocks of keys")
        return Round(loop, (loads[0], loads[1]), (first, second), sums[0])

    def _check_ends(self, rounds: Sequence[Round]) -> None:
        """Refuse loops of which one does not go on where the one before has ended, and values that
        are masked, but for those past the end of the last loop."""
        for before, after in pairwise(rounds):
            sums = before.loop.results[before.sums].name
            if after.loop.operands[2 + after.sums].name != sums or self._uses(sums) != 1:
                self._refuse("loops that do not add to the same sums")
            if before.loads[1].attribute("masked"):
                self._refuse("values that are masked before the last loop")
        last = rounds[-1]
        if not last.loads[1].attribute("masked"):
            return
        mask = self.makers[last.loads[1].operands[-1].name]
        inside = self.makers.get(mask.operands[0].name) if mask.name == "tile.expand" else None
        key = self.makers.get(inside.operands[0].name) if inside is not None else None
        compared = inside is not None and inside.attribute("expr") == "a < b"
        counted = key is not None and key.attribute("expr") == "a + b"
        ends = compared and inside.operands[1].name == last.loop.operands[1].name  # type: ignore[union-attr]
        index = last.loop.regions[0].arguments[0].name
        starts = counted and key.operands[0].name == index  # type: ignore[union-attr]
        if not (ends and starts):
            self._refuse("values that are masked otherwise than past the end")

    def _uses(self, name: str) -> int:
        operations = walk(self.kernel.regions[0].operations)
        return sum(value.name == name for op in operations for value in op.operands)

    def _streamed(self, dot: Operation, inside: Iterable[Operation]) -> Operation:
        load = self.makers.get(dot.operands[1].name)
        if load is None or load.name != "tile.load" or all(op is not load for op in inside):
            self._refuse("a product whose right side is no load of its loop")
        assert load is not None
        if len(shape_of(load.operands[0].type)) != 4 or load.attribute("other", 0):
            self._refuse("blocks that are not of pages")
        page, head, row, column = load.operands[1:5]
        if (
            extents_of(page.type)
            or extents_of(head.type)
            or not self._one_by_one(row, 1)
            or not self._iota(column, 0)
        ):
            self._refuse("blocks that are not whole rows of a page, one after another")
        return load

    def _iota(self, value: Value, axis: int) -> bool:
        maker = self.makers.get(value.name)
        if maker is None or maker.name != "tile.expand" or maker["axis"] != axis:
            return False
        inner = self.makers.get(maker.operands[0].name)
        return inner is not None and inner.name == "tile.iota"

    def _one_by_one(self, value: Value, axis: int) -> bool:
        """Whether a value counts up along an axis, from any number."""
        if self._iota(value, axis):
            return True
        maker = self.makers.get(value.name)
        inner = None if maker is None else self.makers.get(maker.operands[0].name)
        if inner is None or inner.name != "tile.map" or len(inner.operands) != 2:
            return False
        lane = self.makers.get(inner.operands[1].name)
        start, plus, last = inner["expr"].rpartition(" + ")
        counted = lane is not None and lane.name == "tile.iota" and plus and last == "b"
        return bool(counted) and "b" not in start

    def _refuse(self, problem: str) -> NoReturn:
        raise NoGluon(kernel=self.kernel["name"].name, problem=problem, span=self.kernel.span)
