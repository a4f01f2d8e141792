"""Steps whose logits are of some words: their functions, and the rows of the head they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...ir.core import Operation
from ...ir.token_masks import few_words
from .executor import by_name
from .library import Launch, matmul
from .recipe import Memory, Recipe
from .step import StepInput

KEPT_PLANS = 256

HELD_BYTES = 128 << 20
"""What the heads of kept launches may take, those included that their chooser has let go."""

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
        first = functions[0][1]
        self._weight = memory.weights[first["head"]]
        self._argument = first.regions[0].arguments[-1].name
        self._wide = torch.zeros(max_batch, vocab)
        self._few = torch.zeros(max_batch, few_words(vocab))
        most = max((rows for rows, _ in functions), default=0)
        self._part_wide = torch.zeros(most, vocab)  # pages that nothing writes take no memory
        self._part_few = torch.zeros(most, few_words(vocab))
        self._plans: dict[tuple[int, int], tuple[StepInput, Tensor, Run, Tensor]] = {}
        self._steps: dict[int, tuple[StepInput, Run]] = {}

    def head_rows(self, words: np.ndarray) -> Tensor:
        """Return the rows [W, D] f32 of some words, as they are multiplied."""
        weight, rows = self._weight, torch.from_numpy(words).long()
        found = weight.data[rows].float()
        return found if weight.scale is None else found * weight.scale[rows][:, None]

    def known(self, step: StepInput, head: Tensor) -> tuple[Run, Tensor] | None:
        """Return the launches of a decode step that ran before with this head, and its logits."""
        found = self._plans.get((id(step), id(head)))
        return None if found is None else found[2:]

    def logits(self, rows: int, words: int) -> Tensor:
        """Return the buffer for logits of so many rows and words."""
        buffer = self._few if words <= self._few.shape[1] else self._wide
        return buffer[:rows]

    def runs(
        self, step: StepInput, head: Tensor, extents: Callable[[StepInput], Mapping[str, int]],
        parts: Iterable[tuple[StepInput, np.ndarray]] | None = None,
    ) -> Iterator[Run]:  # fmt: skip
        """Yield what computes a step's logits; each is to be launched before the next is taken.

        Given `parts`, the step runs as these, which say what rows of logits they give.
        """
        words = len(head)
        logits = self.logits(step.logits_rows.shape[0], words)
        if parts is None:
            yield self._plan(step, head, extents, logits)
            return
        few = words <= self._part_few.shape[1]
        buffer = self._part_few if few else self._part_wide
        for part, wanted in parts:
            some = buffer[: part.logits_rows.shape[0]]
            known = self.known(part, head)
            yield self._plan(part, head, extents, some) if known is None else known[0]
            if len(wanted):
                logits.numpy()[wanted, :words] = some.numpy()[:, :words]

    def _plan(
        self, step: StepInput, head: Tensor, extents: Callable[[StepInput], Mapping[str, int]],
        logits: Tensor,
    ) -> Run:  # fmt: skip
        """Return a step's launches; of decode steps, whose views come again, they are kept.

        With another head only the last one differs: the product with it.
        """
        out = logits[:, : len(head)]
        if not step.is_decode:
            return self._bound(step, head, extents, out)
        held = {id(kept): kept.nbytes for _, kept, *_ in self._plans.values()}
        if len(self._plans) >= KEPT_PLANS or sum(held.values()) + head.nbytes > HELD_BYTES:
            self._plans.clear()
        before = self._steps.get(id(step))
        if before is None:
            if len(self._steps) >= KEPT_PLANS:
                self._steps.clear()
            found = self._bound(step, head, extents, out)
            self._steps[id(step)] = step, found
        else:
            recipe, (*same, (_, (x, *_))) = before[1]
            found = recipe, [*same, matmul([out, x, head, None])]
        # Holds both, so that their ids stay their own.
        self._plans[id(step), id(head)] = step, head, found, logits
        return found

    def _bound(
        self, step: StepInput, head: Tensor, extents: Callable[[StepInput], Mapping[str, int]],
        logits: Tensor,
    ) -> Run:  # fmt: skip
        tokens = step.tokens.shape[0]
        fitting = (recipe for rows, recipe in self._recipes if step.is_decode and tokens <= rows)
        recipe = next(fitting, self._recipes[-1][1])
        inputs = by_name(step) | {self._argument: head, "logits": logits}
        return recipe, recipe.bind(inputs, {**extents(step), "W": len(head)})[0]
