"""Steps whose rows are all held to constraints: logits of the words only that some row may draw.

Masks are known before a step runs, so what none of them allows need not be computed: the kernel of
the head reads the rows of its weight that it is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...ir.constraints.token_masks import ALONE, WORTH, few_words
from ..execution.step import ModelExecutor
from .batch import Batch

KEPT_WORDS = 4 << 20
"""Words of sets that are remembered, 4 bytes each; those used longest ago go first."""

KEPT_MASKS = 1 << 20
"""What masks of tables that are remembered as masks over a set of words may take, 4 bytes each."""

KEPT_SETS = 1 << 12
"""Sets of words of which it is remembered that they came."""


@dataclass(frozen=True, eq=False)
class Narrow:
    """Some words, ascending: their ids [W] i32, as an array and as a tensor, and masks over them.

    `union` [V / 32] has their bits; `full` [W / 32] has the bits of all of them.
    """

    words: np.ndarray
    ids: Tensor
    union: np.ndarray
    full: np.ndarray
    _packed: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def named(self, drawn: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Make a draw of columns one of words, in its place: NumPy's look-up of several takes 20 us
        more behind a step, which has put its code out of the caches."""
        token = drawn[0].numpy()
        token[:] = [self.words.item(column) for column in token.tolist()]
        return drawn

    def masks(self, rows: np.ndarray, shown: Sequence[np.ndarray | None]) -> np.ndarray:
        """Return masks over all words [S, V / 32] as masks over these: [S, W / 32]. Those of tables
        (`shown`) come again and again."""
        if (rows == self.union).all():
            return np.broadcast_to(self.full, (len(rows), len(self.full)))
        found = np.empty((len(rows), len(self.full)), np.int32)
        for at, (row, of) in enumerate(zip(rows, shown, strict=True)):
            known = self._packed.get(id(of))
            if known is not None and known[0] is of:
                found[at] = known[1]
                continue
            found[at] = mask = self._over_these(row)
            if of is not None:
                if (len(self._packed) + 1) * len(self.full) > KEPT_MASKS:
                    self._packed.clear()
                self._packed[id(of)] = of, mask
        return found

    def _over_these(self, mask: np.ndarray) -> np.ndarray:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        packed = np.packbits(bits[self.words], bitorder="little")
        found = np.zeros(4 * len(self.full), np.uint8)
        found[: len(packed)] = packed
        return found.view(np.int32)


class AllowedWords:
    """Chooses what words a step computes logits of, and remembers sets of words."""

    def __init__(self, vocab_size: int, rows: int) -> None:
        self._vocab_size, self._few = vocab_size, few_words(vocab_size)
        self._known: OrderedDict[bytes, Narrow | None] = OrderedDict()
        self._words = 0
        self._last: tuple[tuple[int, int], Narrow | None] = (-1, 0), None
        self._made: tuple[tuple[int, int], Tensor | None] = (-1, 0), None
        # Masks as the sampler takes them: of as many columns as the logits have.
        self._masks = {
            width: torch.zeros(rows, -(-width // 32), dtype=torch.int32)
            for width in (self._few, vocab_size)
        }

    @staticmethod
    def of(executor: ModelExecutor) -> AllowedWords | None:
        """Return what chooses for an executor, if that can compute logits of some words."""
        if not getattr(executor, "takes_words", False):
            return None
        return AllowedWords(executor.vocab_size, executor.max_batch)

    def choose(self, batch: Batch, drawn: int, wanted: int) -> Narrow | None:
        """Return the words of a step that draws for the batch's rows, or None for all words.

        `drawn` rows are sampled, and `wanted` give logits. Masks are filled. Log-probabilities are
        over all words, so nothing is left out where some row wants them.
        """
        if not 0 < drawn == wanted == batch.constrained:
            return None
        state, found = self._last
        if state != (batch.changes, drawn):
            found = self._of_masks(batch, drawn)
            self._last = (batch.changes, drawn), found
        return found

    def _of_masks(self, batch: Batch, drawn: int) -> Narrow | None:
        if any(request.logprobs for request in batch.requests):
            return None
        union = np.bitwise_or.reduce(batch.masks[:drawn])
        key = union.tobytes()
        if key in self._known:
            self._known.move_to_end(key)
            found = self._known[key]
        else:
            found = self._remember(key, self._new(union))
        wide = drawn == 1 and found is not None and len(found.words) > ALONE * self._vocab_size
        return None if wide else found

    def masks(self, batch: Batch, narrow: Narrow, drawn: int) -> Tensor:
        """Return the rows' masks over the words that were chosen just now, as wide as their
        logits."""
        state, buffer = self._made
        if buffer is not None and state == (batch.changes, drawn):
            return buffer
        width = self._few if len(narrow.words) <= self._few else self._vocab_size
        buffer = self._masks[width][:drawn]
        found = narrow.masks(batch.masks[:drawn], batch.shown[:drawn])
        buffer.numpy()[:, : found.shape[1]] = found
        buffer.numpy()[:, found.shape[1] :] = 0
        self._made = (batch.changes, drawn), buffer
        return buffer

    def _new(self, union: np.ndarray) -> Narrow | None:
        """Return a set of words made ready, or None if that does not pay."""
        bits = np.unpackbits(union.view(np.uint8), bitorder="little")[: self._vocab_size]
        words = np.flatnonzero(bits).astype(np.int32)
        if not 0 < len(words) <= WORTH * self._vocab_size:
            return None
        full = np.zeros(-(-len(words) // 32) * 4, np.uint8)
        ones = np.packbits(np.ones(len(words), bool), bitorder="little")
        full[: len(ones)] = ones
        return Narrow(words, torch.from_numpy(words), union.copy(), full.view(np.int32))

    def _remember(self, key: bytes, found: Narrow | None) -> Narrow | None:
        self._known[key] = found
        self._words += _size(found)
        while self._words > KEPT_WORDS or len(self._known) > KEPT_SETS:
            _, gone = self._known.popitem(last=False)
            self._words -= _size(gone)
        return found


def _size(narrow: Narrow | None) -> int:
    return 0 if narrow is None else len(narrow.words)
