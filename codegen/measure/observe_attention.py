"""Watches q and k after rope while a graph runs, and chooses the channels of labels from them.

Four statistics of a channel c, each a mean over all tokens of all blocks (the published code keeps
only the last block of the third). Those of query heads are summed over the heads of a key/value
head:
  q: |q_c|; k: |k_c|; qk: |q_c k_c| of the same token (method 1 of Double Sparsity,
  arXiv 2408.07092);
  centred: mean |q_c| times the deviation of k_c from its mean. A channel whose k hardly moves adds
  the same to every token's score, so it tells no token from another however large it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...ir.core import Operation
from ...ir.sparse.calibration import AttentionCalibration, HeadChannels, Provenance
from ..meaning.graph_reference import GraphRun, Kvset, State, dense_partial


@dataclass
class _Sums:
    """What one layer has seen: sums over tokens by query head [H, C] and key/value head [K, C]."""

    tokens: int
    q: Tensor
    qk: Tensor
    k: Tensor
    k_plain: Tensor
    k_square: Tensor
    low: Tensor
    high: Tensor

    def plus(self, other: _Sums) -> _Sums:
        sums = {name: getattr(self, name) + getattr(other, name)
                for name in ("tokens", "q", "qk", "k", "k_plain", "k_square")}  # fmt: skip
        return _Sums(**sums, low=torch.minimum(self.low, other.low),
                     high=torch.maximum(self.high, other.high))  # fmt: skip


@dataclass
class AttentionObserver:
    """Attends densely and sums statistics: give it to a GraphRun as `attend`, then ask `chosen`."""

    sums: dict[int, _Sums] = field(default_factory=dict)

    def __call__(
        self, run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
    ) -> State:
        """Return dense attention's state, having seen the step's own tokens."""
        shape = (operation["kv_heads"], operation["head_dim"])
        new = [slots[len(slots) - int(rows) :] for slots, rows in
               zip(kvset.slots, starts.diff(), strict=True)]  # fmt: skip
        k = run.keys[kvset.layer][torch.cat(new)].unflatten(-1, shape).double()
        self.add(kvset.layer, q.unflatten(-1, (operation["heads"], -1)).double(), k)
        return dense_partial(run, operation, q, starts, kvset)

    def add(self, layer: int, q: Tensor, k: Tensor) -> None:
        """Add tokens of a layer, after rope: q [T, H, C], k [T, K, C]."""
        qk = (q * k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)).abs().sum(0)
        found = _Sums(len(q), q.abs().sum(0), qk, k.abs().sum(0), k.sum(0), k.square().sum(0),
                      k.amin(0), k.amax(0))  # fmt: skip
        self.sums[layer] = self.sums[layer].plus(found) if layer in self.sums else found

    def chosen(self, provenance: Provenance) -> AttentionCalibration:
        """Return the calibration by the statistic that the provenance names."""
        layers = tuple(_layer(self.sums[at], provenance.statistic) for at in sorted(self.sums))
        first = self.sums[0]
        heads, width = first.q.shape
        tokens = replace(provenance, tokens=first.tokens)
        return AttentionCalibration(heads, len(layers[0]), width, layers, tokens)


def _layer(sums: _Sums, statistic: str) -> tuple[HeadChannels, ...]:
    mean = sums.k_plain / sums.tokens
    deviation = (sums.k_square / sums.tokens - mean.square()).clamp_min(0).sqrt()
    peak = torch.maximum(sums.high - mean, mean - sums.low)
    kv_heads = len(mean)
    q, qk = (x.unflatten(0, (kv_heads, -1)).sum(1) for x in (sums.q, sums.qk))
    weight = {"q": q, "k": sums.k, "qk": qk, "centred": q * deviation}[statistic]
    order = weight.argsort(dim=-1, descending=True, stable=True)
    rows = zip(order, mean, deviation, peak, strict=True)
    return tuple(HeadChannels(*(tuple(part.tolist()) for part in row)) for row in rows)
