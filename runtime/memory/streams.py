"""Open streams: which hold what their forks have computed, and which the prefix tree keeps for.

A stream that lends its tokens to forks and goes on afterwards reads them again. Its KV lies in the
prefix tree; the tree is told when that is, so that it forgets first what nothing reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np

from .kv_cache import PagedKV
from .prefix_tree import PrefixTree
from .sequence import Sequence


class Streams:
    """The sequences of a scheduler as readers of KV; `waiting` yields those that wait, in order."""

    def __init__(
        self, kv: PagedKV, tree: PrefixTree, sequences: Collection[Sequence],
        waiting: Callable[[], Iterable[Sequence]],
    ) -> None:  # fmt: skip
        self._kv, self._tree = kv, tree
        self._sequences, self._waiting = sequences, waiting

    def forked(self, sequence: Sequence, parent: Sequence, gives: bool) -> None:
        """Note that a sequence was forked; with `gives`, the parent holds what it computes."""
        if parent.resident < sequence.fresh_from:
            if gives:
                sequence.origin = parent
            sequence.reread_by = parent

    def computed(self, sequence: Sequence, clock: int) -> None:
        """Let the streams that a sequence was forked from have what it has computed of them."""
        reader, shared = sequence.reread_by, sequence.fresh_from
        if reader is not None and sequence.resident >= shared:
            sequence.reread_by = None
            if reader in self._sequences and reader.resident < shared:
                reader.lent = clock  # behind all that `reads` says, and before rows that wait
                self._tree.expect(sequence.tokens[:shared], 1 - 0.5 / clock)
        while (origin := sequence.origin) and sequence.resident >= sequence.fresh_from:
            sequence.origin = None
            if origin in self._sequences and not origin.busy:
                self._kv.share(sequence, origin, sequence.fresh_from)
            sequence = origin

    def reads(self) -> Iterator[tuple[float, np.ndarray, Sequence]]:
        """Yield when streams are read that do not hold all their KV, below 1/2, and their tokens.

        Those that wait come first. The others take turns: what was lent last is read last.
        """
        turns = dict.fromkeys(self._waiting())
        turns |= dict.fromkeys(sorted(self._sequences, key=lambda each: (each.lent, each.order)))
        for number, sequence in enumerate(turns):
            if sequence.resident < sequence.length:
                tokens = sequence.tokens[: sequence.length]
                yield number / (2 * len(turns)), tokens, sequence
