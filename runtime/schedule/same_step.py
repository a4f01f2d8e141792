"""Prompts of one step that begin alike: the first computes what they share, the others read it.

A step writes the keys and values of all its tokens, layer by layer, before attention reads them. So
a sequence may hold pages that another writes in the same step, and computes only what is its own.
Where both go on in one page each has its own page; what they share of it is copied there, slot by
slot and in each layer, by executors that say that they do so: `copies_slots`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from ..memory.kv_cache import PagedKV
from .alike import Alike
from .batch import Chunk
from .request import Request

Leader = tuple[int, Request | None]
"""How many leading tokens a request shares with another one that computes them, and that one."""


class SameStep:
    """The chunks of the step that is being put together, and which of them read others' keys."""

    def __init__(self, kv: PagedKV, able: bool) -> None:
        self.able = able
        self._kv = kv
        self._chunks: Mapping[Request, Chunk] = {}
        self._asked: dict[Request, tuple[Request, int]] = {}
        self._fresh: dict[Request, int] = {}
        """From which position on a sequence's KV is there only when the step has written it."""
        self._written: dict[int, np.ndarray] = {}
        """The slots [P] that the tokens of a page are written to by who computes them."""
        self._pairs: list[tuple[Request, Chunk, Request, Chunk]] = []
        self._alike = Alike()
        """Those that are looked at as leaders, of the step."""

    def begin(self, chunks: Mapping[Request, Chunk]) -> None:
        """Begin with a step, whose chunks come to stand in `chunks`."""
        self._chunks = chunks
        self._asked, self._fresh, self._written, self._pairs = {}, {}, {}, []
        if self._alike.size:
            self._alike = Alike()

    def changed(self) -> None:
        """Look at all others anew: one of them is none any more."""
        self._alike = Alike()

    def leaders(self, request: Request, others: Sequence[Request]) -> tuple[Leader, Leader]:
        """Return who of some others shares most with a request of what this step computes, and of
        what it or a later one does; both more than the request has KV of. Within a step, others
        only come to stand behind those that there are, but for `changed`."""
        sequence, limit = request.sequence, request.first_logits
        now: Leader = (sequence.resident, None)
        later, looked = now, set[Request]()
        for other in others[self._alike.size :]:
            self._alike.add(other)
        for shared, alike in self._alike.sharing(sequence.tokens[:limit], sequence.resident):
            most = min(shared, sequence.length - 1)
            for other in alike if now[0] < most else ():
                if other in looked or other.sequence.resident >= shared:
                    continue
                looked.add(other)
                later = (shared, other) if later[1] is None else later
                there = min(shared, self._there(request, other))
                now = (there, other) if there > now[0] else now
                if now[0] == most or not self.able:
                    return now, later  # who shares less cannot have more for it
        return now, later

    def _there(self, request: Request, other: Request) -> int:
        """Return how many of another's tokens have KV in this step, for one who goes on then."""
        chunk = self._chunks.get(other) if self.able else None
        # A fill all of whose tokens another computes waits for these: it is done when they are.
        return 0 if chunk is None else min(chunk.start + chunk.count, request.sequence.length - 1)

    def goes_behind(self, request: Request) -> bool:
        """Let a request that was asked for with what stands before its own tokens read that, if
        this step computes the end of it; see `follow`. Who else begins alike has no more for it."""
        other, sequence = request.behind, request.sequence
        chunk = self._chunks.get(other) if other is not None and self.able else None
        if other is None or chunk is None:
            return False
        shared = sequence.fresh_from
        if not sequence.resident < shared <= min(chunk.start + chunk.count, request.first_logits):
            return False
        sequence.logged = other.sequence.logged  # its way through the log of prompts goes on there
        return self.follow(request, (shared, other))

    def follow(self, request: Request, leader: Leader) -> bool:
        """Let a request have what another computes in this step; return False if there are no pages
        for the rest. `took` or `refused` says whether it takes part."""
        shared, other = leader
        sequence, size = request.sequence, self._kv.page_size
        pages = -(-sequence.length // size) - shared // size
        if other is None or not self._kv.makes_room(pages):
            return False
        self._kv.adopt_rest(sequence, other.sequence.pages[: -(-shared // size)], shared)
        self._asked[request] = other, shared
        return True

    def refused(self, request: Request) -> None:
        """Take back what a request was given: it does not take part in the step."""
        if self._asked.pop(request, None) is not None:
            self._kv.drop(request.sequence)

    def took(self, request: Request, chunk: Chunk) -> None:
        """Take note of a chunk, and have those slots copied to it whose tokens it shares."""
        size, pages = self._kv.page_size, request.sequence.pages
        if self._written:  # pages may have changed hands
            for page in pages[chunk.start // size : -(-(chunk.start + chunk.count) // size)]:
                self._written.pop(int(page), None)
        other, shared = self._asked.pop(request, (None, 0))
        if other is None:
            self._fresh[request] = chunk.start
            return
        fresh = self._fresh[request] = self._fresh[other]
        self._pairs.append((request, chunk, other, self._chunks[other]))
        first, last = max(fresh - shared // size * size, 0), shared % size
        if first < last:
            page, theirs = int(pages[shared // size]), int(other.sequence.pages[shared // size])
            slots = self._written[page] = self._own_slots(page)
            chunk.copied = copied = np.empty((2, last - first), np.int32)
            copied[1] = slots[first:last]
            slots[first:last] = copied[0] = self._slots(theirs)[first:last]

    def reads(self, chunk: Chunk) -> bool:
        """Say whether others of the step read what a chunk computes."""
        return any(theirs is chunk for *_, theirs in self._pairs)

    def _slots(self, page: int) -> np.ndarray:
        known = self._written.get(page)
        return self._own_slots(page) if known is None else known

    def _own_slots(self, page: int) -> np.ndarray:
        size = self._kv.page_size
        return np.arange(page * size, (page + 1) * size, dtype=np.int32)

    def orphans(self, alive: Collection[Request]) -> Iterator[Request]:
        """Yield those who take part without the chunk that they read: who computes it has lost its
        pages to another since. What is yielded is no longer `alive` when it goes on."""
        for request, chunk, other, theirs in self._pairs:
            reads = request in alive and self._chunks.get(request) is chunk
            if reads and (other not in alive or self._chunks.get(other) is not theirs):
                yield request
