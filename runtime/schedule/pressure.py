"""Whether pages are scarce: those in use now, those that all rows will hold at their ends, those
that open rows have to compute again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..memory.kv_cache import PagedKV
from ..memory.prefix_tree import PrefixTree
from .batch import Batch
from .policy import Policy
from .request import Request
from .row_costs import PromptLog

EVERY = 8
"""Steps for which what is expected stays true enough: it looks at every prompt that waits."""


class Pressure:
    """Tells a scheduler when the oldest rows must go first, for the sake of memory."""

    def __init__(self, batch: Batch, kv: PagedKV, tree: PrefixTree, policy: Policy) -> None:
        self._batch, self._kv, self._tree, self._policy = batch, kv, tree, policy
        self._expected, self._until = 0, -1
        self._missed, self._misses_until = 0, -1
        self._room, self._room_until = 0, -1
        self._known = -1, 0

    def is_high(self, clock: int, others: Iterable[Request]) -> bool:
        """Say so in step `clock`; `others` have asked and are not in the batch.

        What open rows are sure to send is forgotten only where nothing else is left to forget: then
        too many rows are at work, however few pages their sequences hold; but not at the end.
        """
        if self._tree.missed > self._missed:
            self._missed, self._misses_until = self._tree.missed, clock + EVERY
        if clock < self._misses_until:
            return not self._ends_soon(clock, [*others])
        pages = self._kv.num_pages
        if not self._policy.pressed(self._kv.live, pages):
            self._until = -1
            return False
        if clock >= self._until:
            self._expected, self._until = self._expect(clock, others), clock + EVERY
        return not self._policy.fits(self._expected, pages)

    def _ends_soon(self, clock: int, others: Sequence[Request]) -> bool:
        """Say whether fewer wait than run, which all know how far their programs still go, and have
        room until then."""
        if not 0 < len(others) < self._batch.size or not all(each.critical for each in others):
            return False
        return self._at_their_ends(clock, others) <= self._kv.num_pages

    def has_room(self, clock: int, others: Iterable[Request]) -> bool:
        """Say in step `clock` whether all rows can hold their pages until they end."""
        return self._at_their_ends(clock, others) <= self._kv.num_pages

    def _at_their_ends(self, clock: int, others: Iterable[Request]) -> int:
        """Return what is expected, as known for some steps."""
        if clock >= self._room_until:
            self._room, self._room_until = self._expect(clock, others), clock + EVERY
        return self._room

    def _expect(self, clock: int, others: Iterable[Request]) -> int:
        """Return the pages of all requests when their programs have come to their ends, looked at
        once in a step."""
        if self._known[0] != clock:
            self._known = clock, self._look(others)
        return self._known[1]

    def _look(self, others: Iterable[Request]) -> int:
        batch, tokens, asked = self._batch, 0, PromptLog()
        for row, request in enumerate(batch.requests):
            tokens += max(0, request.critical - int(batch.produced[row]))
        for request in others:
            sequence = request.sequence
            prompt = sequence.tokens[: sequence.length]
            known = self._tree.known(prompt, sequence)
            held = max(sequence.resident, known, asked.add(prompt))
            tokens += len(prompt) - held + max(0, request.critical - request.produced)
        return self._kv.live + tokens // self._kv.page_size
