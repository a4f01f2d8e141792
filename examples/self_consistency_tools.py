"""The tool of self_consistency.weft."""

from collections import Counter


def vote(answers: list[int]) -> int:
    """Return the most frequent answer; the earlier one where two are as frequent."""
    return Counter(answers).most_common(1)[0][0]
