"""The ways in which the items of a list are read on a GPU: tiles and schedules of one kernel.

Which is best is a matter of how many items there are, how long they are and how many rows read
them: `runtime.attention.ways` chooses for each list, by rates that were measured of each way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ....ir.core import Operation
from ....ir.schedule import Schedule
from .grouped import GROUPED, grouped
from .join import attention_merge, merge_of_many
from .parts import ALL, FEW, MANY, Parts, attention_parts
from .prompts import attention_prompts

CROWD = 32
"""Rows of a step from which small programs are `crowded`, where no way is chosen. Beside a launch
of large tiles they always are: no others find room on its multiprocessors (16 forks of 2 K tokens,
tiles of 128: 18.1 us of an H200 with programs of 160 registers, and 13.8)."""

JOINED = 1024
"""Query heads of all rows of a step from which the join is that of many rows: it reads four slots
at a time, and takes 0.137 us a slot of the longest row, the other 0.035."""

WAVES = 256
"""Rows of a step from which programs of the large tile are: prompts, whose items fill the device
several times, so that two programs a multiprocessor hide each other's waits."""

ALONE, JOINED_ALONE = "crowded", 8
"""The way of a single row of which, of each key head, the last program joins what all have left,
and how many slots at a time: behind 192, 384 and 1,024 keys a step of the 8 B shape took 3.731,
3.733 and 3.767 ms of an H200, with a launch for the join 3.759, 3.756 and 3.799, and with 16 slots
at a time 3.748, 3.744 and 3.775. `deep` and `wide` programs lose by it (38 to 120 us)."""

CROWDED = Schedule(num_warps=4, num_stages=2, chained=True, registers=128)

THREE = Schedule(num_warps=4, num_stages=3, chained=True, registers=160)
"""Three programs a multiprocessor: as fast or faster than two with a fourth stage, measured over
1 to 16 sequences of 512 to 16 K keys."""

DEEP = Schedule(num_warps=4, num_stages=4, chained=True)
"""Two programs a multiprocessor, with a fourth stage."""

WIDEST = Schedule(num_warps=4, num_stages=3, chained=True)
"""Of blocks of 128 keys: one program a multiprocessor, all of equal length, which is the fastest
way through 64 K keys (67 us for one sequence, and 69 with two programs of blocks of 64)."""

LARGE_TILE = Schedule(num_warps=4, num_stages=4, chained=True)
"""Of the large tile: with a fourth stage no two of its programs share a multiprocessor, and each
leaves room for two small ones. With three, two were put on some multiprocessors and none on others
(64 forks of 16 K tokens: 81 us of an H200, and 68 with four)."""

LARGE_CROWDED = replace(LARGE_TILE, num_stages=3)
"""Of the large tile where there are many such items: 143 us instead of 207 for 256 rows over 16 K
keys alone."""

LARGEST_TILE = Schedule(num_warps=8, num_stages=3, chained=True, registers=192, specialised=136)
"""Of a tile of 128 query heads, which two warp groups share: keys come from the cache for twice as
many rows, and one small program finds room beside it, a `SLIM` one where warps are specialised. 256
forks of 16 K tokens: 178 us of an H200, and 229 with tiles of 64; of 2 K tokens 95 and 88. By
specialised warps 256 forks with 64 keys of their own take 129 us in place of 158, 64 forks 43 in
place of 51; with 128 registers a thread, for which ptxas waits for products early, 150 and 46."""

LARGE_SPECIALISED = "large_specialised"
"""The way of the large tile by specialised warps, beside the same small programs."""

LARGE_SPECIALISED_TILE = replace(LARGE_TILE, specialised=112)
"""Leaves registers for two small programs."""

LONG = "long"
"""The way of tiles of 128 query heads of long prompts (runtime/attention/prompt_tiles.py)."""

LARGEST = "largest"
"""The way of tiles of 128 query heads."""

SPECIALISED, GROUP = 128, 64
"""Width of heads of which specialised warps were measured, and query heads that four of them share
(a product's rows)."""

