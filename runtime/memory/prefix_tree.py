"""A radix tree over token ids, whose nodes hold the pages of computed prefixes.

It matches single tokens: a prefix of n tokens gives n tokens, whatever the page size, because a
partial page is shared and copied by whoever writes on. A node's first page may repeat the page
in which its parent ends; the deepest node's page holds all tokens of both.

When pages run out, leaves go in this order: those that no prompt to come reads, as far as the
program states; of these the cheapest to compute again for each page that they hold, a value that
ages (GreedyDual: Young 1994; Cao and Irani 1997); of equals the least recently used. Last come
those that are stated, the one that is read latest first (Belady 1966).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from math import inf
from typing import Any, Protocol, cast

import numpy as np

from .kv_cache import PagedKV
from .sequence import Sequence

SPARE = 24
"""Pages that are freed beyond those that are wanted, of what nothing known reads again: looking
for them costs as much as for one. With 24 in place of 8 `skeleton` (CPU) looks 17 times, not 34."""


class Node:
    """An edge of the tree with what lies on it: tokens from position `start`, and their pages."""

    __slots__ = (
        "children", "marked", "name", "next_use", "nexts", "pages", "parent", "stamp", "start",
        "tokens", "value",
    )  # fmt: skip

    def __init__(self, parent: Node | None, start: int, tokens: np.ndarray, pages: np.ndarray):
        self.parent = parent
        self.start = start
        self.hold(tokens, pages)
        self.children: dict[int, Node] = {}
        self.stamp = 0
        self.value = 0.0
        self.next_use: float = inf
        self.marked = False
        """Whether `next_use` is known; not so of a node that came since prompts were looked at."""
        self.nexts: set[int] = set()
        """Tokens with which prompts to come go on after the node."""

    def hold(self, tokens: np.ndarray, pages: np.ndarray) -> None:
        """Have these tokens lie on the edge, in these pages; `name` are their bytes."""
        self.tokens, self.pages = tokens, pages
        self.name = tokens.tobytes()

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.tokens)


End = tuple[Node, int, int | None]
"""The last node on the way of some tokens, where it ends, and which token follows, if one does."""


class HasPlace(Protocol):
    """Tokens that are looked up again and again, as a sequence or a prompt to come."""

    place: tuple[Any, int] | None
    """The node that they were found at last, and where it began."""


class IsStated(HasPlace, Protocol):
    """A prompt to come, whose tokens stay the same."""

    end: End | None
    """Where its way in the tree ended last."""


class Upcoming(Protocol):
    """Prompts that programs will send, as far as they are known."""

    @property
    def waiting(self) -> Iterable[object]:
        """The rows that have not started, as far as they are known."""
        ...

    @property
    def version(self) -> int:
        """A number that changes whenever the prompts do."""
        ...

    def prompts(self) -> Iterable[tuple[int, np.ndarray, IsStated | None]]:
        """Yield when a prompt is sent (smaller is sooner), the ids with which it begins, and what
        remembers where in the tree they were found last."""
        ...


OPEN_ROWS = 0
"""When open rows send their prompts, as `Upcoming.prompts` says it."""


class PrefixTree:
    """Remembers computed prefixes; when pages run out, forgets what is read latest, or never."""

    def __init__(self, kv: PagedKV) -> None:
        self.upcoming: Upcoming | None = None
        self.streams: Callable[[], Iterable[tuple[float, np.ndarray, HasPlace]]] = lambda: ()
        """When open streams will be read again, their tokens, and themselves."""
        self.forgotten = 0
        """Tokens that were evicted."""
        self.missed = 0
        """How often it forgot what an open row is sure to read again."""
        self.spare = SPARE
        self._kv = kv
        self._marked: int | None = None
        self._age = 0.0
        self._root = Node(None, 0, np.empty(0, np.int32), np.empty(0, np.int32))
        self._clock = count(1)
        self._heap: list[tuple[float, int, int, Node]] = []
        self._tie = count()
        self.size = 0
        kv.evict = self.evict

    def match(self, tokens: np.ndarray, of: Sequence | None = None) -> tuple[int, np.ndarray]:
        """Return how many leading tokens have KV, and the pages that hold it (not retained).

        Pages before that of the first token that the sequence `of` has no KV of may be any.
        """
        node, shared = self._used(tokens, of)
        length = node.start + shared
        stop = self._pages_for(length)
        pages = np.zeros(stop, np.int32)
        wanted = 0 if of is None else of.resident // self._kv.page_size
        while stop > wanted and node is not self._root:
            first = node.start // self._kv.page_size
            pages[first:stop] = node.pages[: stop - first]
            node, stop = cast(Node, node.parent), first
        return length, pages

    def known(self, tokens: np.ndarray, of: Sequence | None = None) -> int:
        """Return how many leading tokens have KV; that counts as no use of it."""
        node, shared = self._deepest(tokens, of)
        return node.start + shared

    def insert(self, tokens: np.ndarray, pages: np.ndarray, of: Sequence | None = None) -> None:
        """Remember tokens whose KV lies in `pages`; what the tree has already, it keeps."""
        node, shared = self._used(tokens, of)
        length = node.start + shared
        if length == len(tokens):
            return
        if shared < len(node.tokens):
            node = self._split(node, shared)
        first = length // self._kv.page_size
        kept = pages[first : self._pages_for(len(tokens))].copy()
        leaf = Node(node, length, tokens[length:].copy(), kept)
        leaf.marked = node.marked and int(tokens[length]) not in node.nexts
        node.children[int(tokens[length])] = leaf
        self._kv.retain(kept)
        self.size += 1
        self._touch(leaf)
        if of is not None:
            of.place = leaf, length

    def evict(self, wanted: int) -> None:
        """Forget leaves until `wanted` pages are free: those never read again before others.

        Leaves that free no page, because a sequence holds theirs, go only when all else went.
        """
        self._mark()
        free = self._kv.free
        for frees_nothing_too in (False, True):
            stated: list[tuple[float, int, int, Node]] = []
            kept: list[tuple[float, int, int, Node]] = []
            goal = wanted if frees_nothing_too or self.upcoming is None else wanted + self.spare
            while (free < goal and self._heap) or (free < wanted and stated):
                if not self._heap:
                    node = heapq.heappop(stated)[-1]
                    if node.parent is not None and not node.children:
                        self.missed += node.next_use == OPEN_ROWS
                        self._shorten(node, wanted - free)
                        free = self._kv.free
                        if node.parent is not None:
                            key = -node.next_use, -node.end, next(self._tie), node
                            heapq.heappush(stated, key)
                    continue
                entry = heapq.heappop(self._heap)
                node = entry[3]
                if node.children or node.parent is None or entry[1] != node.stamp:
                    continue
                if not node.marked:
                    self._mark(anew=True)
                if not (frees_nothing_too or self._kv.frees(node.pages)):
                    kept.append(entry)
                elif node.next_use < inf:
                    heapq.heappush(stated, (-node.next_use, -node.end, next(self._tie), node))
                else:
                    self._age = max(self._age, entry[0])
                    self._shorten(node, goal - free)
                    free = self._kv.free
                    if node.parent is not None:
                        heapq.heappush(self._heap, entry)
            for entry in kept:
                heapq.heappush(self._heap, entry)
            for *_, node in stated:
                if node.parent is not None:
                    self._push(node)

    def _mark(self, anew: bool = False) -> None:
        """Write on each node when it is read next, if prompts to come have changed, or `anew`."""
        version = self.upcoming.version if self.upcoming else -1
        if version == self._marked and not anew:
            return
        self._marked = version
        for node in chain((self._root,), self._nodes()):
            node.next_use, node.marked = inf, True
            if node.nexts:
                node.nexts = set()
        for when, tokens, prompt in self.upcoming.prompts() if self.upcoming else ():
            end = None if prompt is None else prompt.end
            if end is None or not self._still_ends(*end):
                end = self._end_of(tokens, prompt)
                if prompt is not None:
                    prompt.end = end
            self._expect_at(end, when)
        for turn, tokens, of in self.streams():
            self.expect(tokens, turn, of)

    def expect(self, tokens: np.ndarray, when: float, of: HasPlace | None = None) -> None:
        """Note that `tokens` will be read again; what is read sooner is kept longer.

        With `of` whose tokens they are, the way goes on from where it was found last.
        """
        self._expect_at(self._end_of(tokens, of), when)

    def _expect_at(self, end: End, when: float) -> None:
        node, _, following = end
        if following is not None:
            node.nexts.add(following)
        # What is read with a node is read no later: above one that is marked so all are.
        while node.parent is not None and node.next_use > when:
            node.next_use = when
            node = node.parent

    def _end_of(self, tokens: np.ndarray, of: HasPlace | None) -> End:
        """Return where the way of tokens ends, and have a node end there."""
        node, shared = self._deepest(tokens, of)
        if shared < len(node.tokens):
            node = self._split(node, shared)
        end = node.end
        return node, end, tokens.item(end) if end < len(tokens) else None

    def clear(self) -> None:
        """Forget everything."""
        self.evict(self._kv.num_pages + 1)

    def held(self) -> Iterator[np.ndarray]:
        """Yield the pages that each node refers to, for the integrity check."""
        for node in self._nodes():
            yield node.pages

    def _nodes(self) -> Iterator[Node]:
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack += node.children.values()

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._kv.page_size)

    def _deepest(self, tokens: np.ndarray, of: HasPlace | None = None) -> tuple[Node, int]:
        """Return the last node on the way of `tokens`, with how many of its tokens are shared.

        With `of` whose tokens they are, the way goes on from where it was found last.
        """
        node, length = self._root, 0
        if of is not None and of.place is not None:
            node, length = self._above(*of.place, len(tokens))
        last, shared = node, len(node.tokens)
        size, name, width = len(tokens), tokens.tobytes(), tokens.itemsize
        while length < size:
            child = node.children.get(tokens.item(length))
            if child is None:
                break
            last, shared = child, len(child.tokens)
            if not name.startswith(child.name, width * length):
                shared = common_prefix(child.tokens, tokens[length:])
                break
            node, length = child, length + shared
        if of is not None:
            of.place = None if last is self._root else (last, last.start)
        return last, shared

    def _still_ends(self, node: Node, end: int, following: int | None) -> bool:
        """Say whether a way still ends with a node: it is there, and has neither lost tokens nor
        got the one that would follow. What was split lies before it."""
        there = node.parent is not None or node is self._root
        return there and node.end == end and following not in node.children

    def _above(self, node: Node, start: int, size: int) -> tuple[Node, int]:
        """Return the node before one that began at `start` when it was found, and where it ends:
        at `size` at most. What was split since lies lower, what was removed is searched anew."""
        while node.parent is not None:
            if node.start <= min(start, size):
                return node.parent, node.start
            node = node.parent
        return self._root, 0

    def _used(self, tokens: np.ndarray, of: Sequence | None = None) -> tuple[Node, int]:
        """Return the last node on the way of `tokens`, and note that the way is used now.

        Nodes above are used no less: they hear of it when what lies below them goes.
        """
        node, shared = self._deepest(tokens, of)
        node.stamp = next(self._clock)
        if not node.children and node is not self._root:
            self._push(node)
        return node, shared

    def _split(self, node: Node, shared: int) -> Node:
        """Cut a node after `shared` tokens; return the new upper one."""
        parent, middle = node.parent, node.start + shared
        assert parent is not None
        first = node.start // self._kv.page_size
        upper_pages = node.pages[: self._pages_for(middle) - first]
        upper = Node(parent, node.start, node.tokens[:shared], upper_pages)
        upper.stamp, upper.next_use = node.stamp, node.next_use
        upper.marked = node.marked
        parent.children[int(upper.tokens[0])] = upper
        lower_pages = node.pages[middle // self._kv.page_size - first :]
        if middle % self._kv.page_size:
            self._kv.retain(lower_pages[:1])
        node.parent, node.start = upper, middle
        node.hold(node.tokens[shared:], lower_pages)
        upper.children[int(node.tokens[0])] = node
        self.size += 1
        return upper

    def _shorten(self, node: Node, wanted: int) -> None:
        """Forget the last `wanted` pages of a leaf, or the whole of it."""
        kept = len(node.pages) - max(1, wanted)
        if kept <= 0:
            self._remove(node)
            return
        end = (node.start // self._kv.page_size + kept) * self._kv.page_size
        self.forgotten += node.end - end
        self._kv.release(node.pages[kept:])
        if node.next_use < inf:
            node.nexts.add(int(node.tokens[end - node.start]))
        node.hold(node.tokens[: end - node.start], node.pages[:kept])

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        first = int(node.tokens[0])
        del parent.children[first]
        if node.next_use < inf:
            parent.nexts.add(first)
        node.parent = None
        parent.stamp = max(parent.stamp, node.stamp)
        self.size -= 1
        self.forgotten += len(node.tokens)
        self._kv.release(node.pages)
        if not parent.children:
            self._push(parent)

    def _touch(self, node: Node) -> None:
        node.stamp = next(self._clock)
        self._push(node)

    def _push(self, node: Node) -> None:
        node.value = self._age + len(node.tokens) / max(1, len(node.pages))
        heapq.heappush(self._heap, (node.value, node.stamp, next(self._tie), node))
        if len(self._heap) > 64 + 4 * self.size:
            self._heap = [entry for entry in self._heap if entry[1] == entry[3].stamp]
            heapq.heapify(self._heap)


def common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    """Return how many leading tokens two arrays share."""
    size = min(len(left), len(right))
    different = left[:size] != right[:size]
    first = int(different.argmax()) if size else 0
    return first if size and different[first] else size
