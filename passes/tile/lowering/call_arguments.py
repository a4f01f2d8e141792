"""The arguments of a `graph.call`, written as a line of words."""

from __future__ import annotations

from ....ir.core import Term

INDEXED = frozenset({
    "in", "out", "flat", "scale", "k", "v", "labels", "order", "mean", "level", "centre", "spread",
    "value_sums",
})  # fmt: skip
"""Arguments of a call that carry a number: of an operand, a result, or a layer."""


def call_arguments(text: str | list[Term]) -> list[Term]:
    """Read "T in0 k3" as the terms T, in<0>, k<3>; terms stay as they are."""
    if not isinstance(text, str):
        return text
    terms = []
    for word in text.split():
        name = word.rstrip("0123456789")
        indexed = name in INDEXED
        terms.append(Term(name, (int(word[len(name) :]),)) if indexed else Term(word))
    return terms
