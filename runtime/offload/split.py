"""Divides a step into micro-batches: runs of its rows, balanced by rows and by keys."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from ..execution.step import StepInput


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


def split_rows(
    step: StepInput, count: int, whole: bool = False, most: int = 0, page_size: int = 16
) -> list[MicroBatch]:
    """Return at most `count` micro-batches with like work, of at most `most` rows (0: any) each.

    A row's work is half what all rows share, half by the keys that it sees. A long sequence may be
    cut: its parts go to micro-batches that follow one another, and the later one sees the keys of
    the earlier. With `whole`, sequences are not cut, and what counts is their pages of keys: a
    micro-batch has no more than its share and those of the longest sequence.
    """
    starts = step.query_starts.tolist()
    bounds = _whole(step, starts, count, page_size) if whole else _cuts(step, count, most)
    found, first = [], 0
    for low, high in zip(bounds, bounds[1:], strict=False):
        part = _rows(step, starts, low, high, first)
        first += len(part.wanted)
        found.append(part)
    return found


def _cuts(step: StepInput, count: int, most: int) -> list[int]:
    """Return where rows are cut: shares of the work, moved where a part had too many rows."""
    keys = step.positions.double() + 1.0
    done = (keys + keys.mean()).cumsum(0)
    total = len(keys)
    shares = done[-1] * torch.arange(1, count, dtype=torch.float64) / count
    bounds = [0]
    for part, cut in enumerate((torch.searchsorted(done, shares) + 1).tolist(), start=1):
        limit = most or total
        bounds.append(min(max(cut, total - (count - part) * limit), bounds[-1] + limit))
    return sorted({*bounds, total})


def _whole(step: StepInput, starts: list[int], count: int, page_size: int) -> list[int]:
    """Return where rows are cut between sequences, at the first boundary after each share."""
    done = ((step.kv_lengths.long() + page_size - 1) // page_size).cumsum(0)
    shares = done[-1] * torch.arange(1, count, dtype=torch.float64) / count
    ends = torch.searchsorted(done.double(), shares).tolist()
    return sorted({0, *(starts[end + 1] for end in ends), starts[-1]})


def _rows(step: StepInput, starts: list[int], low: int, high: int, first: int) -> MicroBatch:
    begin, last = bisect_right(starts, low) - 1, bisect_left(starts, high)
    ends = [min(high, end) for end in starts[begin + 1 : last + 1]]
    cut = starts[last] - ends[-1]  # rows of the last sequence that are another's
    queries = [0, *(end - low for end in ends)]
    lengths = step.kv_lengths[begin:last].tolist()
    lengths[-1] -= cut
    rows = step.logits_rows
    wanted = torch.nonzero((rows >= low) & (rows < high)).flatten()
    sequences = torch.arange(begin, last)
    part = StepInput(
        step.tokens[low:high].clone(), step.positions[low:high].clone(),
        step.slots[low:high].clone(), torch.tensor(queries, dtype=torch.int32),
        torch.tensor(lengths, dtype=torch.int32), step.page_table[sequences].contiguous(),
        (rows[wanted] - low).to(torch.int32),
    )  # fmt: skip
    return MicroBatch(part, wanted, first)
