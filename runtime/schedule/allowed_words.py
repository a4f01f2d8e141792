"""Steps whose rows are all held to constraints: logits of the words only that some row may draw.

Masks are known before a step runs, so what none of them allows need not be computed. The rows of
the head's weight that are left are gathered once for each such set of words, and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...ir.token_masks import WORTH, few_words
from ..execution.step import ModelExecutor
from .batch import Batch

KEPT_BYTES = 64 << 20
"""What gathered weights may take; those used longest ago go first."""

KEPT_SETS = 1 << 12
"""Sets of words of which it is remembered that they came."""


@dataclass(frozen=True, eq=False)
class Narrow:
    """Some words: their ids [W] i32, ascending, the head's rows [W, D] f32, and masks over them.

    `union` [V / 32] has their bits; `full` [W / 32] has the bits of all of them.
    """

    words: np.ndarray
    head: Tensor
    union: np.ndarray
    full: np.ndarray

    def named(self, drawn: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return a draw of columns as one of words."""
        column, *rest = drawn
        return (torch.from_numpy(self.words[column.numpy()]), *rest)  # type: ignore[return-value]

    def masks(self, rows: np.ndarray) -> np.ndarray:
        """Return masks over all words [S, V / 32] as masks over these: [S, W / 32]."""
        if (rows == self.union).all():
            return np.broadcast_to(self.full, (len(rows), len(self.full)))
        bits = np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")
        packed = np.packbits(bits[:, self.words], axis=1, bitorder="little")
        out = np.zeros((len(rows), 4 * len(self.full)), np.uint8)
        out[:, : packed.shape[1]] = packed
        return out.view(np.int32)


class AllowedWords:
    """Chooses what words a step computes logits of; `gather` gives the head's rows of words.

    A set of a few words is gathered when it first comes, a larger one when it comes again, as its
    weight is long to copy.
    """

    def __init__(self, vocab_size: int, gather: Callable[[np.ndarray], Tensor], rows: int) -> None:
        self._vocab_size, self._gather = vocab_size, gather
        self._few = few_words(vocab_size)
        self._known: OrderedDict[bytes, Narrow | None] = OrderedDict()
        self._bytes = 0
        self._of_word = 0  # bytes of a word's row, known once some were gathered
        # Masks as the sampler takes them: of as many columns as the logits have.
        self._masks = {
            width: torch.zeros(rows, -(-width // 32), dtype=torch.int32)
            for width in (self._few, vocab_size)
        }

    @staticmethod
    def of(executor: ModelExecutor) -> AllowedWords | None:
        """Return what chooses for an executor, if that takes rows of the head."""
        gather = getattr(executor, "head_rows", None)
        return gather and AllowedWords(executor.vocab_size, gather, executor.max_batch)

    def choose(self, batch: Batch, drawn: int, wanted: int) -> Narrow | None:
        """Return the words of a step that draws for the batch's rows, or None for all words.

        `drawn` rows are sampled, and `wanted` give logits. Masks are filled. Log-probabilities are
        over all words, so nothing is left out where some row wants them.
        """
        if not 0 < drawn == wanted == batch.constrained:
            return None
        if any(request.logprobs for request in batch.requests):
            return None
        union = np.bitwise_or.reduce(batch.masks[:drawn])
        key = union.tobytes()
        again = key in self._known
        if again and (found := self._known[key]) is not None:
            self._known.move_to_end(key)
            return found
        return self._remember(key, self._new(union, again))

    def masks(self, batch: Batch, narrow: Narrow, drawn: int) -> Tensor:
        """Return the rows' masks over the chosen words, as wide as their logits."""
        width = self._few if len(narrow.words) <= self._few else self._vocab_size
        buffer = self._masks[width][:drawn]
        found = narrow.masks(batch.masks[:drawn])
        buffer.numpy()[:, : found.shape[1]] = found
        buffer.numpy()[:, found.shape[1] :] = 0
        return buffer

    def _new(self, union: np.ndarray, again: bool) -> Narrow | None:
        """Return a set of words made ready, or None if that does not pay, or not yet."""
        bits = np.unpackbits(union.view(np.uint8), bitorder="little")[: self._vocab_size]
        words = np.flatnonzero(bits).astype(np.int32)
        most = WORTH * self._vocab_size if again else self._few
        if not 0 < len(words) <= most or len(words) * self._of_word > KEPT_BYTES:
            return None
        head = self._gather(words)
        self._of_word = head.nbytes // len(words)
        if head.nbytes > KEPT_BYTES:  # could not be kept: each step would gather it anew
            return None
        full = np.zeros(-(-len(words) // 32) * 4, np.uint8)
        ones = np.packbits(np.ones(len(words), bool), bitorder="little")
        full[: len(ones)] = ones
        return Narrow(words, head, union.copy(), full.view(np.int32))

    def _remember(self, key: bytes, found: Narrow | None) -> Narrow | None:
        self._known[key] = found
        self._bytes += _bytes(found)
        while self._bytes > KEPT_BYTES or len(self._known) > KEPT_SETS:
            _, gone = self._known.popitem(last=False)
            self._bytes -= _bytes(gone)
        return found


def _bytes(narrow: Narrow | None) -> int:
    return 0 if narrow is None else narrow.head.nbytes
