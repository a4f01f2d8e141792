"""Constraints on a GPU: each row's state after the token just drawn, and the words allowed next.

The host need not see a token to know what may follow it, so that a step of constrained rows begins
as early as one of free rows.
"""

from __future__ import annotations

from ....ir.core import Operation
from ..builder import KernelBuilder

BYTES = 256


def constrain_rows(vocab: int, words: int = 1024) -> Operation:
    """Return the kernel that moves rows through their constraints' automata, side by side.

    Row r was row `source[r]` of the last draw, whose state `before` its token `drawn` is known, and
    walks the token's bytes; where source[r] < 0 its state is `start[r]`. It may have `left[r]`
    tokens more, or none below 0. Its mask is number `masks_of[entry[s] + min(left[r], most[s])]` in
    state s. State 0 is that of free text: from there all bytes lead to it.

    Arguments: R rows, S drawn rows, N states, E entries, M masks, C bytes of all words; source,
    start, left [R], drawn, before [S], spelled [V + 1] (where a word's bytes begin), bytes [C],
    moves [N, 256], entry, most [N], masks_of [E], masks [M, ceil(V / 32)]; and, written, states [R]
    and allowed [R, ceil(V / 32)]. All i32.
    """
    b, width = KernelBuilder(f"constrain_rows_{vocab}"), -(-vocab // 32)
    _, drawn_rows, state_count, entries, mask_count, letters = [b.scalar(name) for name in "RSNEMC"]
    source, start, left = (b.buffer(name, "i32", "R") for name in ("source", "start", "left"))
    drawn, before = b.buffer("drawn", "i32", "S"), b.buffer("before", "i32", "S")
    spelled, bytes_ = b.buffer("spelled", "i32", vocab + 1), b.buffer("bytes", "i32", "C")
    moves = b.buffer("moves", "i32", "N", BYTES)
    entry, most = b.buffer("entry", "i32", "N"), b.buffer("most", "i32", "N")
    masks_of, masks = b.buffer("masks_of", "i32", "E"), b.buffer("masks", "i32", "M", width)
    states, allowed = b.buffer("states", "i32", "R"), b.buffer("allowed", "i32", "R", width)

    row = b.program_id(0, "row")
    place = b.load(source, row, hint="place")
    fed = b.map("(a >= 0) & (a < b)", place, drawn_rows, hint="fed")
    token = b.load(drawn, place, mask=fed, other=-1, hint="token")
    known = b.map(f"(a >= 0) & (a < {vocab})", token, hint="known")
    at = b.load(spelled, token, mask=known, hint="at")
    end = b.load(spelled, b.map("a + 1", token, dtype="i32"), mask=known, hint="end")
    old = b.load(before, place, mask=fed, hint="old")
    fresh = b.load(start, row, hint="fresh")
    state = b.map("where(a, b, c)", fed, old, fresh, dtype="i32", hint="state")
    with b.loop(at, end, state, at, hint="letter") as loop:
        now, letter = loop.carried
        inside = b.map("(a >= 0) & (a < b)", letter, letters, hint="inside")
        byte = b.load(bytes_, letter, mask=inside, hint="byte")
        sound = "(a >= 0) & (a < b) & (c >= 0) & (c < 256)"
        there = b.map(sound, now, state_count, byte, dtype="bool", hint="there")
        after = b.load(moves, now, byte, mask=there, hint="after")
        loop.yields(after, b.map("a + 1", letter, dtype="i32", hint="letter"))
    state = loop.results[0]
    b.store(states, row, state)
    there = b.map("(a >= 0) & (a < b)", state, state_count, hint="there")
    first = b.load(entry, state, mask=there, hint="first")
    bound = b.load(most, state, mask=there, hint="bound")
    place = b.map("a + max(0, min(b, c))", first, b.load(left, row), bound, dtype="i32")
    there = b.map("(a >= 0) & (a < b)", place, entries, hint="there")
    number = b.load(masks_of, place, mask=there, hint="number")
    with b.loop(b.full(0, "i32"), b.full(width, "i32"), step=words, hint="base") as loop:
        word = b.map("a + b", loop.index, b.iota(words), dtype="i32", hint="word")
        inside = b.map(f"a < {width}", word, hint="inside")
        both = f"(a < {width}) & (b + 0 * a >= 0) & (b + 0 * a < c)"
        both = b.map(both, word, number, mask_count, dtype="bool", hint="both")
        bits = b.load(masks, number, word, mask=both, other=-1, hint="bits")
        b.store(allowed, row, word, bits, mask=inside)
    return b.finish("R", requires=("R >= 0", "S >= 0", "N >= 0", "E >= 0", "M >= 0", "C >= 0"))
