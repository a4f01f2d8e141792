"""Greedy draws on a device: in parts for few rows, in one walk a row for many."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...codegen.kernel import Kernel
from ...ir.constraints.vocabulary_parts import part_count, part_words

MANY = 112
"""Rows that are walked by one program each, as parts win nothing there: 64, 96 and 128 rows of 128
K words took an H200 16.4, 22.4 and 28.0 us in parts, and 22.5, 23.6 and 24.9 in one walk."""


class GreedyDraws:
    """Launches the greedy draw of rows over memory of its own: of each row, what parts found."""

    def __init__(
        self, kernels: Mapping[str, Kernel], vocab_size: int, max_rows: int, device: torch.device
    ) -> None:
        self._whole = kernels[f"argmax_masked_{vocab_size}"].launch
        self._survey = kernels[f"survey_parts_{vocab_size}"].launch
        self._join = kernels[f"argmax_join_{vocab_size}"].launch
        parts = part_count(vocab_size, part_words(vocab_size))
        rows = min(max_rows, MANY - 1)
        best = torch.zeros((rows, parts), dtype=torch.int32, device=device)
        self._found = [best, *(torch.zeros((rows, parts), device=device) for _ in range(4))]

    def __call__(
        self, rows: int, logits: Tensor, allowed: Tensor, token: Tensor, logprob: Tensor,
        margin: Tensor,
    ) -> None:  # fmt: skip
        """Draw the best allowed token of each row: arguments as the kernel `argmax_masked` has."""
        if rows >= MANY:
            self._whole(rows, logits, allowed, token, logprob, margin)
            return
        found = [each[:rows] for each in self._found]
        self._survey(rows, logits, allowed, *found)
        self._join(rows, logits, *found, token, logprob, margin)
