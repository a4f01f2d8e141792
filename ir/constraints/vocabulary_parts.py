"""How a vocabulary is cut where tokens are drawn part by part, and how far searches in it go."""

from __future__ import annotations

PART_WORDS = 128
"""Words of a mask that a part is at most: 4096 logits, which eight warps hold at once."""

FEWEST_WORDS = 4
"""Words that a part is at least."""

PARTS = 32
"""Parts that are enough for one row: what joins them looks at all in one step."""

SEARCH_BITS = 3
"""Bits of a threshold that a round of a search finds."""

SEARCH_ROUNDS = -(-32 // SEARCH_BITS)
"""Rounds in which all bits are found."""


def part_words(vocab_size: int) -> int:
    """Return the words of a mask, a power of two, that a part of a vocabulary covers."""
    fair = -(-vocab_size // (32 * PARTS))
    return min(PART_WORDS, max(FEWEST_WORDS, 1 << (fair - 1).bit_length()))


def part_count(vocab_size: int, words: int) -> int:
    """Return how many parts of so many words a vocabulary has; the last may be shorter."""
    return -(-vocab_size // (32 * words))
