"""Steps of a model that are written down sequence by sequence, over pages of 16 slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from weft.runtime.execution.step import StepInput

Part = tuple[Sequence[int], int, Sequence[int]]
"""Tokens of a sequence, how many came before them, and its pages."""


def step(*sequences: Part, rows: Iterable[int] | None = None, width: int = 0) -> StepInput:
    """A step of some sequences; logits are of `rows`, by default of each one's last token. Page
    tables have `width` columns, if no sequence has more pages."""
    flat, positions, slots, starts, lengths = [], [], [], [0], []
    width = max(width, *(len(pages) for *_, pages in sequences))
    table = [[*pages, *[0] * (width - len(pages))] for *_, pages in sequences]
    for tokens, before, pages in sequences:
        at = range(before, before + len(tokens))
        flat += tokens
        positions += at
        slots += [pages[p // 16] * 16 + p % 16 for p in at]
        starts.append(len(flat))
        lengths.append(before + len(tokens))
    last = [end - 1 for end in starts[1:]] if rows is None else [*rows]
    return StepInput(
        *(_ints(values) for values in (flat, positions, slots, starts, lengths, table, last))
    )


def _ints(values: Sequence) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)
