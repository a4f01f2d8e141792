"""How kernels are scheduled on a GPU: warps and stages by what they compute and how wide it is."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...ir.constraints.vocabulary_parts import part_words
from ...ir.core import Operation, Term, walk
from ...ir.dialects.tile import extents_of
from ...ir.schedule import Schedule
from ...ir.types import dtype_of, shape_of
from .attention.parts import ALL, FEW, MANY
from .attention.prompts import PROMPT
from .attention.ways import (
    GROUP,
    LARGE_SCHEDULES,
    PROMPT_SCHEDULES,
    SCHEDULES,
    SPECIALISED,
    THREE,
)
from .products.head_words import SCHEDULE as HEAD_WORDS
from .products.head_words import head_words, head_words_shapes
from .products.matvec import matvec_schedule
from .products.skinny_matmul import skinny_schedule
from .rows.constrain import constrain_rows
from .rows.feed import carry, copy_pages, copy_slots, feed_tokens
from .rows.sampling import argmax_masked
from .rows.sampling_parts import argmax_join, survey_parts
from .rows.sampling_rounds import count_round, kept_parts, mass_round, sample_join

WIDE = 2048
"""A row of this many elements is shared by eight warps: sixteen bytes a thread and more."""


LARGE = 128 * 128
"""Sums of a product that two warp groups share; two programs of so many have room, with half the
registers each."""

HALF = LARGE // 2
"""Sums that two warp groups share where the left side of a product lies in registers too."""

DEEP = 64 * 256
"""Elements of a block of 8-bit weights of which five are on their way: products of few columns,
whose programs are fewer than multiprocessors and must read ahead for the others."""

WIDE_KEYS = 128
"""Width of heads whose keys in f32 leave shared memory for two stages of a large tile: a block of
64 keys and values is 64 KB, three stages take 256 KB, and a program has 227 of an H200's."""

CHAINED = True
"""Kernels are launched while the one before runs, and wait for its end."""


MEASURED = {
    "sparse_parts_slot": Schedule(num_warps=4, num_stages=3, registers=168),  # three fit
    "sparse_parts": Schedule(num_warps=4, num_stages=2),
    "held_parts": Schedule(num_warps=4, num_stages=2),
    "shared_labels": Schedule(num_warps=4),
    "step_counts": Schedule(num_warps=1),
    "all_step_counts": Schedule(num_warps=2),
    "select_bins": Schedule(num_warps=1),
    "select_worth": Schedule(num_warps=2),
}
"""Schedules that a search over warps and stages found on an H200, unlike the others'. What reads
lists of keys is measured after the launch for items of many rows, not `beside` it."""

SCORED_WITH_TAIL = Schedule(num_warps=8, registers=96)
"""That of scores where what heads weigh is summed up too."""

SPREAD = 255
"""Registers that a thread of launches that meet may have: of programs of four warps, which take
some 200, two have room. Launched early, more of them would crowd on multiprocessors that are done
with the kernel before (one row of 128 K tokens on an H200: 31.1 us a layer in place of 32.9)."""

ATTENDING = Schedule(num_warps=4, num_stages=3, registers=SPREAD)
"""That of those which also attend to what they chose."""

UNCHAINED = ("step_counts", "all_step_counts", "select_", "word_scores")
"""Kernels of many small programs, which are not launched early: as soon as a few multiprocessors
are done with the kernel before, all programs would crowd there, and others have none (128 K tokens,
batch 8, on an H200: 12.7 us of counts in place of 7.7, and 14.1 of lists in place of 7.6; with
scores launched early behind a join, a layer takes 130.5 in place of 124.1)."""


OPENS = ("select_",)
"""Those of them that let the next one come as they begin: what reads lists finds its rows and items
while they are written (126.3 us in place of 127.1 there, of 2048 tokens each 77.8 in place of 78.8;
without anything that it may read before, 127.6)."""

