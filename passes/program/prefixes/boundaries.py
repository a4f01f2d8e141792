"""Where texts may be cut: the tokens of a text's beginning that nothing after it can change."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.vocabulary import Tokenizer


class Boundaries:
    """Proves cuts before spaces from the vocabulary.

    Between a byte that is no white space and a space, a text may be cut if no token of the
    vocabulary holds these two bytes: then no token can span the cut, whatever follows, and merges
    (or the longest match, or the likeliest pieces) on its left cannot depend on its right.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._joined: set[int] | None = None

    def certain(self, text: str) -> int:
        """Return after how many characters every text that begins with `text` may be cut."""
        for at in range(len(text) - 1, 0, -1):
            if text[at] == " " and not text[at - 1].isspace() and self._may_cut(text[at - 1]):
                return at
        return 0

    def _may_cut(self, before: str) -> bool:
        if self._joined is None:
            self._joined = _before_spaces(self._tokenizer)
        return before.encode()[-1] not in self._joined


def _before_spaces(tokenizer: Tokenizer) -> set[int]:
    """Return the bytes that stand before a space within some token."""
    found: set[int] = set()
    for id in range(tokenizer.size):
        word = tokenizer.token_bytes(id)
        at = word.find(b" ", 1)
        while at > 0:
            found.add(word[at - 1])
            at = word.find(b" ", at + 1)
    return found - set(b" \t\r\n\v\f")


def common(lists: Sequence[Sequence[object]]) -> int:
    """Return how many leading elements all lists share."""
    size = min(map(len, lists), default=0)
    while size:
        first = lists[0][:size]
        if all(other[:size] == first for other in lists):
            return size
        size = next(at for at in range(size) if any(other[at] != first[at] for other in lists))
    return size
