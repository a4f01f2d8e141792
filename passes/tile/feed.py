"""What a step begins with: tokens that the host does not know yet, and pages that are copied."""

from __future__ import annotations

from ...ir.core import Operation
from .builder import KernelBuilder


def feed_tokens(block: int = 128) -> Operation:
    """Return the kernel that takes tokens from an earlier draw: token t becomes
    `drawn[source[t]]` where source[t] >= 0, and stays as it is elsewhere.

    Arguments: T, S, source [T], drawn [S], tokens [T].
    """
    b = KernelBuilder("feed_tokens")
    rows, drawn_rows = b.scalar("T"), b.scalar("S")
    source, drawn = b.buffer("source", "i32", "T"), b.buffer("drawn", "i32", "S")
    tokens = b.buffer("tokens", "i32", "T")
    part = b.program_id(0, "part")
    token = b.map(f"a * {block} + b", part, b.iota(block), dtype="i32", hint="token")
    inside = b.map("a < b", token, rows, hint="inside")
    place = b.load(source, token, mask=inside, other=-1, hint="place")
    fed = b.map("(a >= 0) & (a < b)", place, drawn_rows, hint="fed")
    b.store(tokens, token, b.load(drawn, place, mask=fed), mask=fed)
    return b.finish(f"ceildiv(T, {block})", requires=("T >= 0", "S >= 0"), of="feed_tokens")


COPIED = 256
"""Numbers of a page that a row of the copying kernel's tile holds; pages hold a multiple."""


def copy_pages(rows: int = 8) -> Operation:
    """Return the kernel that copies pages of all layers at once: page `source[c]` to `target[c]`.

    No page that is copied to is copied from. Numbers outside 0 .. N - 1 copy nothing.

    Arguments: C copies, L layers, N pages, B blocks a page and layer, source [C], target [C],
    pool [L, N, B, 256] i32.
    """
    b = KernelBuilder("copy_pages")
    _, _, pages, blocks = [b.scalar(name) for name in "CLNB"]
    source, target = b.buffer("source", "i32", "C"), b.buffer("target", "i32", "C")
    pool = b.buffer("pool", "i32", "L", "N", "B", COPIED)
    copy, layer, part = b.program_id(0, "copy"), b.program_id(1, "layer"), b.program_id(2, "part")
    column = b.map("a", b.iota(COPIED), hint="column")
    first = b.expand(b.map(f"a * {rows} + b", part, b.iota(rows), dtype="i32"), 1)
    start, end = b.load(source, copy, hint="start"), b.load(target, copy, hint="end")
    known = "(a < b) & (max(c, d) + 0 * a < e) & (min(c, d) + 0 * a >= 0)"
    inside = b.map(known, first, blocks, start, end, pages, dtype="bool", hint="inside")
    column = b.expand(column, 0)
    mask = b.map("a & (b >= 0)", inside, column, dtype="bool", hint="mask")
    numbers = b.load(pool, layer, start, first, column, mask=mask, hint="numbers")
    b.store(pool, layer, end, first, column, numbers, mask=mask)
    return b.finish("C", "L", f"ceildiv(B, {rows})", of="copy_pages",
                    requires=("C >= 0", "L >= 0", "N >= 0", "B >= 0"))  # fmt: skip