ONE_HEAD, SEVERAL = Schedule(num_warps=2), Schedule(num_warps=8)
"""Joins of attention, by the heads that a program joins. Of one with four warps 4 to 16 rows behind
shared keys take an H200 0.1 to 1.1 us longer, 64 rows of eight heads 0.5."""

_STREAMS = {"graph.matmul", "graph.moe_gated", "graph.moe_mixed"}
"""What kernels compute that stream weights for a single row."""


def gpu_schedule(kernel: Operation, apart: bool = False, chained: bool = True) -> Schedule:
    """Return the schedule of a kernel; products stream through three stages of shared memory.

    Of attention that reads keys for few rows only (`apart`) a multiprocessor holds three programs;
    that over keys in 8 bits, which are widened one by one, does with two warps.
    """
    name, chained = kernel["name"].name, CHAINED and chained
    found, early = _schedule(kernel, apart), not name.startswith(UNCHAINED)
    opens = found.opens or name.startswith(OPENS) or _rotates_one_row(kernel)
    return replace(found, chained=chained and early, opens=chained and opens)


def _rotates_one_row(kernel: Operation) -> bool:
    """Whether a kernel rotates and writes a single row: attention comes, and finds its items, while
    the product of q, k and v ends."""
    return kernel.attribute("of") == "graph.qkv_rope_write" and len(kernel["grid"]) > 1


