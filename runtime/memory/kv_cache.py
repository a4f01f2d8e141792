"""Paged KV memory: which page holds what, how often it is shared, copy-on-write at token grain.

Page `i` of a sequence holds its positions `[i * P, (i + 1) * P)`. Forks share all pages, the
partial last one included. A page has one writer at most: it writes on in place, since all that the
others know lies before; another that would write into a shared page copies it. A sequence that
goes back, or comes back to a page, is no longer its writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

import numpy as np

from .sequence import Order, Sequence

NOBODY = -1

FEW = 16
"""Pages up to which they are counted one by one: NumPy's indexing takes as long for one as for
16."""


class PagedKV:
    """Hands out pages, counts references, and keeps sequences' page tables."""

    def __init__(
        self, num_pages: int, page_size: int, capacity: int, copy_page: Callable[[int, int], None]
    ) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.capacity = capacity
        self._left: list[np.ndarray] = []
        """Pages that sequences have let go of since the books had to be exact: they still count."""
        self._numbers = count()
        self._live = 0
        self.peak = 0
        self.evict: Callable[[int], None] = lambda wanted: None
        self._copy_page = copy_page
        self._begin(0)

    def place(self, first: int) -> None:
        """Hand out the pages from `first` on of a larger memory, where others have pages of their
        own; only as long as nothing refers to a page."""
        if self.free < self.num_pages:
            raise ValueError("pages are in use already")
        self._begin(first)

    def _begin(self, first: int) -> None:
        end = first + self.num_pages
        self._first = first
        self._references, self._holders = np.zeros(end, np.int32), np.zeros(end, np.int32)
        self._writer = np.full(end, NOBODY, np.int64)
        self._references_of, self._holders_of = self._references.data, self._holders.data
        self._free = list(range(end - 1, first - 1, -1))

    @property
    def free(self) -> int:
        """Pages that nothing refers to."""
        self._settle()
        return len(self._free)

    @property
    def live(self) -> int:
        """Pages that sequences hold."""
        self._settle()
        return self._live

    @property
    def references(self) -> np.ndarray:
        """How many sequences and nodes of the prefix tree refer to each page."""
        self._settle()
        return self._references

    @property
    def holders(self) -> np.ndarray:
        """How many sequences hold each page."""
        self._settle()
        return self._holders

    def create(self, order: Order) -> Sequence:
        """Return an empty sequence."""
        return Sequence(self.capacity, self.page_size, order, number=next(self._numbers))

    def fork(self, parent: Sequence, length: int, order: Order) -> Sequence:
        """Return a sequence with the parent's first `length` tokens, sharing their pages."""
        child = self.create(order)
        child.begin(parent.tokens[:length])
        child.fresh_from = length
        child.place, child.logged = parent.place, parent.logged
        child.cut(length)
        resident = min(parent.resident, length)
        if resident:
            self.adopt(child, parent.pages[: self._pages_for(resident)], resident)
        return child

    def adopt(self, sequence: Sequence, pages: np.ndarray, resident: int) -> None:
        """Let an empty-handed sequence hold `pages`, in which `resident` tokens lie."""
        count = len(pages)
        sequence.pages[:count] = pages
        sequence.held = count
        sequence.resident = resident
        self._hold(pages)
        self._forgo(sequence)

    def adopt_rest(self, sequence: Sequence, pages: np.ndarray, resident: int) -> None:
        """Let a sequence hold `pages` after its own full ones: what it shares stays shared."""
        first = sequence.resident // self.page_size
        rest = pages[first:]
        self._hold(rest)
        self._release_from(sequence, first)
        sequence.pages[first : len(pages)] = rest
        sequence.held, sequence.resident = len(pages), resident
        self._forgo(sequence)

    def share(self, sequence: Sequence, other: Sequence, length: int) -> bool:
        """Let another hold a sequence's KV of the first `length` tokens, which both have; say
        whether that is of all of them, but for the sequence's last."""
        resident = min(length, sequence.resident)
        if resident > other.resident:
            self.adopt_rest(other, sequence.pages[: self._pages_for(resident)], resident)
        return resident >= min(length, sequence.length - 1)

    def reserve(self, sequence: Sequence, end: int) -> bool:
        """Make positions `[resident, end)` writable; return False, changing nothing, if full."""
        if end <= sequence.resident:
            return True
        first, last = sequence.held, self._pages_for(end)
        new, shared = max(0, last - first), self._last_is_shared(sequence)
        if new + shared > len(self._free):
            self.makes_room(new + shared)
            shared = shared and self._last_is_shared(sequence)  # who shared it may be forgotten
            if new + shared > self.free:
                return False
        if shared:
            self._copy_last(sequence)
        elif sequence.resident < first * self.page_size:
            self._writer[sequence.pages[sequence.resident // self.page_size]] = sequence.number
        if new:
            pages = np.array(self._free[: -new - 1 : -1], np.int32)
            del self._free[-new:]
            sequence.pages[first:last] = pages
            sequence.held = last
            self._references[pages] = self._holders[pages] = 1
            self._writer[pages] = sequence.number
            self._lives(new)
        return True

    def makes_room(self, pages: int) -> bool:
        """Have what is only remembered forgotten until so many pages are free; say whether they
        are."""
        if pages <= len(self._free):
            return True
        if pages > self.free:
            self.evict(pages)
        return pages <= self.free

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Forget the tokens from `length` on."""
        sequence.cut(length)
        self.rewind(sequence, length)
        self._release_from(sequence, self._pages_for(sequence.resident))

    def rewind(self, sequence: Sequence, resident: int) -> None:
        """Forget the KV, not the tokens, from `resident` on, so that it is computed again."""
        if resident < sequence.resident:
            sequence.resident = resident
            self._release_from(sequence, self._pages_for(resident))
            self._forgo(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Give all pages back; the tokens stay, and can be computed again."""
        sequence.resident, sequence.logged = 0, None  # what is dropped may be found again
        self._release_from(sequence, 0)

    def retain(self, pages: np.ndarray) -> None:
        """Count one more reference (of the prefix tree) to each page."""
        if len(pages) > FEW:
            self._references[pages] += 1
            return
        for page in pages.tolist():
            self._references_of[page] += 1

    def release(self, pages: np.ndarray, times: int | np.ndarray = 1) -> None:
        """Count one reference less to each page, or so many; what nothing refers to is free."""
        left = self._references[pages] - times
        self._references[pages] = left
        if np.count_nonzero(left) < len(pages):
            self._free += pages[left == 0].tolist()

    def frees(self, pages: np.ndarray) -> bool:
        """Whether some page is referred to but once, so that to release all makes one free; by
        exact books: behind `free`."""
        if len(pages) > FEW:
            return bool((self._references[pages] == 1).any())
        references = self._references_of
        for page in pages.tolist():
            if references[page] == 1:
                return True
        return False

    def check(self, sequences: Iterable[Sequence], others: Iterable[np.ndarray] = ()) -> None:
        """Recount everything from its holders; raises AssertionError where the books differ."""
        holders = np.zeros_like(self._holders)
        for sequence in sequences:
            pages = sequence.pages[: sequence.held]
            assert len(set(pages.tolist())) == len(pages), "a page stands twice in a table"
            assert sequence.resident <= sequence.held * self.page_size, "tokens without pages"
            holders[pages] += 1
        references = holders.copy()
        for pages in others:
            references[pages] += 1
        assert (holders == self.holders).all(), "holders of sequences differ"
        assert (references == self.references).all(), "reference counts differ"
        free = sorted(self._free)
        unused = self._first + np.flatnonzero(references[self._first :] == 0)
        assert free == unused.tolist(), "a page leaks, or is free twice"
        assert self.live == int((holders > 0).sum()), "the count of live pages differs"

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def _last_is_shared(self, sequence: Sequence) -> bool:
        """Whether the next write goes to a page that others hold too, and another may write to."""
        index = sequence.resident // self.page_size
        if index >= sequence.held:
            return False
        page = sequence.pages.item(index)
        if self._references.item(page) < 2 or self._writer.item(page) == sequence.number:
            return False
        return bool(self.references[page] > 1)

    def _forgo(self, sequence: Sequence) -> None:
        """Let a sequence that has not just written its last page not be that page's writer."""
        index = sequence.resident // self.page_size
        if index < sequence.held and self._writer[sequence.pages[index]] == sequence.number:
            self._writer[sequence.pages[index]] = NOBODY

    def _copy_last(self, sequence: Sequence) -> None:
        index = sequence.resident // self.page_size
        shared, own = int(sequence.pages[index]), self._free.pop()
        if sequence.resident % self.page_size:
            self._copy_page(shared, own)
        sequence.pages[index] = own
        self._references[own] = self._holders[own] = 1
        self._writer[own] = sequence.number
        self._lives(1)
        self._holders[shared] -= 1  # others refer to it, and need not hold it
        self._references[shared] -= 1
        self._live -= int(self._holders[shared] == 0)

    def _release_from(self, sequence: Sequence, index: int) -> None:
        if index < sequence.held:
            pages = sequence.pages[index : sequence.held].copy()
            sequence.held = index
            self._left.append(pages)

    def _hold(self, pages: np.ndarray) -> None:
        """Count one more sequence that holds each page."""
        self.retain(pages)
        if len(pages) > FEW:
            held = self._holders[pages]
            self._holders[pages] = held + 1
            new = len(pages) - int(np.count_nonzero(held))
        else:
            holders, new = self._holders_of, 0
            for page in pages.tolist():
                held = holders[page]
                holders[page] = held + 1
                new += not held
        if new:
            self._lives(new)

    def _lives(self, more: int) -> None:
        if self._live + more > self.peak:  # else it is no new peak, whatever has been let go of
            self._settle()
        self._live += more
        self.peak = max(self.peak, self._live)

    def _settle(self) -> None:
        """Take out of the books what sequences have let go of, of all of them at once: of rows that
        end together each would else take as long."""
        if not self._left:
            return
        left, self._left = self._left, []
        if len(left) == 1:
            pages, times = left[0], 1  # a page stands once in a sequence
        else:
            pages, times = np.unique(np.concatenate(left), return_counts=True)
        held = self._holders[pages] - times
        self._holders[pages] = held
        self._live -= len(pages) - int(np.count_nonzero(held))
        self.release(pages, times)
