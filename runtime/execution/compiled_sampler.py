"""Sampling by compiled kernels: a `SampleKernel` over preallocated outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ...codegen.kernel import Kernel

Drawn = tuple[Tensor, Tensor, Tensor]


class CompiledSampler:
    """Draws tokens with the kernels `greedy` (masked argmax) and `full`; see `sampler.sample_rows`.

    `narrow` are the same for logits of fewer columns, and how many those are. Outputs are views
    that the next call overwrites.
    """

    def __init__(
        self, greedy: Kernel, full: Kernel, vocab_size: int, max_rows: int,
        narrow: tuple[Kernel, Kernel, int] | None = None,
    ) -> None:  # fmt: skip
        self._kernels = {vocab_size: (greedy.launch, full.launch)}
        if narrow is not None:
            self._kernels[narrow[2]] = narrow[0].launch, narrow[1].launch
        self._everything = torch.full((max_rows, -(-vocab_size // 32)), -1, dtype=torch.int32)
        self._token = torch.empty(max_rows, dtype=torch.int32)
        self._logprob, self._margin = torch.empty(max_rows), torch.empty(max_rows)
        self._views = [
            (self._everything[:rows], self._token[:rows], self._logprob[:rows], self._margin[:rows])
            for rows in range(max_rows + 1)
        ]

    def __call__(
        self,
        logits: Tensor,
        bitmask: Tensor | None,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        u: Tensor,
    ) -> Drawn:
        """Draw one token a row: token [R] i32, logprob [R], margin [R]."""
        if temperature.numpy().any():
            return self.full(logits, bitmask, temperature, top_k, top_p, min_p, u)
        return self.greedy(logits, bitmask)

    def greedy(self, logits: Tensor, bitmask: Tensor | None, *_: Tensor) -> Drawn:
        """Take each row's likeliest word: for those who know that no row has a temperature. To look
        at them takes 150 us behind a step, which has put NumPy's code out of the caches."""
        rows, columns = logits.shape
        everything, token, logprob, margin = self._views[rows]
        allowed = everything if bitmask is None else bitmask
        self._kernels[columns][0](rows, logits, allowed, token, logprob, margin)
        return token, logprob, margin

    def full(self, logits: Tensor, bitmask: Tensor | None, *settings: Tensor) -> Drawn:
        """Draw as `settings` say, the temperatures of all rows first."""
        rows, columns = logits.shape
        everything, token, logprob, margin = self._views[rows]
        allowed = everything if bitmask is None else bitmask
        full = self._kernels[columns][1]
        full(rows, logits, allowed, *settings, token, logprob, margin)
        return token, logprob, margin
