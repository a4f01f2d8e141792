"""Steps of two sequences through an executor of a GPU, and how far their logits are off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from weft.runtime.execution.step import StepInput

PROGRAM = 'program asked() -> str:\n    "a"\n    gen x(max_tokens=1)\n    return x\n'
PROMPT, DECODED, PAGE = 150, 10, 64


def ints(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def step(rows: list[list[int]], first: int, page: int) -> StepInput:
    """The tokens of two sequences from a position on; of the pages from 1 on each has half."""
    count, pages = len(rows[0]), -(-(PROMPT + DECODED) // page)
    table = torch.arange(1, 2 * pages + 1, dtype=torch.int32).view(2, pages)
    at = torch.arange(first, first + count, dtype=torch.int32)
    slots = torch.cat([own[at // page] * page + at % page for own in table])
    return StepInput(
        ints([token for row in rows for token in row]), at.repeat(2), slots,
        ints([0, count, 2 * count]), ints([first + count] * 2), table,
        ints([count - 1, 2 * count - 1]),
    )  # fmt: skip


def logits(executor: Any, rows: list[list[int]]) -> Iterator[torch.Tensor]:
    """Yield the logits [2, V] behind two prompts of PROMPT tokens, then behind each token more."""
    ends = [(0, PROMPT), *((at, at + 1) for at in range(PROMPT, PROMPT + DECODED))]
    for low, high in ends:
        of_rows = step([row[low:high] for row in rows], low, executor.page_size)
        yield executor.forward(of_rows).cpu().clone()


def off(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return each row's error, as a share of its logits."""
    found, wanted = (x.float() - x.float().mean(-1, keepdim=True) for x in (found, wanted))
    return (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
