"""Functions that an emitted Triton file brings along: single instructions that Triton has no name
for. Triton's interpreter has no instructions; there they are written out."""

from __future__ import annotations

from collections.abc import Sequence

DOT4, UNPACK4, UNPACK8 = "dot4", "unpack4", "unpack8"

_BEFORE = """import os

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")

"""

_TEXTS = {
    DOT4: '''
@triton.jit
def dot4(a, b, c):
    """Return c plus the products of the four signed bytes of a and of b."""
    if INTERPRETED:
        total = c + (a >> 24) * (b >> 24) + ((a << 8) >> 24) * ((b << 8) >> 24)
        return total + ((a << 16) >> 24) * ((b << 16) >> 24) + ((a << 24) >> 24) * ((b << 24) >> 24)
    return tl.inline_asm_elementwise(
        "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
    )

''',
    UNPACK8: '''
@triton.jit
def unpack8(x, rows: tl.constexpr, words: tl.constexpr):
    """Return the four bytes of each word."""
    wide = tl.broadcast_to(x[:, :, None], (rows, words, 4))
    parts = tl.cast(wide >> (tl.arange(0, 4)[None, None, :] * 8), tl.int8)
    return tl.reshape(parts, (rows, words * 4))

''',
    UNPACK4: '''
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

''',
}


def helper_lines(body: Sequence[str]) -> list[str]:
    """Return the lines that a file needs before a kernel with this body."""
    names = {name for name in _TEXTS if any(f"{name}(" in line for line in body)}
    names |= {UNPACK8} if UNPACK4 in names else set()
    used = [text for name, text in _TEXTS.items() if name in names]
    return "".join([_BEFORE, *used]).splitlines() if used else []
