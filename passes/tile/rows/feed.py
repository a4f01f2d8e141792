"""What a step begins with: what the host sends, tokens that it does not know yet, pages that are
copied, and slots that are so once a layer's keys are written."""

from __future__ import annotations

from ....ir.core import Operation
from ..builder import KernelBuilder


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


def carry(block: int = 256) -> Operation:
    """Return the kernel that takes integers from one place to another, one of which is pinned
    memory of the host: target[s] = source[s].

    A copy engine takes as long, but begins 5 us late, and so does what comes behind it.

    Arguments: S, source [S] i32, target [S] i32.
    """
    b = KernelBuilder("carry")
    count = b.scalar("S")
    source, target = b.buffer("source", "i32", "S"), b.buffer("target", "i32", "S")
    part = b.program_id(0, "part")
    place = b.map(f"a * {block} + b", part, b.iota(block), dtype="i32", hint="place")
    inside = b.map("a < b", place, count, hint="inside")
    b.store(target, place, b.load(source, place, mask=inside, hint="number"), mask=inside)
    return b.finish(f"ceildiv(S, {block})", requires=("S >= 0",), of="carry")


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


def copy_slots(heads: int = 8, width: int = 64) -> Operation:
    """Return the kernel that copies keys and values of tokens from slot to slot in one layer: row
    `from_row[c]` of page `from_page[c]` to row `to_row[c]` of page `to_page[c]`.

    No slot that is copied to is copied from. What lies outside the pages copies nothing.

    Arguments: X copies, N pages, K heads, P rows a page, W numbers a row, from_page [X], from_row
    [X], to_page [X], to_row [X], k [N, K, P, W] i32, v [N, K, P, W] i32.
    """
    b = KernelBuilder("copy_slots")
    _, pages, count, rows, numbers = [b.scalar(name) for name in "XNKPW"]
    lists = ("from_page", "from_row", "to_page", "to_row")
    places = [b.buffer(name, "i32", "X") for name in lists]
    pools = [b.buffer(name, "i32", "N", "K", "P", "W") for name in "kv"]
    copy, part, block = b.program_id(0, "copy"), b.program_id(1, "part"), b.program_id(2, "block")
    page, row, page_to, row_to = [b.load(place, copy, hint="at") for place in places]
    head = b.expand(b.map(f"a * {heads} + b", part, b.iota(heads), dtype="i32"), 1)
    column = b.expand(b.map(f"a * {width} + b", block, b.iota(width), dtype="i32"), 0)
    known = "(a < b) & (max(c, d) + 0 * a < e) & (min(c, d) + 0 * a >= 0)"
    mask = b.map(known, head, count, page, page_to, pages, dtype="bool", hint="known")
    inside = b.map(known, column, numbers, row, row_to, rows, dtype="bool", hint="inside")
    mask = b.map("a & b", mask, inside, dtype="bool", hint="mask")
    found = [b.load(pool, page, head, row, column, mask=mask, hint="numbers") for pool in pools]
    for pool, values in zip(pools, found, strict=True):
        b.store(pool, page_to, head, row_to, column, values, mask=mask)
    sizes = tuple(f"{name} >= 0" for name in "XNKPW")
    return b.finish("X", f"ceildiv(K, {heads})", f"ceildiv(W, {width})", of="copy_slots",
                    requires=sizes)  # fmt: skip