def _schedule(kernel: Operation, apart: bool) -> Schedule:
    called = kernel["name"].name
    if called.startswith("word_scores") and "_tail" in called:
        return SCORED_WITH_TAIL
    if called.startswith("attended_words"):
        return ATTENDING
    if called.startswith("attention_join") and "_of_" not in called:
        return SEVERAL if _widest(kernel) > _width(kernel) else ONE_HEAD
    if called.startswith("chosen_words"):
        return Schedule(num_warps=max(1, _widest(kernel) // 256), registers=SPREAD)
    if called.startswith("word_scores"):
        return Schedule(num_warps=max(1, _widest(kernel) // 256), registers=128)
    for name, schedule in MEASURED.items():
        if called.startswith(name):
            return schedule
    items, way = kernel.attribute("items"), kernel.attribute("way", "")
    if items in (PROMPT, MANY, ALL):
        large = (PROMPT_SCHEDULES if items == PROMPT else LARGE_SCHEDULES)[way]
        if not _splits(kernel):
            large = replace(large, specialised=0)
        return replace(large, num_stages=2) if _wide_keys(kernel) else large
    few = items == FEW
    if way:
        return replace(SCHEDULES[way], beside=few)
    if kernel.attribute("of") == "graph.partial" and (apart or few):
        keys = _keys(kernel)
        if dtype_of(keys) == "f8e4m3":
            return Schedule(num_warps=2, num_stages=3, beside=few)
        *_, page, width = map(int, shape_of(keys)[2:])  # type: ignore[arg-type]
        fits = page % 64 == 0 and width <= 128
        return replace(THREE, beside=few) if fits else Schedule(num_stages=4, beside=few)
    if kernel.attribute("of") == "graph.moe_expert" and _sums(kernel) >= LARGE:
        gated = _sums(kernel) > LARGE
        stages = 2 if gated and _operands(kernel) == {"f32"} else 3  # of 128 KB each, of 227
        return Schedule(num_warps=8, num_stages=stages, registers=0 if gated else 128)
    if kernel["name"].name.startswith("scaled_matmul"):
        if _widest(kernel) >= DEEP:
            return Schedule(num_warps=4, num_stages=5)
        if _sums(kernel) >= HALF:
            return Schedule(num_warps=8, num_stages=3)
    if kernel.attribute("of") == "graph.moe_route":
        return Schedule(num_warps=1)  # a row of logits is a few numbers a lane, looked at A times
    if kernel["name"].name.startswith("skinny_matmul"):
        return skinny_schedule(kernel)
    if any(operation.name == "tile.dot" for operation in walk(kernel.regions[0].operations)):
        return Schedule(num_warps=4, num_stages=3)
    if kernel.attribute("of") in _STREAMS:
        return matvec_schedule(kernel)
    return Schedule(num_warps=8 if _widest(kernel) >= WIDE else 4)


def _keys(kernel: Operation) -> Term:
    """Return the type of the pages of keys that a kernel of attention reads."""
    return next(value.type for value in kernel.regions[0].arguments if value.name == "k")


def _splits(kernel: Operation) -> bool:
    """Whether a kernel of attention has tiles that specialised warps were measured of: as wide, and
    of whole groups of rows."""
    dot = next(op for op in walk(kernel.regions[0].operations) if op.name == "tile.dot")
    wide = int(shape_of(_keys(kernel))[-1]) == SPECIALISED  # type: ignore[arg-type]
    return wide and extents_of(dot.result.type)[0] % GROUP == 0


def _width(kernel: Operation) -> int:
    """Return the channels of a head whose states a kernel joins."""
    acc = next(value.type for value in kernel.regions[0].arguments if value.name == "acc")
    return int(shape_of(acc)[-1])  # type: ignore[arg-type]


def _wide_keys(kernel: Operation) -> bool:
    """Whether queries and keys are f32, and so wide that large tiles have room for few of them."""
    width = shape_of(_keys(kernel))[-1]
    formats = {dtype_of(value.type) for value in kernel.regions[0].arguments
               if value.name in ("q", "k")}  # fmt: skip
    return formats == {"f32"} and isinstance(width, int) and width >= WIDE_KEYS


def gpu_step_kernels(vocab: int) -> list[tuple[Operation, Schedule]]:
    """Return the kernels around a model's step: tokens drawn before, and those drawn after.

    Rounds of a search take half the warps that look at a part once: their many sums wait for fewer.
    Of 64 rows of 128 K words a draw by top_k and top_p took 436 us with four warps and 584 with
    eight (an H200), of 16 rows 186 and 195.
    """
    chained = Schedule(chained=CHAINED)
    whole = 1 << max(0, (-(-vocab // 32)) - 1).bit_length()
    greedy, part = min(256, whole), part_words(vocab)
    shared = replace(chained, num_warps=max(1, part // 16))
    rounds = replace(chained, num_warps=max(1, part // 32))
    return [
        (carry(), Schedule(num_warps=8)),  # behind and in front of recorded steps
        (feed_tokens(), chained), (copy_pages(), chained), (copy_slots(), chained),
        (constrain_rows(vocab, min(1024, whole)), chained),
        (argmax_masked(vocab, greedy), replace(chained, num_warps=max(4, greedy // 16))),
        (argmax_join(vocab, part), replace(chained, num_warps=1)),
        *((kernel(vocab, part), shared) for kernel in (survey_parts, sample_join)),
        *((kernel(vocab, part), rounds) for kernel in (count_round, mass_round, kept_parts)),
    ]  # fmt: skip


def head_kernels(vocab: int, width: int) -> list[tuple[Operation, Schedule]]:
    """Return the kernels that compute logits of listed words, of a head in bf16."""
    schedule = replace(HEAD_WORDS, chained=CHAINED)
    return [(head_words(shape), schedule) for shape in head_words_shapes(vocab, width)]


def _operands(kernel: Operation) -> set[str]:
    """Return the dtypes of the operands of products of tiles."""
    dots = (op for op in walk(kernel.regions[0].operations) if op.name == "tile.dot")
    return {dtype_of(operand.type) for dot in dots for operand in dot.operands[:2]}


def _sums(kernel: Operation) -> int:
    """Return the elements of the results of products of tiles."""
    dots = (op for op in walk(kernel.regions[0].operations) if op.name == "tile.dot")
    return sum(prod(map(int, extents_of(dot.result.type))) for dot in dots)


def _widest(kernel: Operation) -> int:
    """Return the elements of the kernel's largest tile."""
    widest = 1
    for operation in walk(kernel.regions[0].operations):
        for value in operation.results:
            count = 1
            for extent in extents_of(value.type):
                count *= extent
            widest = max(widest, count)
    return widest
