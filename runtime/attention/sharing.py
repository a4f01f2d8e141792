"""Which pages several sequences of a step share, and which of those are read once for all.

NumPy looks at the page table once; what follows is a walk over small trees, in plain Python, as
an array of a few numbers takes NumPy longer than adding them up. The host does this before each
step whose rows have changed, while the device may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .cost import Batch, Rates, Run, Shape, Way, roofs_of

Array = np.ndarray


class Node(NamedTuple):
    """Pages [first, last) that some sequences share, the groups that go on sharing, and the
    sequences in none of these."""

    members: tuple[int, ...]
    first: int
    last: int
    children: tuple[Node, ...]
    alone: tuple[int, ...]


@dataclass
class _Group:
    """Rows, in the order of their pages, from one on that share `depth` pages, and those of them
    that share more."""

    depth: int
    start: int
    inner: list[Node]


def shared_pages(table: Array, pages: Array) -> tuple[Node, ...]:
    """Return the forest of page runs that at least two rows share; `pages` counts each row's.

    Rows are sorted by their pages; how many each shares with the next says where groups begin and
    end, as in a tree of suffixes (Abouelhoda et al., Journal of Discrete Algorithms 2, 2004).
    """
    rows = np.flatnonzero(pages > 0)
    if len(rows) < 2:
        return ()
    counts = pages[rows]
    width = int(counts.max())
    entries = table[rows, :width].astype(">u4")  # bytes of which sort as numbers do
    entries[np.arange(width) >= counts[:, None]] = 0xFFFFFFFF  # behind the last: no page's number
    keys = [entry.tobytes() for entry in entries]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    entries, counts = entries[order], counts[order]
    differs = entries[1:] != entries[:-1]
    alike = np.where(differs.any(1), differs.argmax(1), width)
    alike = np.minimum(alike, np.minimum(counts[1:], counts[:-1]))
    return _forest(rows[order].tolist(), alike.tolist())


def _forest(rows: Sequence[int], alike: Sequence[int]) -> tuple[Node, ...]:
    """Return the groups of sorted rows, each of which shares so many pages with the next."""
    whole = _Group(0, 0, [])
    open_ones = [whole]
    for end, depth in enumerate([*alike, 0], 1):
        start = end - 1
        while open_ones[-1].depth > depth:
            group = open_ones.pop()
            start, outer = group.start, open_ones[-1]
            if outer.depth < depth:
                outer = _Group(depth, start, [])
                open_ones.append(outer)
            members, inside = tuple(sorted(rows[start:end])), group.inner
            shared = {member for node in inside for member in node.members}
            alone = tuple(member for member in members if member not in shared)
            outer.inner.append(Node(members, outer.depth, group.depth, tuple(inside), alone))
        if open_ones[-1].depth < depth:
            open_ones.append(_Group(depth, start, []))
    return tuple(whole.inner)


def flat(batch: Batch, shape: Shape, window: int = 0) -> list[Run]:
    """Return one run a sequence: all its keys, or those that a window's queries may see."""
    runs, counts = [], np.diff(batch.starts).tolist()
    for sequence, (length, queries) in enumerate(zip(batch.lengths.tolist(), counts, strict=True)):
        first = max(length - queries + 1 - window, 0) if window else 0
        start = first // shape.granule * shape.granule
        if queries and length > start:
            runs.append(Run(sequence, start, length - start, (sequence,)))
    return runs


