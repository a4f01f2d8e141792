"""Divides a step into micro-batches: runs of its rows, balanced by tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..step import StepInput


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a step as a step of their own; `wanted` are its rows' places among the logits.

    The first of its logits is row `first_logit` of the buffer that holds those of all.
    """

    step: StepInput
    wanted: Tensor
    first_logit: int

    @property
    def tokens(self) -> int:
        """T, its rows."""
        return self.step.tokens.shape[0]

    @property
    def sequences(self) -> int:
        """B, its sequences."""
        return self.step.kv_lengths.shape[0]


def split_rows(step: StepInput, count: int, whole: bool = False) -> list[MicroBatch]:
    """Return at most `count` micro-batches with a like number of rows each.

    A long sequence may be cut: its parts go to micro-batches that follow one another, and the
    later one sees the keys of the earlier. With `whole`, sequences are not cut.
    """
    starts = step.query_starts.tolist()
    total = starts[-1]
    bounds = sorted({-(-part * total // count) for part in range(count + 1)})
    if whole:
        bounds = sorted({min(starts, key=lambda start: abs(start - bound)) for bound in bounds})
    found, first = [], 0
    for low, high in zip(bounds, bounds[1:], strict=False):
        part = _rows(step, starts, low, high, first)
        first += len(part.wanted)
        found.append(part)
    return found


def _rows(step: StepInput, starts: list[int], low: int, high: int, first: int) -> MicroBatch:
    bounds = enumerate(zip(starts, starts[1:], strict=False))
    spans = [(s, max(low, a), min(high, b)) for s, (a, b) in bounds if max(low, a) < min(high, b)]
    queries, lengths = [0], []
    for sequence, _, end in spans:
        queries.append(end - low)
        lengths.append(int(step.kv_lengths[sequence]) - (starts[sequence + 1] - end))
    rows = step.logits_rows
    wanted = torch.nonzero((rows >= low) & (rows < high)).flatten()
    sequences = torch.tensor([sequence for sequence, _, _ in spans])
    part = StepInput(
        step.tokens[low:high].clone(), step.positions[low:high].clone(),
        step.slots[low:high].clone(), torch.tensor(queries, dtype=torch.int32),
        torch.tensor(lengths, dtype=torch.int32), step.page_table[sequences].contiguous(),
        (rows[wanted] - low).to(torch.int32),
    )  # fmt: skip
    return MicroBatch(part, wanted, first)
