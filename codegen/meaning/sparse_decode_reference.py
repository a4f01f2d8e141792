"""The meaning of sparse decode: single tokens read what a policy selects, prompts everything."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ir.core import Operation
from .graph_reference import GraphRun, Kvset, State, dense_partial
from .sparse_reference import SparseAttention


@dataclass
class DecodeAttention(SparseAttention):
    """Attends as sparse decode steps do: give it to a GraphRun as `attend`.

    Sequences with several tokens in a step, those that `whole` [B] names, and layers with a
    sliding window read everything.
    """

    whole: list[bool] = field(default_factory=list)

    def __call__(
        self, run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
    ) -> State:
        """Return the state of q [T, H*C] over the keys that are read."""
        if kvset.window is not None:
            return dense_partial(run, operation, q, starts, kvset)
        return super().__call__(run, operation, q, starts, kvset)

    def _sequence(
        self, run: GraphRun, operation: Operation, q: Tensor, kvset: Kvset, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        if q.shape[0] == 1 and not (self.whole and self.whole[number]):
            return super()._sequence(run, operation, q, kvset, number)
        own = Kvset(kvset.layer, [kvset.slots[number]], 0, [kvset.lengths[number]], None)
        starts = torch.tensor([0, q.shape[0]])
        state = dense_partial(run, operation, q.flatten(1), starts, own)
        return state.max, state.sum, state.accumulator
