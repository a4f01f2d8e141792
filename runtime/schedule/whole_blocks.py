"""Steps of prompts that end where a block of rows of a library's products does.

A step of more rows than whole blocks takes as long as one that fills the last block. What is over
waits for the next step, where one with prompts comes in any case.
"""

from __future__ import annotations

from collections.abc import Callable

from .batch import Chunk

BLOCK = 128
"""Rows of a block. Of an H200's microseconds, the products of a layer of the 8 B shape: 970 for
1,536 rows and 1,052 for 1,568, 1,296 for 2,048 and 1,407 for 2,144, 2,860 for 4,608 and 2,944 for
4,640."""

LEAST = 8 * BLOCK
"""Rows of a step from which its time follows their number."""

OVER = 3 * BLOCK // 4
"""Rows over that wait at most: more fill a block well enough."""

FEW = 4
"""Chunks at most that are cut: what they would have drawn comes a step later."""


def packed(
    chunks: list[Chunk], running: int, read: Callable[[Chunk], bool] | None = None
) -> list[Chunk]:
    """Return a step's chunks in the order in which they are packed: those that join first, and of
    these those of one token, by which a row goes on that stood back, or was another's sample. Where
    attention is sparse, such a token reads as rows that decode do only in front of all prompts.

    Where more prompts come, so that the next step has some in any case, `read` says of which chunks
    others of this step read the end; the last gens of the others are cut by what is over. What is
    scored or filled is not: more waits for that than one row's next token.
    """
    blocks, over = divmod(running + sum(chunk.count for chunk in chunks), BLOCK)
    if read is not None and blocks * BLOCK >= LEAST and 0 < over <= OVER:
        chunks = _without(chunks, over, read)
    return sorted(chunks, key=lambda chunk: (not chunk.joins, chunk.count > 1))


def _without(chunks: list[Chunk], over: int, read: Callable[[Chunk], bool]) -> list[Chunk]:
    """Return chunks of so many tokens fewer, each of one at least; the same if too few can go."""
    found = list(chunks)
    for at in reversed(range(max(0, len(found) - FEW), len(found))):
        chunk = found[at]
        less = min(over, chunk.count - 1)
        if less and chunk.request.sampling is not None and not read(chunk):
            found[at] = Chunk(chunk.request, chunk.start, chunk.count - less)
            found[at].copied = chunk.copied
            over -= less
    return chunks if over else found
