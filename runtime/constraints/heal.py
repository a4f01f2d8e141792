"""Token healing of free text: a generation must begin with the space taken off its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...ir.vocabulary import Part, Tokenizer
from .stops import TokenBytes


class HealTable:
    """Masks of the tokens that may begin a text, by the bytes it must begin with.

    Those of `ready` are made at once: one takes 2 ms of 4,096 tokens.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ready: Iterable[str] = ()) -> None:
        self.words = TokenBytes(tokenizer)
        self._size = min(tokenizer.size, vocab_size)
        self._width = -(-vocab_size // 32)
        self._masks: dict[bytes, np.ndarray] = {}
        for heal in ready:
            self.mask(heal.encode())

    def start(self, heal: str) -> HealMatcher:
        """Return a matcher of texts that begin with `heal`."""
        return HealMatcher(self, heal.encode())

    def mask(self, begin: bytes) -> np.ndarray:
        """Return the bitmask of tokens that begin with `begin`, or that `begin` begins with."""
        known = self._masks.get(begin)
        if known is None:
            words = [self.words[id] for id in range(self._size)]
            shorter = {begin[:end] for end in range(1, len(begin))}
            bits = np.zeros(self._width * 32, np.uint8)
            bits[: self._size] = [word.startswith(begin) or word in shorter for word in words]
            known = self._masks[begin] = np.packbits(bits, bitorder="little").view(np.int32)
        return known


class HealMatcher:
    """A Matcher that holds the first bytes of a generation to `begin`, and then lets go."""

    def __init__(self, table: HealTable, begin: bytes) -> None:
        self._table = table
        self._begin = begin

    @property
    def idle(self) -> bool:
        """Whether everything is allowed from now on."""
        return not self._begin

    @property
    def words(self) -> TokenBytes:
        """The bytes of the vocabulary's tokens."""
        return self._table.words

    @property
    def begins(self) -> tuple[bytes, np.ndarray]:
        """What the text must still begin with, and the bitmask of tokens that may come."""
        return self._begin, self._table.mask(self._begin)

    def fill(self, masks: np.ndarray, row: int) -> None:
        """Write the bitmask of allowed tokens into `masks[row]`."""
        masks[row] = self._table.mask(self._begin) if self._begin else -1

    def accept(self, token: int) -> None:
        """Advance by a token."""
        if self._begin:
            self._begin = self._begin[len(self._table.words[token]) :]

    def forced(self) -> list[int]:
        """Return nothing: several tokens may begin with the text."""
        return []

    def is_complete(self) -> bool:
        """Return False: free text is never complete."""
        return False

    def fork(self) -> HealMatcher:
        """Return an independent copy."""
        return HealMatcher(self._table, self._begin)


def join_texts(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Join adjacent texts, so that the run's last character can be seen."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] = joined[-1] + part
        elif part != "":
            joined.append(part)
    return tuple(joined)