class Sharing:
    """What a step's sequences may share, and who reads what if they do: each found once."""

    def __init__(self, batch: Batch, ways: Sequence[Way], none: bool = False) -> None:
        """With `none`, nothing is shared."""
        self._batch, self._way = batch, next((way for way in ways if way.many), ways[0])
        pages = np.where(np.diff(batch.starts) > 0, -(-batch.lengths // ways[0].shape.page), 0)
        self.nodes = () if none else shared_pages(batch.table, pages)
        """The runs of pages that sequences share."""
        self._known: dict[bool | None, list[Run]] = {}

    def runs(self, forced: bool | None) -> list[Run]:
        """Return each sequence's own run (`forced` None), those that share what roofs say (False),
        or all that can be shared (True)."""
        if forced not in self._known:
            self._known[forced] = self._found(forced)
        return self._known[forced]

    def forced(self, runs: Sequence[Run]) -> bool | None:
        """Return which of these some runs are."""
        return next(forced for forced, known in self._known.items() if known is runs)

    def _found(self, forced: bool | None) -> list[Run]:
        if forced is None:
            return flat(self._batch, self._way.shape)
        inside = {member for node in self.nodes for member in node.members}
        chooser = Chooser(self._batch, self._way.shape, self._way.rates)
        found = [chooser.every(node) if forced else chooser.best(node, 0)[1]()
                 for node in self.nodes]  # fmt: skip
        shared = [run for runs in found for run in runs]
        return shared + [run for run in self.runs(None) if run.of not in inside]


Runs = Callable[[], list[Run]]
"""Gives the runs of a choice: most choices are not taken."""


class Chooser:
    """Decides node by node, from a start that ancestors may have left unread, what is read once."""

    def __init__(self, batch: Batch, shape: Shape, rates: Rates) -> None:
        self._rows, self._lengths = np.diff(batch.starts).tolist(), batch.lengths.tolist()
        self._page, self._key_bytes, self._rates = shape.page, shape.key_bytes, rates
        self._shape = shape
        self._known: dict[tuple[int, int], tuple[float, Runs]] = {}
        """What is below nodes, by their identity, from a page on: both of a node's choices ask."""
        self._sums: dict[int, tuple[int, int]] = {}

    def best(self, node: Node, start: int) -> tuple[float, Runs]:
        """Return the seconds and runs of a node's sequences from page `start` on."""
        keys = (node.last - start) * self._page
        cost, rest = self._below(node, node.last)
        cost += self._shared(node, keys)
        apart, others = self._below(node, start)
        if cost >= apart - self._saved(node, keys):
            return apart, others
        run = Run(node.members[0], start * self._page, keys, node.members)
        return cost, lambda: [run, *rest()]

    def every(self, node: Node) -> list[Run]:
        """Return the runs of a node's sequences where all that can be shared is."""
        first, page = node.first, self._page
        run = Run(node.members[0], first * page, (node.last - first) * page, node.members)
        below = [each for child in node.children for each in self.every(child)]
        return [run, *below, *self._apart(node, node.last)]

    def _sums_of(self, node: Node) -> tuple[int, int]:
        """Return the keys of a node's sequences that are in none of its groups, and the query rows
        of all of them."""
        found = self._sums.get(id(node))
        if found is None:
            keys = sum([self._lengths[member] for member in node.alone])
            rows = sum([self._rows[member] for member in node.members])
            found = self._sums[id(node)] = keys, rows
        return found

    def _below(self, node: Node, start: int) -> tuple[float, Runs]:
        """Return the same for the groups of a node, and for each sequence in none of them."""
        key = id(node), start
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._found_below(node, start)
        return found

    def _found_below(self, node: Node, start: int) -> tuple[float, Runs]:
        first = start * self._page
        if start < node.last:
            keys = self._sums_of(node)[0] - first * len(node.alone)
        else:  # of a sequence that ends in the last page of what is shared nothing is left
            keys = sum([max(self._lengths[member] - first, 0) for member in node.alone])
        cost = keys * self._key_bytes / self._rates.memory
        if not node.children:
            return cost, lambda: self._apart(node, start)
        inner = [self.best(child, start) for child in node.children]
        cost += sum([more for more, _ in inner])

        def runs() -> list[Run]:
            return [run for _, below in inner for run in below()] + self._apart(node, start)

        return cost, runs

    def _apart(self, node: Node, start: int) -> list[Run]:
        """Return what is left of each of a node's sequences that is in none of its groups."""
        first, lengths = start * self._page, self._lengths
        return [Run(member, first, lengths[member] - first, (member,))
                for member in node.alone if lengths[member] > first]  # fmt: skip

    def _shared(self, node: Node, keys: int) -> float:
        """Return the seconds of reading keys once for a node, its rows' states included."""
        rows = self._sums_of(node)[1]
        states = rows * self._shape.state_bytes / self._rates.memory
        return max(roofs_of(keys, rows, self._shape, self._rates)) + states

    def _saved(self, node: Node, keys: int) -> float:
        """Return the seconds that the cache saves when each sequence reads keys by itself."""
        again = keys * self._key_bytes * (len(node.members) - 1)
        return again / self._rates.memory - again / self._rates.cache
