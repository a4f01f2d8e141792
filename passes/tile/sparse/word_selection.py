"""The launches of a selection by steps of score, on a GPU: which kernels they are made of.

Scores, counts of steps and lists of a row and key head are made part by part, and the parts need
what all have counted: between them they meet (`meeting`), where few enough are cut alike.
"""

from __future__ import annotations

from dataclasses import replace

from ....ir.core import Operation
from ....ir.sparse.policy import SparsePolicy
from ..meeting import meeting
from ..selection.bin_boundary import BinSelection
from ..selection.bin_selection import select_bins
from ..selection.query_words import query_words
from ..selection.shared_labels import shared_labels
from ..selection.step_counts import step_counts
from ..selection.word_labels import WordScores
from ..selection.word_scores import word_scores
from .list_shares import list_shares, share_join
from .sparse_parts import SparseParts

TOGETHER = 1024, 4096, 4096
"""Tokens that a program scores, counts and lists at a time, where it does all three."""


def word_selection(
    shape: WordScores, policy: SparsePolicy, slots: bool = False, read: SparseParts | None = None
) -> tuple[Operation, ...]:
    """Return the kernels that choose a step's keys by words: where rows share labels (and there is
    no tail) queries and scores of those; scores of what each has alone, of queries that it rounds;
    counts of steps; lists, of positions or of slots of the pools; for few pairs of a row and a key
    head the last three in one, which also attends to what it chose, as `read` says how."""
    labels = shape.labels
    taken = BinSelection(labels.kv_heads, labels.page, shape.sinks, shape.recent,
                         threshold=policy.threshold, top_p=policy.top_p, slots=slots)  # fmt: skip
    if shape.tail:
        return word_scores(shape), *_listed(taken)
    first = query_words(replace(shape, scale=0.0)), shared_labels(shape)
    few, many = replace(shape, pairs="few"), replace(shape, pairs="many", keys=_many(shape))
    if taken.adaptive:
        return *first, word_scores(few), word_scores(many), *_listed(taken)
    return (*first, _together(few, replace(taken, pairs="few"), read), word_scores(many),
            *_listed(replace(taken, pairs="many")))  # fmt: skip


def _many(shape: WordScores) -> int:
    """Return how many tokens are scored at a time of many pairs of a row and a key head: of these
    all programs run at once, and are small; few need more threads each."""
    return 512 if shape.group > 1 else 256


def _together(shape: WordScores, taken: BinSelection, read: SparseParts | None) -> Operation:
    """Return scores, counts and lists as one launch, and attention, if they are read there."""
    scored, counted, listed = TOGETHER
    scores = word_scores(replace(shape, keys=scored))
    attends = (list_shares(read), share_join(read)) if read else ()
    begin = "attended_words" if read else "chosen_words"
    name = scores["name"].name.replace("word_scores", begin) + "_slots" * taken.slots
    name += f"_{read.kv}_by{read.listed}" if read else ""
    return meeting(name, scores, step_counts(replace(taken, keys=counted)),
                   select_bins(replace(taken, keys=listed)), *attends)  # fmt: skip


def _listed(taken: BinSelection) -> tuple[Operation, Operation]:
    """Return counts and lists, each a launch."""
    if taken.adaptive:  # two warps in place of one
        return step_counts(taken), select_bins(replace(taken, keys=2 * taken.keys))
    return step_counts(replace(taken, keys=taken.keys // 2)), select_bins(taken)