SLIM = "slim"
"""The way of items of few rows beside largest tiles: programs that these leave registers for."""

LONG_PROMPTS = Schedule(num_warps=8, num_stages=3, chained=True, specialised=168)
"""One of 8 K tokens takes 918 us of an H200 in place of 1071, or 1006 and 1217 where that is hot; 8
of 1 K 204 and 198."""

PROMPT_SCHEDULES = {"": LARGE_CROWDED, LONG: LONG_PROMPTS}
"""The schedules of prompts' tiles: two programs a multiprocessor. Of an H200's microseconds, for 32
prompts of 511 and one of 8 K: 264 and 1124; with blocks of 32 keys and 128 registers, of which four
programs fit, 233 and 1289; without a loop for keys that all rows see, 250 and 1300; tiles of 128
query heads 284 and 1259."""

SINGLE = "single"
"""The way of one launch that reads all items of a list by the large tile: where there is a single
key head, lists of 4 and 16 rows are so short that a launch fewer saves 8 to 25 % (4 forks of 512
keys 5.1 us of an H200 in place of 6.2, 16 of 8 K 9.2 and 11.5; with eight key heads within 5 % of
two)."""

SINGLE_TILE = replace(LARGE_CROWDED, specialised=128)
"""Two programs a multiprocessor."""

SCHEDULES = {"crowded": CROWDED, "deep": DEEP, "wide": WIDEST, GROUPED: CROWDED,
             SLIM: replace(CROWDED, registers=104)}  # fmt: skip
LARGE_SCHEDULES = {"": LARGE_TILE, "crowded": LARGE_CROWDED, LARGEST: LARGEST_TILE,
                   LARGE_SPECIALISED: LARGE_SPECIALISED_TILE, SINGLE: SINGLE_TILE}  # fmt: skip
"""The schedules of `Parts.way`, of items of few rows and of many; "" of few: by keys' format."""


class Variant(NamedTuple):
    """A way by the name that plans and calls know it by, and what it is."""

    name: str
    tiles: Parts
    schedule: Schedule


def variants(shape: Parts, shared: bool) -> list[Variant]:
    """Return the ways worth choosing from by a list's predicted time, as measured on an H200, for
    lists whose items may have more rows than the small tile holds (`shared`), or may not. The first
    is what is taken where none is chosen, and never far behind; others are of keys in bf16."""
    if shared:
        tiles = replace(shape, few=16, many=64, keys=64, keys_many=64)
        found = [Variant("large", tiles, LARGE_TILE)]
        if not _measured(shape):
            return found
        if 128 % shape.group == 0:
            largest = replace(tiles, many=128, way=LARGEST)
            found += [Variant(LARGEST, largest, _specialised(largest, LARGEST_TILE))]
        if specialised_pays(shape, tiles.many):
            few = replace(tiles, way=LARGE_SPECIALISED)
            found += [Variant(LARGE_SPECIALISED, few, LARGE_SPECIALISED_TILE)]
        if shape.kv_heads == 1:
            single = replace(tiles, items=ALL, way=SINGLE)
            found += [Variant(SINGLE, single, _specialised(single, SINGLE_TILE))]
        return found
    few = replace(shape, few=16, many=0, keys=64)
    deep = Variant("deep", replace(few, way="deep"), DEEP)
    crowded = Variant("crowded", replace(few, way="crowded"), CROWDED)
    wide = [Variant("wide", replace(few, keys=128, way="wide"), WIDEST)] * _usual(shape)
    if shape.page % 64:
        return [deep, crowded, *wide]
    found = [Variant("three", few, THREE)]
    if _measured(shape):
        found += [deep, crowded, *wide]
    return found


def tuned(shape: Parts, shared: bool) -> Parts:
    """Return the tiles that suit a shape whatever the lengths."""
    return replace(variants(shape, shared)[0].tiles, way="")


