"""Whether keys across a link are worth predicting: what the next layer will read, fetched ahead."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.sparse.policy import SparsePolicy
from .hardware import Level
from .sparse_attention import launch_seconds, select_launches, sparse_parts
from .sparse_bytes import AttentionShape

USEFUL = 0.5
"""The share of what comes ahead that the query itself then selects: half on tiny-dense (2.4 K
tokens of zoo/heldout.txt); with random weights 0.37 at 256 K tokens and 0.61 at 64 K
(`bench.sparse_speed --only host_model`)."""
GUESS, BOOKS = 3, 4
"""Launches a layer that make a predicted query: norm, product and rotation of the next layer. And
those that look for what it selects in the layer's cache, find and give places, and copy: on a queue
of their own, but what comes late waits for that."""


@dataclass(frozen=True)
class Ahead:
    """Seconds a layer that predictions take, and seconds of the link that they save, at most."""

    cost: float
    saved: float

    @property
    def pays(self) -> bool:
        """Whether predictions save more than they take."""
        return self.saved > self.cost

    def __str__(self) -> str:
        verb = "are" if self.pays else "are not"
        took, saved = 1e6 * self.cost, 1e6 * self.saved
        return (f"keys {verb} fetched ahead: to predict what a layer reads takes {took:.0f} us, "
                f"and saves {saved:.0f} us of the link")  # fmt: skip


def ahead(
    shape: AttentionShape, level: Level, policy: SparsePolicy, context: int, product: float,
    arrives: float, link: float, share: float = 0.0,
) -> Ahead:  # fmt: skip
    """Return what predictions of one sequence's keys cost and save a layer.

    `product` is the bytes of weights that make queries, `arrives` how many tokens' keys and values
    come ahead while a layer computes, over a `link` of so many bytes a second; `share` as in
    `sparse_seconds`.
    """
    parts = sparse_parts(shape, level, policy, context, share=share)
    launches = GUESS + BOOKS + select_launches(level.kind, policy, shape.head_dim)
    selection = sum(parts.values()) - parts["attention"]
    cost = selection + product / level.main.read.median
    saved = USEFUL * arrives * shape.token / link
    return Ahead(cost + launch_seconds(level, launches), saved)
