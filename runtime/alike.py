"""Requests by what their tokens begin with: who shares some stretch with another is found at once,
not by looking at each."""

from __future__ import annotations

import numpy as np

from .prefix_tree import common_prefix
from .request import Request


class Alike:
    """A radix tree over the tokens of some requests."""

    def __init__(self) -> None:
        self._root = _Edge(np.empty(0, np.int32), [])
        self.size = 0
        """How many requests it has."""

    def add(self, request: Request) -> None:
        """Put a request in, by the tokens that its sequence has now."""
        tokens = request.sequence.tokens[: request.sequence.length]
        edge, end = self._root, 0
        self.size += 1
        edge.requests.append(request)
        while end < len(tokens):
            child = edge.children.get(int(tokens[end]))
            if child is None:
                edge.children[int(tokens[end])] = _Edge(tokens[end:], [request])
                return
            shared = _shared(child.tokens, tokens[end:])
            if shared < len(child.tokens):
                child.split(shared)
            child.requests.append(request)
            edge, end = child, end + shared

    def sharing(self, tokens: np.ndarray, more: int) -> list[Request]:
        """Return those that begin with more than the first `more` tokens, in the order in which
        they came; `tokens` has that many."""
        edge, end = self._root, 0
        while end <= more:
            child = edge.children.get(int(tokens[end]))
            if child is None:
                return []
            size = min(len(child.tokens), more + 1 - end)
            if child.tokens[:size].tobytes() != tokens[end : end + size].tobytes():
                return []
            edge, end = child, end + size
        return edge.requests


class _Edge:
    """Tokens on the way to a node, the edges that go on from there, and who passes."""

    __slots__ = ("children", "requests", "tokens")

    def __init__(self, tokens: np.ndarray, requests: list[Request]) -> None:
        self.tokens, self.requests = tokens, requests
        self.children: dict[int, _Edge] = {}

    def split(self, at: int) -> None:
        """End the edge after `at` of its tokens; another goes on with the rest."""
        lower = _Edge(self.tokens[at:], self.requests.copy())
        lower.children, self.children = self.children, {int(lower.tokens[0]): lower}
        self.tokens = self.tokens[:at]


def _shared(first: np.ndarray, second: np.ndarray) -> int:
    size = len(first)
    same = first.tobytes() == second[:size].tobytes()
    return size if same else common_prefix(first, second)
