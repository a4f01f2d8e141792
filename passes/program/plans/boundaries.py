"""Texts on either side of an end of tokens that the tokenizer would have joined there.

A model call, a fork and a score end a token. Where a token of the vocabulary reaches over such an
end, the whole text may have it, and the prompt has not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import islice

import numpy as np

from ....ir.constraints.automaton import DEAD, START
from ....ir.constraints.token_table import TokenTable
from ....ir.vocabulary import Tokenizer

NEAR = 16
"""Bytes on either side of an end that are looked at."""

MOST_TRIED = 32
"""Tokens that are tried for each length of what they have of a text, short ones first."""

_BETWEEN = b"\xff"
"""Stands between words: no text has it."""


@dataclass(frozen=True)
class Side:
    """What stands on one side of an end: one of some texts, or what a gen says.

    `texts` is None where they are not known. Of a gen, `table` holds what a constraint lets it say,
    `stops` what its text lacks, and `start` is how it begins.
    """

    texts: tuple[str, ...] | None = None
    table: TokenTable | None = None
    stops: tuple[str, ...] = ()
    start: str = ""

    def may_begin(self, text: str) -> bool:
        """Whether what a gen says may begin so."""
        if not text.startswith(self.start) or any(stop in text for stop in self.stops):
            return False
        if self.table is None:
            return True
        return self.table.walk(text.encode(), self.table.healed if self.start else START) != DEAD

    def may_end(self, text: str) -> bool:
        """Whether what a gen says may end so."""
        if any(stop in text for stop in self.stops):
            return False
        if self.table is None or self.stops:  # its table has the stops, too, which are cut off
            return True
        state = np.arange(START, len(self.table.moves))
        for byte in text.encode():
            state = self.table.moves[state, self.table.classes[byte]]
        return bool(self.table.accepting[state].any())


class Boundaries:
    """Finds texts of one vocabulary that share a token over an end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._found: dict[tuple[Side, Side], tuple[str, str] | None] = {}
        self._begun: dict[tuple[bytes, bool], list[bytes]] = {}

    @cached_property
    def _sorted(self) -> list[bytes]:
        """The tokens of several bytes."""
        tokenizer = self._tokenizer
        special = {*tokenizer.special_ids, *tokenizer.end_ids}
        words = {tokenizer.token_bytes(i) for i in range(tokenizer.size) if i not in special}
        return sorted(word for word in words if word[1:])

    @cached_property
    def _backward(self) -> list[bytes]:
        """The same, each from its end."""
        return sorted(word[::-1] for word in self._sorted)

    @cached_property
    def _words(self) -> bytes:
        """The same as one text, short ones first."""
        return _BETWEEN + _BETWEEN.join(sorted(self._sorted, key=len)) + _BETWEEN

    def joined(self, left: Side, right: Side) -> tuple[str, str] | None:
        """Return an end and a beginning that share a token, or None where none were found."""
        key = left, right
        if key not in self._found:
            self._found[key] = next(filter(self._joins, self._pairs(left, right)), None)
        return self._found[key]

    def _joins(self, pair: tuple[str, str]) -> bool:
        encode = self._tokenizer.encode
        return all(pair) and encode("".join(pair)) != [id for text in pair for id in encode(text)]

    def _pairs(self, left: Side, right: Side) -> Iterator[tuple[str, str]]:
        """Yield texts left and right over whose end a token reaches."""
        if left.texts is not None and right.texts is not None:
            for first in left.texts:
                yield from ((first, second) for second in right.texts)
        elif right.texts is not None:
            for text in right.texts:
                for before, after in self._beginning(text.encode()[:NEAR]):
                    if left.may_end(before):
                        yield before, after if len(after) > len(text) else text
        elif left.texts is not None:
            for text in left.texts:
                for before, after in self._ending(text.encode()[-NEAR:]):
                    if right.may_begin(after):
                        yield before if len(before) > len(text) else text, after
        else:
            cuts = self._beginning(right.start.encode()) if right.start else self._anywhere()
            yield from (cut for cut in cuts if left.may_end(cut[0]) and right.may_begin(cut[1]))

    def _beginning(self, near: bytes) -> Iterator[tuple[str, str]]:
        """Yield words, cut in two, whose second part is how `near` begins, or begins with it."""
        for size in range(1, len(near) + 1):
            for word in self._longer(near[:size], ends=True):
                yield from _texts(word[:-size], word[-size:])
        yield from self._cut(near, 0)

    def _ending(self, near: bytes) -> Iterator[tuple[str, str]]:
        """Yield words, cut in two, whose first part is how `near` ends, or ends with it."""
        for size in range(1, len(near) + 1):
            for word in self._longer(near[-size:], ends=False):
                yield from _texts(word[:size], word[size:])
        yield from self._cut(near, len(near))

    def _longer(self, part: bytes, ends: bool) -> list[bytes]:
        """Return the shortest words that begin with a part and go on, or that end with it."""
        found = self._begun.get((part, ends))
        if found is None:
            words, wanted = (self._backward, part[::-1]) if ends else (self._sorted, part)
            low, high = bisect_left(words, wanted), bisect_left(words, wanted + _BETWEEN)
            each = (word[::-1] if ends else word for word in words[low:high] if word != wanted)
            found = nsmallest(MOST_TRIED, each, key=lambda word: (len(word), word))
            self._begun[part, ends] = found
        return found

    def _cut(self, wanted: bytes, behind: int) -> Iterator[tuple[str, str]]:
        """Yield words that hold some bytes, cut so many bytes behind where these begin."""
        words, at, tried = self._words, -1, 0
        while tried < MOST_TRIED and (at := words.find(wanted, at + 1)) >= 0:
            cut = at + behind
            start = words.rfind(_BETWEEN, 0, cut) + 1
            parts = words[start:cut], words[cut : words.index(_BETWEEN, cut)]
            if all(parts):
                tried += 1
                yield from _texts(*parts)

    def _anywhere(self) -> Iterator[tuple[str, str]]:
        for word in islice(self._words[1:-1].split(_BETWEEN), MOST_TRIED * MOST_TRIED):
            for cut in range(1, len(word)):
                yield from _texts(word[:cut], word[cut:])


def _texts(*parts: bytes) -> Iterator[tuple[str, str]]:
    """Yield two parts as texts, where each is one."""
    try:
        before, after = (part.decode() for part in parts)
    except UnicodeDecodeError:
        return
    yield before, after
