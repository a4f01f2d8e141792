"""What a step's logits say of words that requests ask for: log-probabilities after positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .batch import Chunk


def give_scores(logits: Tensor, chunks: Sequence[Chunk]) -> None:
    """Hand each chunk's request the log-probabilities of its words; `logits` [R, V] f32 are those
    of the chunks' scored positions, in order.

    Only what is asked for leaves the device.
    """
    asked = [words for chunk in chunks for words in chunk.asked]
    rows = np.repeat(np.arange(len(asked)), [len(words) for words in asked])
    if not len(rows):
        found: list[float] = []
    else:
        places = np.stack([rows, np.concatenate([np.asarray(words) for words in asked])])
        row, word = torch.from_numpy(places.astype(np.int64)).to(logits.device)
        found = torch.log_softmax(logits, 1)[row, word].tolist()
    values = iter(found)
    for chunk in chunks:
        if chunk.scores:
            known = chunk.request.scores
            del known[chunk.scored_from :]  # it may have been computed before, and given up
            known += [dict(zip(words, values, strict=False)) for words in chunk.asked]