def launches(shape: Parts, rows: int = 1) -> list[Operation]:
    """Return the kernels of a work list's items: one, or, where there are two tiles, one for items
    of many rows and after it one for those of few, which runs beside it. In steps of more rows
    than `CROWD`, or `WAVES`, one is `crowded`, where that was measured and no way is chosen."""
    if not shape.many:
        return [attention_parts(_crowded(shape, rows > CROWD))]
    many, few = _crowded(shape, rows > WAVES), _crowded(replace(shape, way=""), True)
    return [attention_parts(replace(each, items=items))
            for each, items in ((many, MANY), (few, FEW))]  # fmt: skip


def groups(shape: Parts) -> bool:
    """Whether items of few rows are read as `GROUPED` says where lists allow it, as was measured:
    up to four rows share a small tile."""
    return bool(shape.many) and _measured(shape) and 2 <= shape.rows_few <= 4


def first_tiles(shape: Parts) -> Parts:
    """Return the tiles of a way's first launch, which is for items of many rows where there are two
    tiles, unless it is for all."""
    return replace(shape, items=shape.items or MANY) if shape.many else shape


def grouped_launches(shape: Parts) -> list[Operation]:
    """Return the same of lists whose items of few rows are read as `GROUPED` says, or none where
    they are not."""
    if not groups(shape):
        return []
    return [attention_parts(replace(shape, items=MANY)), grouped(replace(shape, way=""))]


def slim(shape: Parts) -> Operation | None:
    """Return the kernel of items of few rows beside largest tiles; None where that is the usual."""
    if not (shape.many and _measured(shape) and specialised_pays(shape)):
        return None
    return attention_parts(replace(shape, items=FEW, way=SLIM))


def prompts(shape: Parts) -> Operation:
    """Return the kernel of prompts' tiles."""
    return attention_prompts(replace(shape, way=""))


def long_prompts(shape: Parts) -> Operation | None:
    """Return the kernel of the tiles of `LONG` prompts; None where that was not measured."""
    if not (_measured(shape) and specialised_pays(shape)):
        return None
    return attention_prompts(replace(shape, many=128, way=LONG))


def join(shape: Parts, rows: int = 1) -> Operation:
    """Return the kernel that joins the states of so many rows."""
    merge = merge_of_many if rows > JOINED // shape.heads else attention_merge
    return merge(shape.heads, shape.head_dim, shape.q)


def joined(way: Variant, rows: int) -> Parts | None:
    """Return the tiles of a way whose last programs join what all have left, where steps of up to
    `rows` rows (0: any) are faster so, without a launch for the join."""
    alone = rows == 1 and way.name == ALONE and not way.tiles.many and not way.tiles.window
    return replace(way.tiles, joins=JOINED_ALONE) if alone else None


def _crowded(shape: Parts, crowd: bool) -> Parts:
    """Return a shape that is scheduled for many items, if there is a crowd of them."""
    return replace(shape, way="crowded") if crowd and not shape.way and _streams(shape) else shape


def specialised_pays(shape: Parts, heads: int = 128) -> bool:
    """Whether tiles of so many query heads are faster with specialised warps, as measured."""
    return shape.head_dim == SPECIALISED and heads % shape.group == 0


def _specialised(shape: Parts, schedule: Schedule) -> Schedule:
    """Return the schedule of a shape's large tile, of specialised warps where they pay."""
    pays = specialised_pays(shape, shape.many)
    return schedule if pays else replace(schedule, specialised=0)


def _streams(shape: Parts) -> bool:
    """Whether `CROWDED` was measured for a shape: blocks lie in a page, and need no widening."""
    return shape.page % 64 == 0 and shape.kv != "f8e4m3"


def _measured(shape: Parts) -> bool:
    """Whether every way was measured for a shape like this one."""
    return _streams(shape) and _usual(shape)


def _usual(shape: Parts) -> bool:
    """Whether all numbers are bf16, and no window bounds what a row sees."""
    return (shape.q, shape.kv, shape.window) == ("bf16", "bf16", 0)
