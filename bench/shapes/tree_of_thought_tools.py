"""The tool of tree_of_thought.weft."""

from collections import Counter


def most_frequent(answers: list[list[list[list[str]]]]) -> str:
    """Return the answer that most leaves gave; the first of equals."""
    leaves = [leaf for plan in answers for work in plan for look in work for leaf in look]
    return Counter(leaves).most_common(1)[0][0]
