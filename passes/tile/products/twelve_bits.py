"""Kernels that make bf16 numbers of twelve bits each, exactly: `runtime.offload.twelve_bits`."""

from __future__ import annotations

from ....ir.core import Operation, Value
from ....ir.schedule import Schedule
from ..builder import KernelBuilder

BLOCK, WARPS = 1024, 4
PARTS = 4
"""Parts of a page's words that one word of codes is for: two numbers of each."""


def widen() -> Operation:
    """Return `out[q, g]`, two bf16 numbers of codes packed[2, g] and bytes packed[q // 2, g].

    Arguments: G, packed [3, G], top [1], out [4, G], all i32. A number is a byte, its sign before
    its mantissa, and a code c of four bits: its exponent is top - c, or 0 where c is 15.
    """
    b = KernelBuilder("widen_bf12")
    groups = b.scalar("G")
    packed = b.buffer("packed", "i32", 3, "G")
    tops = b.buffer("top", "i32", 1)
    out = b.buffer("out", "i32", PARTS, "G")
    group = b.map(f"a * {BLOCK} + b", b.program_id(0), b.iota(BLOCK), dtype="i32", hint="group")
    inside = b.map("a < b", group, groups, hint="inside")
    top = b.load(tops, b.full(0, "i32"), hint="top")
    rows = [b.full(row, "i32") for row in range(PARTS)]
    words = [b.load(packed, rows[row], group, mask=inside, hint="words") for row in range(3)]
    for part in range(PARTS):
        low, high = (
            _number(b, words[part // 2], words[2], top, 2 * part + half) for half in range(2)
        )
        b.store(out, rows[part], group, b.map("a | (b << 16)", low, high), mask=inside)
    return b.finish(f"(G + {BLOCK - 1}) // {BLOCK}", requires=("G >= 1",))


def _number(b: KernelBuilder, bytes_: Value, codes: Value, top: Value, number: int) -> Value:
    """Return one of the eight numbers of a group as the bits of a bf16."""
    byte = b.map(f"(a >> {8 * (number % 4)}) & 255", bytes_, hint="byte")
    code = b.map(f"(a >> {4 * number}) & 15", codes, hint="code")
    exponent = b.map("where(a == 15, 0, b - a)", code, top, dtype="i32", hint="exponent")
    return b.map("(a & 127) | ((a & 128) << 8) | (b << 7)", byte, exponent, hint="number")


def put_rare() -> Operation:
    """Return `out[places[s]] = words[s]`, where no code says what is there; places below 0 are of
    nothing. Arguments: S, W, places [S], words [S], out [W], all i32.
    """
    b = KernelBuilder("put_rare_bf12")
    count = b.scalar("S")
    b.scalar("W")
    places, words = b.buffer("places", "i32", "S"), b.buffer("words", "i32", "S")
    out = b.buffer("out", "i32", "W")
    at = b.map(f"a * {BLOCK} + b", b.program_id(0), b.iota(BLOCK), dtype="i32", hint="at")
    inside = b.map("a < b", at, count, hint="inside")
    place = b.load(places, at, mask=inside, other=-1, hint="place")
    there = b.map("a & (b >= 0)", inside, place, hint="there")
    b.store(out, place, b.load(words, at, mask=inside, hint="word"), mask=there)
    return b.finish(f"(S + {BLOCK - 1}) // {BLOCK}", requires=("W >= 1", "places[*] < W"))


def kernels() -> list[tuple[Operation, Schedule]]:
    """Return both, as a GPU runs them."""
    return [(operation, Schedule(num_warps=WARPS)) for operation in (widen(), put_rare())]
