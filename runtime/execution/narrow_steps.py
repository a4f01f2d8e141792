"""Steps whose logits are of some words: their functions, and the launches kept of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...ir.constraints.token_masks import few_words
from ...ir.core import Operation
from ..devices.zeros import zeros
from .executor import by_name
from .library import Launch
from .recipe import Memory, Recipe
from .step import StepInput

KEPT_PLANS = 256

Run = tuple[Recipe, list[Launch]]


class NarrowSteps:
    """The functions that `passes.graph.allowed_head` made, pairs of the most rows and the function.

    Logits lie in buffers of V columns, or of a few where the words are few, so that a sampler has
    kernels for both: [R, V] or [R, few_words(V)], of which the first W columns are written.
    """

    def __init__(
        self, functions: Sequence[tuple[int, Operation]], memory: Memory, max_batch: int, vocab: int
    ) -> None:  # fmt: skip
        self._recipes = [
            (rows, Recipe(function, memory, ("logits",))) for rows, function in functions
        ]
        self._convert = memory.convert
        self._argument = functions[0][1].regions[0].arguments[-1].name
        self._wide = zeros((max_batch, vocab), torch.float32)
        self._few = zeros((max_batch, few_words(vocab)), torch.float32)
        most = max((rows for rows, _ in functions), default=0)
        self._part_wide = zeros((most, vocab), torch.float32)
        self._part_few = zeros((most, few_words(vocab)), torch.float32)
        self._plans: dict[tuple[int, int], tuple[StepInput, Tensor, Run, Tensor]] = {}
        self._steps: dict[int, tuple[StepInput, Run]] = {}

    def known(self, step: StepInput, words: Tensor) -> tuple[Run, Tensor] | None:
        """Return the launches of a decode step that ran before with these words, and its logits."""
        found = self._plans.get((id(step), id(words)))
        return None if found is None else found[2:]

    def logits(self, rows: int, words: int) -> Tensor:
        """Return the buffer for logits of so many rows and words."""
        buffer = self._few if words <= self._few.shape[1] else self._wide
        return buffer[:rows]

    def runs(
        self, step: StepInput, words: Tensor, extents: Callable[[StepInput], Mapping[str, int]],
        parts: Iterable[tuple[StepInput, np.ndarray]] | None = None,
    ) -> Iterator[Run]:  # fmt: skip
        """Yield what computes a step's logits of `words` [W] i32; each is to be launched before the
        next is taken.

        Given `parts`, the step runs as these, which say what rows of logits they give.
        """
        count = len(words)
        logits = self.logits(step.logits_rows.shape[0], count)
        if parts is None:
            yield self._plan(step, words, extents, logits)
            return
        few = count <= self._part_few.shape[1]
        buffer = self._part_few if few else self._part_wide
        for part, wanted in parts:
            some = buffer[: part.logits_rows.shape[0]]
            known = self.known(part, words)
            yield self._plan(part, words, extents, some) if known is None else known[0]
            if len(wanted):
                logits.numpy()[wanted, :count] = some.numpy()[: len(wanted), :count]

    def _plan(
        self, step: StepInput, words: Tensor, extents: Callable[[StepInput], Mapping[str, int]],
        logits: Tensor,
    ) -> Run:  # fmt: skip
        """Return a step's launches; of decode steps, whose views come again, they are kept.

        With other words only the last one differs: the product with their rows of the head.
        """
        if not step.is_decode or step.copies is not None:
            return self._bound(step, words, extents, logits)
        if len(self._plans) >= KEPT_PLANS:
            self._plans.clear()
        before = self._steps.get(id(step))
        if before is None:
            if len(self._steps) >= KEPT_PLANS:
                self._steps.clear()
            found = self._bound(step, words, extents, logits)
            self._steps[id(step)] = step, found
        else:
            recipe, (*same, (product, (rows, _, _, x, w, _, _, *rest))) = before[1]
            named, out = self._convert(words), self._convert(logits)
            counts = len(words), logits.shape[1]
            found = recipe, [*same, (product, (rows, *counts, x, w, named, out, *rest))]
        # Holds both, so that their ids stay their own.
        self._plans[id(step), id(words)] = step, words, found, logits
        return found

    def _bound(
        self, step: StepInput, words: Tensor, extents: Callable[[StepInput], Mapping[str, int]],
        logits: Tensor,
    ) -> Run:  # fmt: skip
        tokens = step.tokens.shape[0]
        fitting = (recipe for rows, recipe in self._recipes if step.is_decode and tokens <= rows)
        recipe = next(fitting, self._recipes[-1][1])
        inputs = by_name(step) | {self._argument: words, "logits": logits}
        counts = {"W": len(words), "C": logits.shape[1]}
        return recipe, recipe.bind(inputs, {**extents(step), **counts})[0]
