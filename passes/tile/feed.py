"""The kernel that lets a step begin before its tokens are known on the host."""

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
