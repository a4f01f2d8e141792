"""Encodes texts that begin alike: the common part once, up to where the tokenizer surely splits.
Long texts are split there, too, and their pieces encoded side by side on all cores.

A cut is before a space between two visible ASCII characters, or two letters where those are not
sure. No token spans it if none of the vocabulary has one of them before a space; then what stands
left and right of it is merged apart, by BPE and by unigrams alike. That the pre-tokenizer splits
there, too, whatever stands around, is tried once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from string import ascii_letters

import numpy as np
import tokenizers

from ...ir.vocabulary import shared_characters

LEAST = 192
"""Characters that a text must share with an earlier one for that to be looked at."""

LOOK_BACK = 512
"""Characters before the end of the common part among which a cut is looked for."""

PIECE = 1 << 10
"""Characters of a long text that a core encodes by itself: a quarter of a millisecond."""

TOGETHER = 2 * PIECE
"""Characters of several texts from which all cores encode them. With fewer this thread is done
before others are awake: of two new words in 20 us where they took up to 2 ms of a busy machine. It
looks up what words it knows then: a text of twelve takes an AMD core 6 us, not 30, a new one 1.7
times as long."""

RECENT = 8
"""Earlier texts that later ones are compared with."""

KNOWN_WORDS, LONGEST_WORD = 1 << 16, 64
"""Texts between two cuts whose ids are kept, and how many characters one of them has at most."""

_CUT = re.compile(r"[A-Za-z](?= [A-Za-z])")
_LETTERS = frozenset(ascii_letters)
_VISIBLE = frozenset(map(chr, range(0x21, 0x7F)))
_BEFORE = ("", " ", "\n", "\t", "a", "I'", "7", ".", "\u00e9", "\u4e2d", "a  ", "x.\n\n", "'s ")
_NEXT_TO = "aZ7,.:'\"{["
_AFTER = ("", " ", "\n", "s", "'s", "7", ".", "\u0301", "\u4e2d", "  b", " \n", " 'll", "\r\n x")


@dataclass(frozen=True)
class Encoded:
    """A text's ids [n] i32, and the byte after each token [n]; None where bytes were changed."""

    text: str
    ids: np.ndarray
    ends: np.ndarray | None

    def tokens_in(self, start: int, end: int) -> int | None:
        """Return how many tokens have bytes of the characters [start, end); None: not known."""
        if self.ends is None or end <= start:
            return None if self.ends is None else 0
        first, last = self._byte(start), self._byte(end)
        before = int(np.searchsorted(self.ends, first, "right"))
        return int(np.searchsorted(self.ends, last, "left")) + 1 - before

    def tokens_before(self, cut: int) -> int | None:
        """Return how many tokens the text up to a character is; None where one spans it."""
        if self.ends is None:
            return None
        byte = self._byte(cut)
        count = int(np.searchsorted(self.ends, byte, "left")) + 1
        return count if count <= len(self.ends) and self.ends[count - 1] == byte else None

    def _byte(self, character: int) -> int:
        return character if self.text.isascii() else len(self.text[:character].encode())


def pieces_of(text: str) -> list[str]:
    """Return a text split at cuts, into pieces of `PIECE` characters or more."""
    places = [0]
    while len(text) - places[-1] >= 2 * PIECE:
        cut = _CUT.search(text, places[-1] + PIECE)
        if cut is None:
            break
        places.append(cut.end())
    return [text[start:end] for start, end in pairwise([*places, len(text)])]


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def last_cut(text: str, start: int, end: int, around: frozenset[str]) -> int:
    """Return the last place in the characters [start, end) of a text before a space that stands
    between two of `around`; 0: there is none."""
    space = text.rfind(" ", start + 1, max(0, end - 1))
    while space > 0 and not (text[space - 1] in around and text[space + 1] in around):
        space = text.rfind(" ", start + 1, space)
    return max(0, space)


