"""Pieces of Triton text: names, strides, lanes, and the functions that a file brings along."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.core import Region, Term, walk
from .meeting import LAST, LAST_TEXT, MEET, MEET_TEXT
from .names import identifier
from .reductions import reduction_lines

DOT4 = "dot4"
"""The function of products of bytes, which the file of a kernel that calls it has."""

_INTERPRETED = """import os

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")

"""

_DOT4_TEXT: str = '''
@triton.jit
def dot4(a, b, c):
    """Return c plus the products of the four signed bytes of a and of b."""
    if INTERPRETED:
        total = c + (a >> 24) * (b >> 24) + ((a << 8) >> 24) * ((b << 8) >> 24)
        return total + ((a << 16) >> 24) * ((b << 16) >> 24) + ((a << 24) >> 24) * ((b << 24) >> 24)
    return tl.inline_asm_elementwise(
        "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
    )

'''
"""One instruction on a GPU; the interpreter has none, and adds products."""


def helper_lines(body: Sequence[str]) -> list[str]:
    """Return the lines of the functions that a file needs before a kernel with this body."""
    found = [text for name, text in (
                 (DOT4, _DOT4_TEXT), (MEET, MEET_TEXT), (LAST, LAST_TEXT)
             ) if any(f"{name}(" in line for line in body)]  # fmt: skip
    together = reduction_lines(body)
    if not found and not together:
        return []
    return [*(_INTERPRETED + "".join(found)).splitlines(), *together]


def bare(text: str) -> str:
    """Drop the parentheses around a whole expression."""
    depth = 0
    for position, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return text[1:-1] if position == len(text) - 1 and text[0] == "(" else text
    return text


def back(shape: Sequence[int], axis: int) -> int:
    """Return an extent counted from the last axis, which is 1; 1 where there is none."""
    return shape[-axis] if axis <= len(shape) else 1


def lane_inside(axis: int, rank: int, extent: int, true: int) -> str:
    """Return which lanes of an axis padded from `true` to `extent` are the tile's own."""
    index = ", ".join(":" if position == axis else "None" for position in range(rank))
    suffix = f"[{index}]" if rank > 1 else ""
    return f"(tl.arange(0, {extent}){suffix} < {true})"


def stride_of(dims: Sequence[int | Term]) -> tuple[str, int | None]:
    """Return factors that an index of 64 bits is multiplied by in turn; their product if known."""
    number, names = 1, []
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        else:
            names.append(identifier(dim.name))
    text = " * ".join([str(number)] * (number != 1 or not names) + names)
    return text, None if names else number


def pipelined(region: Region) -> bool:
    """Return whether a loop is innermost and streams operands into a dot.

    Loops without a dot run faster straight from L2: staging through shared memory costs more.
    """
    inside = {operation.name for operation in walk(region.operations)}
    return "tile.dot" in inside and "tile.for" not in inside
