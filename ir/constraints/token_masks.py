"""Which tokens an automaton's states allow, and how near each leaves them to a whole text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .automaton import DEAD, Automaton, refine
from .token_trie import TokenTrie

CHUNK = 32
"""States that one walk through the vocabulary takes together."""

UNREACHED = np.iinfo(np.uint16).max
"""The distance of what is not allowed."""


WORTH, ALONE = 15 / 16, 5 / 8
"""The shares of the vocabulary up to which logits of the other words are worth leaving out, of
several rows and of one. With 3,813 of 4,096 words the head took .88 to .97 of the time of all for 4
and 16 rows, 1.13 for one, whose weights are all that it waits for: with 2,048 .76 (an AMD machine,
one thread, behind 21 MB of other weights)."""

FORBIDDEN, LEAST_ALLOWED = -1.0e30, -5.0e29
"""The logit of a word that a mask forbids, and the least that an allowed one counts as: where all
allowed words have -inf, one of them is drawn."""

FEW = 8
"""A few words are at most one of so many."""


def few_words(vocab_size: int) -> int:
    """Return how many words are a few: as many as whole words of a mask."""
    return -(-vocab_size // (32 * FEW)) * 32


def classes_of(given: Automaton, facts: Sequence[np.ndarray], longest: int) -> np.ndarray:
    """Return labels [S]: states of one label agree in all facts [S] after each token.

    A token has at most `longest` bytes; what lies farther cannot tell states apart.
    """
    rows = np.stack([given.accepting, *facts], 1)
    labels = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return refine(given, labels, longest)


def token_distances(
    given: Automaton, states: np.ndarray, distance: np.ndarray, trie: TokenTrie
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each state with the distance [V] after each token, UNREACHED where it is not allowed.

    The array is used again for the next one.
    """
    table = given.by_byte()
    wide = (table[states] != DEAD).sum(1)
    states = states[np.argsort(wide, kind="stable")]
    size = len(trie.words)
    for start in range(0, len(states), CHUNK):
        chunk = states[start : start + CHUNK]
        found = np.full((len(chunk), size), UNREACHED, np.uint16)
        for tokens, targets in _walk(table, chunk, trie):
            found[:, tokens] = distance[targets].T
        yield from zip(chunk.tolist(), found, strict=True)


def _walk(
    table: np.ndarray, states: np.ndarray, trie: TokenTrie
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield tokens [T] and the states [T, C] that they lead to from C states, level by level.

    Nodes to which no state leads are left behind, and all below them.
    """
    flat = table.astype(np.int32).reshape(-1)
    here = states[None, :].astype(np.int32)  # [nodes, C]
    kept = np.zeros(1, np.int64)  # the place in `here` of each node of the level above, or -1
    for level in trie.levels:
        places = kept[level.parents]
        live = np.flatnonzero(places >= 0)
        if not len(live):
            return
        reached = flat[here[places[live]] * 256 + level.bytes[live, None]]
        some = reached.any(1)
        here = reached[some]
        kept = np.full(len(level.parents), -1, np.int64)
        kept[live[some]] = np.arange(len(here))
        ends = kept[level.ends]
        fits = ends >= 0
        if fits.any():
            yield level.tokens[fits], here[ends[fits]]


def packed(bits: np.ndarray) -> np.ndarray:
    """Return booleans [V] as words of 32 bits, int32 [ceil(V / 32)]."""
    words = np.zeros(-(-len(bits) // 32) * 4, np.uint8)
    eight = np.packbits(bits, bitorder="little")
    words[: len(eight)] = eight
    return words.view(np.int32)
