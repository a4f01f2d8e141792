"""Generated text as bytes: stop strings that may span tokens, and pieces safe to show."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from re import _compiler as compiler  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]

from ...ir.vocabulary import Tokenizer

Encode = Callable[[str], list[int]]
"""Text to its ids."""


class TokenBytes(dict[int, bytes]):
    """The bytes of each token id, asked for once.

    `spell` gives the ids of a text whose words come again and again, `spell_all` those of several,
    and `last_cut` the last place at which a text is split whatever follows, where the tokenizer
    knows one; else 0.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.spell: Encode = getattr(tokenizer, "encode_words", tokenizer.encode)
        self.spell_all: Callable[[Sequence[str]], list[list[int]]] = getattr(
            tokenizer, "encode_words_of", lambda texts: [self.spell(text) for text in texts]
        )
        self.last_cut: Callable[[str], int] = getattr(tokenizer, "last_cut", _no_cut)

    def __missing__(self, id: int) -> bytes:
        known = self[id] = self.tokenizer.token_bytes(id)
        return known


def _no_cut(text: str) -> int:
    return 0


def canonical_ids(words: TokenBytes, ids: list[int], encode: Encode | None = None) -> list[int]:
    """Return the ids of the text of some ids; the same ones where it is no whole text."""
    try:
        text = b"".join([words[id] for id in ids]).decode()
    except UnicodeDecodeError:
        return ids
    return same_text(words, ids, (encode or words.tokenizer.encode)(text))


def same_text(words: TokenBytes, ids: list[int], found: list[int]) -> list[int]:
    """Return the ids that were `found` of the text of some ids; those where that is another text.

    A tokenizer composes letters (NFC), but what a constraint let through is not to be changed.
    """
    if not found or found == ids:
        return ids
    data, other = (b"".join([words[id] for id in some]) for some in (ids, found))
    return found if data == other else ids


@lru_cache(maxsize=1024)
def _looked_for(
    stops: tuple[str, ...],
) -> tuple[tuple[bytes, ...], int, Callable[[bytes], re.Match[bytes] | None], frozenset[int]]:
    """Return stop strings as bytes, how many bytes before a piece a stop that ends in it may begin,
    what finds one, and what they end with: rows of one program look for the same."""
    found = tuple(stop.encode() for stop in stops if stop)
    reach = max((len(stop) for stop in found), default=1) - 1
    search = re.compile(b"|".join(re.escape(stop) for stop in found)).search
    return found, reach, search, frozenset(stop[-1] for stop in found)


class StopScanner:
    """Finds the first of some stop strings in bytes that arrive piece by piece."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._reach, self._search, self._last = _looked_for(stops)
        self._tail = b""
        self.size = 0

    def feed(self, piece: bytes) -> int | None:
        """Take more bytes; return where in all bytes the earliest stop begins, if one does."""
        window = self._tail + piece
        self.size += len(piece)
        found = self._search(window)
        if found is not None:
            return self.size - len(window) + found.start()
        self._tail = window[-self._reach :] if self._reach else b""
        return None

    def passes(self, piece: bytes) -> bool:
        """Take more bytes if surely no stop ends in them; else return False and take none."""
        if not self._last.isdisjoint(piece):
            return False
        self.size += len(piece)
        if self._reach:
            self._tail = (self._tail + piece)[-self._reach :]
        return True

    def held_back(self) -> int:
        """Return how many last bytes may be the beginning of a stop string."""
        for count in range(min(self._reach, len(self._tail)), 0, -1):
            if any(stop.startswith(self._tail[-count:]) for stop in self._stops):
                return count
        return 0


_READS_ON = re.compile(r"\(\?[=!>(]|\(\?P=|\\[1-9]|[*+?}]\+")
"""Forms whose match may depend on what follows it, or on what a group before has matched: looking
ahead, atomic groups and repeats, conditions, references. What only looks like one is taken as one.
"""


@lru_cache(maxsize=256)
def _ending(pattern: str) -> tuple[re.Pattern[str], int]:
    """Return what every match of a pattern ends with, and how many characters that has at most."""
    parsed = parser.parse(pattern)
    items = parser.SubPattern(parsed.state, [])
    for item in () if _READS_ON.search(pattern) else reversed(parsed.data):
        longer = parser.SubPattern(parsed.state, [item, *items.data])
        repeated = longer.getwidth()[1] >= parser.MAXREPEAT
        if repeated and item[0] in {parser.MAX_REPEAT, parser.MIN_REPEAT} and item[1][0]:
            longer = parser.SubPattern(parsed.state, [*item[1][2].data, *items.data])
        if longer.getwidth()[1] >= parser.MAXREPEAT:
            break
        items = longer
        if repeated:
            break
    return compiler.compile(items), items.getwidth()[1]


LEAST_KEPT = 1 << 12
"""Characters that are kept as text, at least."""


class PatternScanner:
    """Finds a regular expression in text that arrives token by token, as soon as it fits.

    As long as there was no match, one must end in what is new; all of the text is searched only
    where there is what a match ends with. Of the text, what that may begin in is kept as such.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)
        self._ending, self._reach = _ending(pattern)
        # What looks behind has at most as many characters as it is written with, but for repeats.
        endless = "(?<" in pattern and "{" in pattern
        self._kept = parser.MAXREPEAT if endless else LEAST_KEPT + self._reach + len(pattern)
        self._data = bytearray()
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._found = False

    @property
    def size(self) -> int:
        """How many bytes it has taken."""
        return len(self._data)

    def feed(self, piece: bytes) -> int | None:
        """Take more bytes; return where in all bytes a match begins, if there is one now."""
        # One character more: a `$` in what looks behind reads whether a last newline is the end.
        start = max(0, len(self._text) - 1 - self._reach)
        self._data += piece
        self._text += self._decoder.decode(piece)
        broken, _ = self._decoder.getstate()
        text = self._text + broken.decode("utf-8", "surrogateescape")
        if len(self._text) > 2 * self._kept:
            self._text = self._text[-self._kept :]
        if not self._found and self._ending.search(text, start) is None:
            return None
        at = pattern_start(self._pattern, self._data)
        self._found = at is not None
        return at

    def held_back(self) -> int:
        """Return the number of all bytes: any of them may be the beginning of a match."""
        return len(self._data)


def pattern_start(pattern: re.Pattern[str], data: bytes | bytearray) -> int | None:
    """Return the byte at which the first match begins that is not empty."""
    text = data.decode("utf-8", "surrogateescape")
    for found in pattern.finditer(text):
        if found.end() > found.start():
            return len(text[: found.start()].encode("utf-8", "surrogateescape"))
    return None


class Pieces:
    """Turns bytes into text pieces that are never taken back and never break a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = b""

    def feed(self, piece: bytes, held_back: int = 0) -> str:
        """Take more bytes; return the text now certain, keeping the last `held_back` bytes."""
        self._waiting += piece
        ready = len(self._waiting) - held_back
        text = self._decoder.decode(self._waiting[:ready])
        self._waiting = self._waiting[ready:]
        return text

    def finish(self, drop: int = 0) -> str:
        """Return what is left, less the last `drop` bytes (a stop string)."""
        kept = self._waiting[: len(self._waiting) - drop]
        self._waiting = b""
        return self._decoder.decode(kept, True)
