"""What an automaton forces: runs of bytes without a choice, as tokens that stay what they are.

A run's last tokens may become others when the text goes on (`"` and `: ` join into `": `), so they
are given back (back-off): what is forced is what every way on has in common.
"""

from __future__ import annotations

import numpy as np

from ..vocabulary import Tokenizer, common_length
from .automaton import DEAD, Automaton
from .token_trie import TokenTrie

LOOK_AHEAD = ("a", "A", "0", " ", "\n", '"', ",", ".", "}", "é", "中")
"""What may follow a run, by kind: pre-tokenizers look one character ahead."""


class Forcing:
    """The forced tokens of an automaton's states; a run is worked out when it is asked for."""

    def __init__(self, given: Automaton, tokenizer: Tokenizer, trie: TokenTrie) -> None:
        self._given = given
        self._tokenizer = tokenizer
        self._trie = trie
        self._table = given.by_byte()
        alive = self._table != DEAD
        single = (alive.sum(1) == 1) & ~given.accepting
        self._byte = np.where(single, alive.argmax(1), -1).tolist()
        self._crossings: dict[tuple[bytes, int], bool] = {}

    def run(self, state: int) -> tuple[bytes, int]:
        """Return the bytes that must follow a state, and the state after them."""
        data = bytearray()
        while (byte := self._byte[state]) >= 0:
            data.append(byte)
            state = int(self._table[state, byte])
        return bytes(data), state

    def tokens(self, state: int) -> list[int]:
        """Return the tokens that must follow a state."""
        data, after = self.run(state)
        inside = next((at for at, byte in enumerate(data) if byte & 0xC0 != 0x80), len(data))
        first: list[int] = []
        if inside:  # the run begins inside a character, whose rest is a token of its own
            rest = self._trie.ids.get(data[:inside])
            if rest is None or inside == len(data) and self._crosses(data, after):
                return []
            first, data = [rest], data[inside:]
        text = _whole_characters(data)
        encoded = self._tokenizer.encode(text) if text else []
        ids = self._spelled(encoded, text.encode())
        if (self._table[after] == DEAD).all():
            return first + ids
        kept = len(ids)
        for other in self._alternatives(data, text, after):
            kept = min(kept, common_length(ids, other))
        begun = self._trie.ids.get(data[len(text.encode()) :])
        if (
            begun is not None
            and kept == len(encoded)
            and not self._crosses(data[len(text.encode()) :], after)
        ):
            ids.append(begun)  # the first bytes of a character, which are always a token
            kept += 1
        return first + ids[:kept]

    def _spelled(self, ids: list[int], data: bytes) -> list[int]:
        """Return the first ids, as far as they spell the bytes: a tokenizer may compose letters."""
        at = 0
        for number, id in enumerate(ids):
            word = self._trie.words[id]
            if not data.startswith(word, at):
                return ids[:number]
            at += len(word)
        return ids

    def _alternatives(self, data: bytes, text: str, after: int) -> list[list[int]]:
        """Return how the run's text is encoded for each way on."""
        encode = self._tokenizer.encode
        ways = [
            encode(text + more) for more in LOOK_AHEAD if self._given.walk(more.encode(), after)
        ]
        begin = max(0, len(data) - self._trie.longest + 1)
        for cut in range(begin, len(data)):
            if self._crosses(data[cut:], after):
                ways.append(encode(_whole_characters(data[:cut])))
        return ways

    def _crosses(self, word: bytes, state: int) -> bool:
        """Whether a token begins with `word` and goes on from `state`."""
        known = self._crossings.get((word, state))
        if known is None:
            known = word in self._trie.prefixes and self._goes_on(word, state)
            self._crossings[word, state] = known
        return known

    def _goes_on(self, word: bytes, state: int) -> bool:
        deeper: list[tuple[bytes, int]] = []
        for byte in np.flatnonzero(self._table[state]).tolist():
            longer = word + bytes((byte,))
            if longer in self._trie.ids:
                return True
            if longer in self._trie.prefixes:
                deeper.append((longer, int(self._table[state, byte])))
        return any(self._crosses(longer, target) for longer, target in deeper)


def _whole_characters(data: bytes) -> str:
    """Return the text of bytes up to a character that is cut off; empty if it begins inside one."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start].decode()