def _one_of(characters: frozenset[str]) -> str:
    return f"[{re.escape(''.join(sorted(characters)))}]"


class SharedTexts:
    """Encodes ordinary text, beside what was encoded lately.

    `pieces` are the tokens' bytes; `whole`: never cut, for tokens that take what stands around.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, pieces: Sequence[bytes], whole: bool = False
    ) -> None:
        # That which keeps no offsets is faster, and newer.
        self._batch = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
        self._pieces, self._whole = pieces, whole
        self._sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
        self._recent: deque[Encoded] = deque(maxlen=RECENT)
        self._words: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Return the ids of one text."""
        if len(text) < LEAST:  # where no words are known yet, to look for cuts would take longer
            return self.by_words([text])[0] if self._words else self._ids([text])[0]
        return self.encode([text])[0].ids.tolist()

    def by_words(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, of which those of words that came before are looked up."""
        if not self.cuts:
            return [self.ids(text) for text in texts]
        split, known = [self._at_cuts.split(text) for text in texts], self._words
        new = [word for word in dict.fromkeys(chain.from_iterable(split)) if word not in known]
        if not new:
            return [[id for word in words for id in known[word]] for words in split]
        found = dict(zip(new, self._ids_of_words(new), strict=True))
        ids = [
            [id for word in words for id in (found[word] if word in found else known[word])]
            for words in split
        ]
        if len(known) > KNOWN_WORDS:  # others that look up just now have the old ones
            self._words = known = {}
        known.update((word, some) for word, some in found.items() if len(word) <= LONGEST_WORD)
        return ids

    def _ids_of_words(self, words: list[str]) -> Iterator[list[int]]:
        """Yield the ids of each of some words. Those that meet at cuts are encoded as one, which
        takes little longer than one of them."""
        chains = [words[:1]]
        for word in words[1:]:
            meets = chains[-1][-1][-1:] in self.cuts and word[:1] == " " and word[1:2] in self.cuts
            if meets:
                chains[-1].append(word)
            else:
                chains.append([word])
        wholes = self._ids(["".join(some) for some in chains])
        for some, whole in zip(chains, wholes, strict=True):
            yield from [whole] if len(some) == 1 else self._apart(some, whole)

    def _apart(self, words: list[str], whole: list[int]) -> list[list[int]]:
        """Return the ids of each of some words, which are `whole` as one text."""
        found: list[list[int]] = []
        pieces, at = self._pieces, 0
        for word in words:
            left, start = len(word.encode()), at
            while left > 0 and at < len(whole):
                left -= len(pieces[whole[at]])
                at += 1
            if left:  # the tokens' bytes are not the text's: letters were composed
                return self._ids(words)
            found.append(whole[start:at])
        return found if at == len(whole) else self._ids(words)

    def last_cut(self, text: str) -> int:
        """Return where a text is surely split last, whatever follows it; 0: nowhere."""
        return last_cut(text, 0, len(text), self.cuts) if self.cuts else 0

    def arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids [n] i32 of each text."""
        short, long = ([text for text in texts if (len(text) < LEAST) is is_short]
                       for is_short in (True, False))  # fmt: skip
        few = sum(map(len, short)) < TOGETHER
        encoded = self.by_words(short) if short and few and self.cuts else self._ids(short)
        found = dict(zip(short, map(_array, encoded), strict=True))
        found |= {one.text: one.ids for one in self.encode(long)}
        return [found[text] for text in texts]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Return the ids of each text; each is compared with the one before, and recent ones."""
        bases: list[tuple[Encoded | int | None, int]] = []
        for number, text in enumerate(texts):
            bases.append(self._base(number, texts[number - 1] if number else "", text))
        rests = [text[cut:] for text, (_, cut) in zip(texts, bases, strict=True)]
        found: list[Encoded] = []
        for text, (base, cut), ids in zip(texts, bases, self._side_by_side(rests), strict=True):
            before = found[base] if isinstance(base, int) else base
            found.append(self._joined(text, before, cut, ids))
        self._recent.extend(one for one in found[-RECENT:] if len(one.text) >= LEAST)
        return found

    def _base(self, number: int, previous: str, text: str) -> tuple[Encoded | int | None, int]:
        """Return what a text begins like (the text before it by number), and where it is cut."""
        if len(text) < LEAST or not self.cuts:
            return None, 0
        best, cut = None, self._cut(previous, text)
        if cut:
            return number - 1, cut
        for known in tuple(self._recent):  # other threads encode, too
            if known.ends is not None and (place := self._cut(known.text, text, cut)):
                best, cut = known, place
        return best, cut

    def _cut(self, known: str, text: str, behind: int = 0) -> int:
        """Return the last sure cut in what two texts share, if one is `behind` a place; else 0."""
        least = max(LEAST, behind + 3)  # a cut, and the space and the letter after it
        if known[:least] != text[:least]:
            return 0
        shared = shared_characters(known, text)
        return last_cut(text, max(behind, shared - LOOK_BACK), shared, self.cuts)

    def _joined(self, text: str, base: Encoded | None, cut: int, rest: list[int]) -> Encoded:
        ids = np.array(rest, np.int32)
        ends, size = np.cumsum(self._sizes[ids]), len(text.encode())
        if base is not None:
            count = base.tokens_before(cut)
            if count is None or base.ends is None:
                return self._joined(text, None, 0, self._ids([text])[0])
            ids = np.concatenate([base.ids[:count], ids])
            ends = np.concatenate([base.ends[:count], ends + base.ends[count - 1]])
        known = bool(len(ends)) and int(ends[-1]) == size
        return Encoded(text, ids, ends if known else None)

    def _side_by_side(self, texts: list[str]) -> Iterator[list[int]]:
        """Yield the ids of each text, of which long ones are encoded piece by piece."""
        pieces = [[text] if len(text) < 2 * PIECE or not self.cuts else pieces_of(text)
                  for text in texts]  # fmt: skip
        encoded = iter(self._ids([piece for some in pieces for piece in some]))
        for some in pieces:
            yield [id for _ in some for id in next(encoded)]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        alone = sum(map(len, texts)) < TOGETHER  # the library wakes no others for one text
        found: list[tokenizers.Encoding] = []
        for some in [[text] for text in texts] if alone else [texts]:
            found += self._batch(some, add_special_tokens=False)
        return [one.ids for one in found]

    @cached_property
    def cuts(self) -> frozenset[str]:
        """Characters between two of which this tokenizer surely splits before a space; none: it is
        not sure of any."""
        return next(filter(self._splits, (_VISIBLE, _LETTERS)), frozenset())

    @cached_property
    def _at_cuts(self) -> re.Pattern[str]:
        one = _one_of(self.cuts)
        return re.compile(f"(?<={one})(?= {one})")

    def _splits(self, around: frozenset[str]) -> bool:
        """Whether this tokenizer surely splits before a space between two of these characters."""
        if self._whole or re.search(f"{_one_of(around)} ".encode(), b"\n".join(self._pieces)):
            return False
        tried = [[f"{left}b", f" c{right}"] for left in _BEFORE for right in _AFTER]
        tried += [[f"{left}The", f" X{right}"] for left in _BEFORE for right in _AFTER]
        for word in (" {0}", " {0}b{0}"):  # each character left and right of some
            near = [other for other in _NEXT_TO if other in around]
            pairs = [(one, other) for other in near for one in sorted(around)]
            tried.append([word.format(one) for pair in pairs for one in pair])
        words = list(dict.fromkeys(word for some in tried for word in some))
        apart = dict(zip(words, self._ids(words), strict=True))
        wholes = self._ids(["".join(some) for some in tried])
        return [[id for word in some for id in apart[word]] for some in tried] == wholes
