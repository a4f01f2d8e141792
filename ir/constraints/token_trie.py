"""The tokens of a vocabulary as a trie of bytes, by depth, made for walking many at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..vocabulary import Tokenizer


@dataclass(frozen=True, eq=False)
class Level:
    """All nodes of one depth: their parents (numbers in the level above) and last bytes.

    `tokens` end here, at the nodes `ends` (several ids may have the same bytes).
    """

    parents: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray
    ends: np.ndarray


class TokenTrie:
    """The tokens that are text; special tokens and those without bytes are no part of it."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.words = tuple(words)
        self.levels = _levels(self.words)
        self.longest = len(self.levels)

    @staticmethod
    def of(tokenizer: Tokenizer) -> TokenTrie:
        """Return the trie of a tokenizer's vocabulary."""
        special = {*tokenizer.special_ids, *tokenizer.end_ids}
        return TokenTrie(
            [b"" if i in special else tokenizer.token_bytes(i) for i in range(tokenizer.size)]
        )

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each token's bytes; of several, the first."""
        return {word: i for i, word in reversed(list(enumerate(self.words))) if word}

    @cached_property
    def prefixes(self) -> frozenset[bytes]:
        """What longer tokens begin with."""
        return frozenset(word[:end] for word in self.words for end in range(1, len(word)))

    @cached_property
    def digest(self) -> str:
        """A name of the vocabulary's bytes."""
        whole = hashlib.sha256()
        for word in self.words:
            whole.update(len(word).to_bytes(4, "little") + word)
        return whole.hexdigest()


def _levels(words: Sequence[bytes]) -> list[Level]:
    order = sorted((word, i) for i, word in enumerate(words) if word)
    ids = np.array([i for _, i in order], np.int32)
    lengths = np.array([len(word) for word, _ in order], np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    data = np.frombuffer(b"".join(word for word, _ in order), np.uint8)
    levels: list[Level] = []
    alive = np.arange(len(order))  # the tokens with more than `depth` bytes, sorted
    nodes = np.zeros(len(order), np.int64)  # of each token, its node in the level above
    while len(alive):
        depth = len(levels)
        last = data[starts[alive] + depth]
        above = nodes[alive]
        new = np.ones(len(alive), bool)
        new[1:] = (last[1:] != last[:-1]) | (above[1:] != above[:-1])
        node = np.cumsum(new) - 1
        nodes[alive] = node
        ending = lengths[alive] == depth + 1
        levels.append(Level(above[new], last[new], ids[alive[ending]], node[ending]))
        alive = alive[~ending]
    return levels
