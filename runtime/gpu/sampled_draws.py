"""Sampled draws on a device, in parts: one launch a round of each search for a threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...codegen.kernel import Kernel
from ...ir.constraints.vocabulary_parts import SEARCH_BITS, SEARCH_ROUNDS, part_count, part_words

SUMS = 1 << SEARCH_BITS
"""Sums of a part that a round hands to the next, at most."""

_NAMES = ("survey_parts", "count_round", "mass_round", "kept_parts", "sample_join")


class SampledDraws:
    """Launches the kernels of `passes.tile.rows.sampling_rounds` over memory of its own."""

    def __init__(
        self, kernels: Mapping[str, Kernel], vocab_size: int, max_rows: int, device: torch.device
    ) -> None:
        launches = (kernels[f"{name}_{vocab_size}"].launch for name in _NAMES)
        self._survey, self._count, self._mass, self._kept, self._join = launches
        self._parts = part_count(vocab_size, part_words(vocab_size))
        shape = max_rows, self._parts
        self._best, *keys = (torch.zeros(shape, dtype=torch.int32, device=device) for _ in range(9))
        self._kth, self._nucleus = (keys[:2], keys[2:4]), (keys[4:6], keys[6:])
        self._found = [torch.zeros(shape, device=device) for _ in range(5)]
        self._sums = [torch.zeros(SUMS * max_rows * self._parts, dtype=torch.int32, device=device)
                      for _ in range(2)]  # fmt: skip

    def __call__(
        self, rows: int, logits: Tensor, allowed: Tensor, settings: Sequence[Tensor], counted: bool,
        weighed: bool, out: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """Draw one token a row.

        `settings` are temperature, top_k, top_p, min_p and u [R] on the device; some row has a
        top_k only if `counted`, a top_p below 1 only if `weighed`; `out` are token, logprob and
        margin [R].
        """
        temperature, top_k, top_p, min_p, u = settings
        first, second, top, mass, kept = (each[:rows] for each in self._found)
        surveyed = self._best[:rows], first, second, top, mass
        self._survey(rows, logits, allowed, *surveyed)
        kth, nucleus = self._kth[0][0][:rows], self._nucleus[0][0][:rows]
        if counted:
            given = logits, allowed, temperature, top_k
            kth = self._search(self._count, rows, given, self._kth, SUMS - 1, torch.int32)
        if weighed:
            given = logits, allowed, temperature, top_k, top_p, first, kth
            nucleus = self._search(self._mass, rows, given, self._nucleus, SUMS, torch.float32)
        given = logits, allowed, temperature, top_k, top_p, min_p
        self._kept(rows, *given, first, kth, nucleus, kept)
        self._join(rows, *given, u, *surveyed, kth, nucleus, kept, *out)

    def _search(
        self, launch: Callable[..., object], rows: int, given: Sequence[Tensor],
        keys: Sequence[Sequence[Tensor]], sums: int, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """Launch the rounds of a search, and return the keys that it found [R, P].

        Keys and sums of a round are what the next begins with.
        """
        size = sums * rows * self._parts
        shape = sums, rows, self._parts
        before, after = (
            [*(each[:rows] for each in ends), held[:size].view(dtype).view(shape)]
            for ends, held in zip(keys, self._sums, strict=True)
        )
        for number in range(SEARCH_ROUNDS + 1):
            launch(rows, number, *given, *before, *after)
            before, after = after, before
        return before[0]
