"""The launches around a model's step on a GPU over memory of their own, to be timed."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from ...codegen.kernel import Kernel
from ..execution.timing import BoundLaunch
from .greedy_draws import GreedyDraws
from .sampled_draws import SampledDraws

GREEDY, SAMPLED = "greedy draw", "draw by top_k and top_p"


def launches_around(
    kernels: Mapping[str, Kernel], vocab_size: int, rows: int, device: torch.device
) -> list[BoundLaunch]:
    """Return the launches that feed a step of so many rows, hold the rows to constraints, draw of
    all words greedily, and draw of them by top_k and top_p, in the order in which they run.

    Their operations say which: "feed", "constrain", `GREEDY` or `SAMPLED`. Logits are random, all
    words are allowed, and rows of constraints are in the state of free text.
    """
    found: list[BoundLaunch] = []

    def noting(operation: str) -> Any:
        """Return kernels that note what they are launched with."""

        def noted(name: str) -> SimpleNamespace:
            def launch(*arguments: Any) -> None:
                bound = kernels[name].launch, arguments
                found.append(BoundLaunch(len(found), name, operation, bound))

            return SimpleNamespace(launch=launch)

        return {name: noted(name) for name in kernels}

    words = -(-vocab_size // 32)

    def integers(*shape: int, value: int = 0) -> torch.Tensor:
        return torch.full(shape, value, dtype=torch.int32, device=device)

    free = integers(rows, value=-1)
    noting("feed")["feed_tokens"].launch(rows, rows, integers(rows), integers(rows), integers(rows))
    noting("constrain")[f"constrain_rows_{vocab_size}"].launch(
        rows, rows, 1, 1, 1, 1, free, integers(rows), free, integers(rows), integers(rows),
        integers(vocab_size + 1), integers(1), integers(1, 256), integers(1), integers(1),
        integers(1), integers(1, words, value=-1), integers(rows), integers(rows, words),
    )  # fmt: skip
    logits, mask = torch.randn(rows, vocab_size, device=device), integers(rows, words, value=-1)
    out = integers(rows), *torch.zeros(2, rows, device=device)
    GreedyDraws(noting(GREEDY), vocab_size, rows, device)(rows, logits, mask, *out)
    given = (torch.full((rows,), number, device=device) for number in (0.9, 0.0, 0.5))
    top_p, min_p, u = given
    settings = torch.ones(rows, device=device), integers(rows, value=50), top_p, min_p, u
    draws = SampledDraws(noting(SAMPLED), vocab_size, rows, device)
    draws(rows, logits, mask, settings, True, True, out)
    return found
