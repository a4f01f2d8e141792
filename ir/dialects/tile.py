"""The tile dialect: one kernel as a program over tiles of static shape. It has no memory scopes,
warps, barriers within a program or layouts; how it is scheduled stands apart, in `ir.schedule`.

A kernel runs once for each point of its grid. Scalars are `index`, `i32` or `f32` values, tiles
`tile<dtype, [dims]>` with numbers for dimensions. `tile.map` broadcasts as NumPy does. The same
kernel is read by the Triton emitter, the TVM emitter, the reference interpreter (its meaning)
and the bounds prover.
"""

from __future__ import annotations

from ..core import Term
from . import tile_checks as checks
from .dialect import Dialect
from .dialect import OperationSpec as Op
from .region_checks import loop

KERNEL = (
    Op("tile.kernel", "a kernel; its region's arguments are buffers and scalars; buffer dimensions "
       "are numbers or names of scalar arguments. grid = up to three extents (expressions over "
       "scalar arguments); requires = facts that every launch guarantees, such as "
       "'0 <= table[*] < N'; writes = names of the buffers that it stores to; given = names of "
       "those that were there before any kernel of the step; items = many or few: which items "
       "of a work list it reads, where another kernel reads the others; way = how it is scheduled, "
       "if not as usual",
       regions=1, required=("name", "grid"),
       optional=("requires", "writes", "of", "given", "items", "way"), check=checks.kernel),
    Op("tile.program_id", "this program's position on a grid axis", 0, 1, required=("axis",)),
    Op("tile.for", "for i in range(lo, hi, step); operands: lo, hi, carried values; region "
       "arguments: i, carried values", (2, None), (0, None), regions=1, optional=("step",),
       check=loop(2)),
    Op("tile.yield", "the carried values of the next round", (0, None), terminator=True),
    Op("tile.return", "ends the kernel", terminator=True),
)  # fmt: skip

TILES = (
    Op("tile.full", "a tile (or scalar) of one value", 0, 1, required=("value",)),
    Op("tile.iota", "0, 1, ... along a one-dimensional i32 tile", 0, 1),
    Op("tile.map", "an elementwise expression over the operands, named a, b, c, ... in order: "
       "+ - * / // % comparisons & | ^ ~ << >>, where(c, x, y), min, max, exp2, log2, sqrt, rsqrt, "
       "tanh, abs, floor, cast to the result's dtype is implicit", (0, None), 1,
       required=("expr",), check=checks.mapped),
    Op("tile.load", "elements of a buffer; operands: buffer, one index a dimension (scalars or "
       "tiles that broadcast to the result's shape)[, mask]; masked-off elements read `other`; "
       "hint = stream: read once, so that caches keep others",
       (1, None), 1, optional=("masked", "other", "hint"), check=checks.access),
    Op("tile.store", "writes elements; operands: buffer, indices, value[, mask]", (2, None),
       optional=("masked",), check=checks.access),
    Op("tile.reduce", "op = sum | max | min over an axis, which goes", 1, 1,
       required=("op", "axis"), check=checks.reshaped),
    Op("tile.argmax", "index of the first largest element along an axis, which goes (i32)", 1, 1,
       required=("axis",), check=checks.reshaped),
    Op("tile.scan", "inclusive prefix sum along an axis", 1, 1, required=("axis",)),
    Op("tile.histogram", "adds to counts [bins] (i32) how often each of 0 .. bins - 1 stands among "
       "values [n] (i32); other values count nowhere; operands: values, counts", 2, 1),
    Op("tile.dot", "a [M, K] times b [K, N] (or b [N, K] with transpose_b) plus acc [M, N], "
       "accumulated in f32, or of i8 in i32", 3, 1, optional=("transpose_b",),
       check=checks.product),
    Op("tile.expand", "inserts an axis of extent 1", 1, 1, required=("axis",),
       check=checks.reshaped),
    Op("tile.transpose", "swaps the two axes", 1, 1, check=checks.reshaped),
    Op("tile.reshape", "the same elements in another shape", 1, 1, check=checks.reshaped),
    Op("tile.unpack", "words [n, w] (i32) as bytes [n, 32 w / bits] (i8), a word's from the lowest "
       "up; with bits = 4 each byte becomes two, its low half and its high half, 0 .. 15", 1, 1,
       required=("bits",)),
    Op("tile.atomic_add", "adds to elements of a buffer; operands as tile.store; result: the old "
       "values", (2, None), (0, 1), optional=("masked",), check=checks.access),
    Op("tile.meet", "programs that differ on one axis of the grid only wait here for each other: "
       "what one has written before, all read after; operands: a buffer of i32 and an index a "
       "dimension, an element that these alone have, 0 or what a launch left. Stands in no loop, "
       "and what follows uses no value of before; programs are a power of two, at most 32",
       (2, None), required=("axis",), check=checks.access),
    Op("tile.last", "1 for the last to come of the programs that differ on one axis of the grid "
       "only, 0 for all others (i32): what these wrote before, it reads after; operands: a buffer "
       "of i32 and an index a dimension, an element that these alone have, 0 before a launch and "
       "after",
       (2, None), 1, required=("axis",), check=checks.access),
)  # fmt: skip

MOST_MET = 32
"""Programs that may meet, at most: each meeting adds so many to its element."""


def extents_of(type: Term) -> tuple[int, ...]:
    """Return the dimensions of a tile, which are numbers; anything else has none."""
    return type.parameters[1] if type.name == "tile" else ()  # type: ignore[return-value]


DIALECT = Dialect(
    "tile", "one kernel over tiles of static shape; its schedule stands apart", KERNEL + TILES
)
