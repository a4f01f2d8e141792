"""A radix tree over token ids, whose nodes hold the pages of computed prefixes.

It matches single tokens: a prefix of n tokens gives n tokens, whatever the page size, because a
partial page is shared and copied by whoever writes on. A node's first page may repeat the page
in which its parent ends; the deepest node's page holds all tokens of both.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count

import numpy as np

from .kv_cache import PagedKV


class Node:
    """An edge of the tree with what lies on it: tokens from position `start`, and their pages."""

    __slots__ = ("children", "pages", "parent", "pins", "stamp", "start", "tokens")

    def __init__(self, parent: Node | None, start: int, tokens: np.ndarray, pages: np.ndarray):
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.pages = pages
        self.children: dict[int, Node] = {}
        self.stamp = 0
        self.pins = 0

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.tokens)


class PrefixTree:
    """Remembers computed prefixes; forgets the least recently used when pages run out."""

    def __init__(self, kv: PagedKV) -> None:
        self._kv = kv
        self._root = Node(None, 0, np.empty(0, np.int32), np.empty(0, np.int32))
        self._clock = count(1)
        self._heap: list[tuple[int, int, Node]] = []
        self._tie = count()
        self.size = 0
        kv.evict = self.evict

    def match(self, tokens: np.ndarray) -> tuple[int, np.ndarray]:
        """Return how many leading tokens have KV, and the pages that hold it (not retained)."""
        pages = np.zeros(self._pages_for(len(tokens)), np.int32)
        length = 0
        for node, shared in self._walk(tokens):
            length = node.start + shared
            stop = self._pages_for(length)
            first = node.start // self._kv.page_size
            pages[first:stop] = node.pages[: stop - first]
        return length, pages[: self._pages_for(length)]

    def insert(self, tokens: np.ndarray, pages: np.ndarray) -> None:
        """Remember tokens whose KV lies in `pages`; what the tree has already, it keeps."""
        node, shared = self._deepest(tokens)
        length = node.start + shared
        if length == len(tokens):
            return
        if shared < len(node.tokens):
            node = self._split(node, shared)
        first = length // self._kv.page_size
        kept = pages[first : self._pages_for(len(tokens))].copy()
        leaf = Node(node, length, tokens[length:].copy(), kept)
        node.children[int(tokens[length])] = leaf
        self._kv.retain(kept)
        self.size += 1
        self._touch(leaf)

    def pin(self, tokens: np.ndarray) -> Node:
        """Keep the longest known prefix of `tokens` from eviction until `unpin`."""
        node, _ = self._deepest(tokens)
        node.pins += 1
        return node

    def unpin(self, node: Node) -> None:
        """Undo a `pin`."""
        node.pins -= 1
        self._touch(node)

    def evict(self, wanted: int) -> None:
        """Forget leaves, least recently used first, until `wanted` pages are free.

        Leaves that free no page, because a sequence holds theirs, go only when all else went.
        """
        for frees_nothing_too in (False, True):
            kept: list[tuple[int, int, Node]] = []
            while self._kv.free < wanted and self._heap:
                entry = heapq.heappop(self._heap)
                node = entry[2]
                if node.children or node.parent is None or entry[0] != node.stamp:
                    continue
                if node.pins or not (frees_nothing_too or self._frees(node)):
                    kept.append(entry)
                    continue
                self._remove(node)
            for entry in kept:
                heapq.heappush(self._heap, entry)

    def clear(self) -> None:
        """Forget everything that is not pinned."""
        self.evict(self._kv.num_pages + 1)

    def held(self) -> Iterator[np.ndarray]:
        """Yield the pages that each node refers to, for the integrity check."""
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            yield node.pages
            stack += node.children.values()

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._kv.page_size)

    def _deepest(self, tokens: np.ndarray) -> tuple[Node, int]:
        """Return the last node on the way of `tokens`, with how many of its tokens are shared."""
        path = list(self._walk(tokens))
        return path[-1] if path else (self._root, 0)

    def _walk(self, tokens: np.ndarray) -> Iterator[tuple[Node, int]]:
        """Yield the nodes on the way of `tokens`, with how many tokens of each are shared."""
        node, length, stamp = self._root, 0, next(self._clock)
        while length < len(tokens):
            child = node.children.get(int(tokens[length]))
            if child is None:
                return
            shared = common_prefix(child.tokens, tokens[length:])
            child.stamp = stamp
            if not child.children:
                self._push(child)
            yield child, shared
            if shared < len(child.tokens):
                return
            node, length = child, length + shared

    def _split(self, node: Node, shared: int) -> Node:
        """Cut a node after `shared` tokens; return the new upper one. The lower keeps its pins."""
        parent, middle = node.parent, node.start + shared
        assert parent is not None
        first = node.start // self._kv.page_size
        upper_pages = node.pages[: self._pages_for(middle) - first]
        upper = Node(parent, node.start, node.tokens[:shared], upper_pages)
        upper.stamp = node.stamp
        parent.children[int(upper.tokens[0])] = upper
        lower_pages = node.pages[middle // self._kv.page_size - first :]
        if middle % self._kv.page_size:
            self._kv.retain(lower_pages[:1])
        node.parent, node.start = upper, middle
        node.tokens, node.pages = node.tokens[shared:], lower_pages
        upper.children[int(node.tokens[0])] = node
        self.size += 1
        return upper

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        del parent.children[int(node.tokens[0])]
        node.parent = None
        self.size -= 1
        self._kv.release(node.pages)
        if not parent.children:
            self._push(parent)

    def _frees(self, node: Node) -> bool:
        return bool((self._kv.references[node.pages] == 1).any())

    def _touch(self, node: Node) -> None:
        node.stamp = next(self._clock)
        self._push(node)

    def _push(self, node: Node) -> None:
        heapq.heappush(self._heap, (node.stamp, next(self._tie), node))
        if len(self._heap) > 64 + 4 * self.size:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].stamp]
            heapq.heapify(self._heap)


def common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    """Return how many leading tokens two arrays share."""
    size = min(len(left), len(right))
    different = left[:size] != right[:size]
    first = int(different.argmax()) if size else 0
    return first if size and different[first] else size
