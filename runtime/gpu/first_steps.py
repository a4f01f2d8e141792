"""Steps that are recorded when a model is loaded, so that nobody waits for their first one; and see
`prompt_rooms.PromptRooms.generous`.

Without, the first step of a run's batch is launched kernel by kernel and the second is recorded,
for which the device waits; and the last steps, of fewer and fewer rows, are replayed as if they had
as many as the full ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..execution.step import StepInput, decode_step

SOME_PAGES = 8
"""Pages of a row that shares nothing: as most rows of a short prompt and answer have."""

ROWS = (32, 64, 128)
"""Rows of batches; a kind takes an H200 10 ms."""

SHARED_PAGES = 32
"""Pages that rows share, if they do: their items are cut as those of one tree or of several are."""

OWN_PAGES = (1, 4)
"""Pages of their own that these have: few are read for several rows together where there are many.
When some have left, what is shared by two to four of the others is not (`attention/grown_lists`),
which only steps of the other way hold: with none, such a step took an H200's host 10 ms more."""

PROMPTS = (2048, 1536, 1024)
"""Tokens of prompts that are recorded: a device that does nothing begins with so many while more
come. Recorded in a run each keeps an H200 waiting for 13 ms. The first such recording of a thread
takes a run of it, which loads what all of them launch: so that is of the largest."""

SHORT = 32
"""Tokens of the one that is recorded where steps have fewer."""


def first_prompts(page_size: int, most: int) -> Iterator[StepInput]:
    """Yield a step of one prompt of each size, of up to `most` tokens."""
    for size in [size for size in PROMPTS if size <= most] or [min(SHORT, most)]:
        step = decode_step(1, size, page_size)
        tokens = torch.zeros(size, dtype=torch.int32)
        starts = torch.tensor([0, size], dtype=torch.int32)
        yield replace(step, tokens=tokens, positions=tokens, slots=tokens, query_starts=starts)


def first_steps(page_size: int, context: int, most_rows: int) -> Iterator[StepInput]:
    """Yield a decode step of each kind: of one row, of a page, of some and of many, then of several
    rows that share nothing, and of as many that share some pages. Some may be of a kind."""
    some = min(SOME_PAGES * page_size, context)
    for length in dict.fromkeys((1, some, context)):
        yield decode_step(1, length, page_size)
    shared = min(SHARED_PAGES * page_size, context // 2)
    for rows in (rows for rows in ROWS if rows <= most_rows):
        yield decode_step(rows, some, page_size)
        for own in OWN_PAGES:
            yield decode_step(rows, shared + own * page_size, page_size, shared)
