"""What a step's logits say of words that requests ask for: log-probabilities after positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ..devices.device import device_errors
from ..devices.pinned import staged
from .batch import Chunk
from .request import Request

ROWS = 256
"""Rows of logits whose log-probabilities a device has at once: 131 MB of 128,256 words."""


class Found:
    """Log-probabilities on their way from a device; on a CPU they are there."""

    def __init__(self, logits: Tensor, rows: np.ndarray, words: np.ndarray) -> None:
        """Begin to fetch those of `words` [n] after `logits` [R, V] f32 of some `rows` [n], which
        ascend."""
        self._event, on_gpu = None, logits.is_cuda
        self._values = staged((len(rows),), torch.float32, on_gpu)
        self._places = staged((2, len(rows)), torch.int64, on_gpu)
        self._places.copy_(torch.from_numpy(np.stack([rows % ROWS, words])))
        row, word = self._places.to(logits.device, non_blocking=True)
        for first in range(0, len(logits), ROWS):
            begin, end = np.searchsorted(rows, (first, first + ROWS)).tolist()
            some = torch.log_softmax(logits[first : first + ROWS], 1)
            self._values[begin:end].copy_(some[row[begin:end], word[begin:end]], non_blocking=True)
        if on_gpu:
            self._event = torch.cuda.Event()
            self._event.record()

    def ready(self) -> bool:
        """Say, without waiting, whether they are there."""
        return self._event is None or self._event.query()

    def wait(self) -> list[float]:
        """Return them, when they are there."""
        if self._event is not None:
            with device_errors():
                self._event.synchronize()
        return self._values.tolist()


class Scores:
    """What the requests of a step's chunks ask of its logits: handed to them when it is there.

    Only what is asked for leaves the device, and nobody waits for it before `give`.
    """

    def __init__(self, logits: Tensor, chunks: Sequence[Chunk]) -> None:
        """Take the logits [R, V] f32 of the chunks' scored positions, in order."""
        self._chunks = [chunk for chunk in chunks if chunk.scores]
        asked = [words for chunk in self._chunks for words in chunk.asked]
        rows = np.repeat(np.arange(len(asked)), np.fromiter(map(len, asked), np.int64, len(asked)))
        self._found: Found | None = None
        if len(rows):
            words = np.fromiter(chain.from_iterable(asked), np.int64, len(rows))
            self._found = Found(logits, rows, words)

    def ready(self) -> bool:
        """Say, without waiting, whether they are there."""
        return self._found is None or self._found.ready()

    def give(self) -> list[Request]:
        """Hand them out, when they are there; return the requests that have all they asked for."""
        values = iter(() if self._found is None else self._found.wait())
        for chunk in self._chunks:
            known = chunk.request.scores
            del known[chunk.scored_from :]  # it may have been computed before, and given up
            known += [dict(zip(words, values, strict=False)) for words in chunk.asked]
        answered, self._chunks = self.answered(), []
        return answered

    def answered(self) -> list[Request]:
        """Return the requests that this step's scores are the last of."""
        return [chunk.request for chunk in self._chunks if chunk.ends]

    def forget(self, request: Request) -> None:
        """Do not count a request among those that are answered."""
        for chunk in self._chunks:
            if chunk.request is request:
                chunk.ends = False
