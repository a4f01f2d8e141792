"""Requests by what their tokens begin with: who shares some stretch with another is found at once,
not by looking at each."""

from __future__ import annotations

import numpy as np

from ..memory.radix import Edge
from .request import Request


class Alike:
    """A radix tree over the tokens of some requests."""

    def __init__(self) -> None:
        self._root = _Edge(np.empty(0, np.int32))
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
            shared = child.shared(tokens[end:])
            if shared < len(child.tokens):
                child.split(shared)
            child.requests.append(request)
            edge, end = child, end + shared

    def sharing(self, tokens: np.ndarray, more: int) -> list[tuple[int, list[Request]]]:
        """Return those that begin with more than the first `more` tokens: how many they share at
        least, and who, in the order in which they came; from the most on, each time those before
        included."""
        edge, end, found = self._root, 0, []
        while end < len(tokens) and (child := edge.children.get(int(tokens[end]))) is not None:
            shared = child.shared(tokens[end:])
            end += shared
            if end > more:
                found.append((end, child.requests))
            if shared < len(child.tokens):
                break
            edge = child
        return found[::-1]


class _Edge(Edge):
    """Who passes, too."""

    __slots__ = ("requests",)

    def __init__(self, tokens: np.ndarray, requests: list[Request] | None = None) -> None:
        super().__init__(tokens)
        self.requests = requests or []

    def split(self, at: int) -> _Edge:
        """Let those who pass pass both."""
        lower = super().split(at)
        lower.requests = self.requests.copy()
        return lower
