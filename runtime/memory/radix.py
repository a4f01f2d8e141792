"""Edges of a radix tree over token lists, for who keeps no pages in it."""

from __future__ import annotations

from typing import Self

import numpy as np

from .prefix_tree import common_prefix


class Edge:
    """Tokens [n] i32 on the way to a node, and the edges that go on from there by first token."""

    __slots__ = ("children", "tokens")

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens
        self.children: dict[int, Self] = {}

    def split(self, at: int) -> Self:
        """End the edge after `at` of its tokens; return the one that goes on with the rest."""
        lower = type(self)(self.tokens[at:])
        lower.children, self.children = self.children, {int(lower.tokens[0]): lower}
        self.tokens = self.tokens[:at]
        return lower

    def shared(self, tokens: np.ndarray) -> int:
        """Return how many of the edge's tokens are those that `tokens` begin with."""
        size = len(self.tokens)
        same = self.tokens.tobytes() == tokens[:size].tobytes()
        return size if same else common_prefix(self.tokens, tokens)
