"""Functions that an emitted Triton file brings along where words are unpacked into bytes.

Which elements of a tile stand next to each other in a thread is Triton's choice. So instructions on
four bytes at a time are given bytes, and treat each alike: whichever four these are.
"""

from __future__ import annotations

from collections.abc import Sequence

_UNPACK8: str = '''
@triton.jit
def unpack8(x, rows: tl.constexpr, words: tl.constexpr):
    """Return the four bytes of each word."""
    wide = tl.broadcast_to(x[:, :, None], (rows, words, 4))
    parts = tl.cast(wide >> (tl.arange(0, 4)[None, None, :] * 8), tl.int8)
    return tl.reshape(parts, (rows, words * 4))

'''

_UNPACK4: str = '''import os

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def unpack4(x, rows: tl.constexpr, words: tl.constexpr):
    """Return the low half and the high half of each byte of each word, four bytes at a time."""
    both = unpack8(x, rows, words)
    if INTERPRETED:
        low, high = both & 15, (both >> 4) & 15
    else:
        low = tl.inline_asm_elementwise(
            "and.b32 $0, $1, 0x0F0F0F0F;", "=r,r", [both], dtype=tl.int8, is_pure=True, pack=4
        )
        high = tl.inline_asm_elementwise(
            "{ .reg .b32 t; shr.u32 t, $1, 4; and.b32 $0, t, 0x0F0F0F0F; }",
            "=r,r", [both], dtype=tl.int8, is_pure=True, pack=4,
        )
    return tl.reshape(tl.join(low, high), (rows, words * 8))

'''


def unpack_lines(body: Sequence[str]) -> list[str]:
    """Return the lines of the functions that a file needs before a kernel with this body."""
    four = any("unpack4(" in line for line in body)
    eight = four or any("unpack8(" in line for line in body)
    return (_UNPACK8 * eight + _UNPACK4 * four).splitlines()
