"""A step's input, packed from the running rows and from chunks into arrays that are made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..execution.step import ModelExecutor, StepInput, most_logits

if TYPE_CHECKING:
    from .batch import Batch, Chunk


class StepPacking:
    """The arrays of a step's input, of which steps are views; `table` is the batch's.

    Entries are of running rows first, then of chunks, in the order in which they are packed.
    """

    def __init__(self, executor: ModelExecutor, table: np.ndarray) -> None:
        rows, tokens = executor.max_batch, executor.max_tokens
        self._page_size, self._table = executor.page_size, table
        self._count = np.arange(max(rows, tokens) + 1, dtype=np.int32)
        self._tokens = np.zeros(tokens, np.int32)
        self._positions = np.zeros(tokens, np.int32)
        self._slots = np.zeros(tokens, np.int32)
        self._starts = self._count[: rows + 1].copy()
        self._lengths = np.zeros(rows, np.int32)
        self._wanted = np.zeros(most_logits(executor), np.int32)
        self._reads = np.zeros(rows, np.int32)
        self._inputs = [
            torch.from_numpy(array)
            for array in (
                self._tokens, self._positions, self._slots, self._starts, self._lengths, table,
                self._wanted, self._reads,
            )
        ]  # fmt: skip
        self._views: dict[tuple[int, int, int], StepInput] = {}

    def running(self, batch: Batch) -> None:
        """Pack the batch's rows: the token that each feeds, whose logits are wanted."""
        count = batch.size
        resident = batch.resident[:count]
        pages, offsets = np.divmod(resident, self._page_size)
        slots = self._table[self._count[:count], pages]
        slots *= self._page_size
        slots += offsets
        self._tokens[:count] = batch.token[:count]
        self._positions[:count] = resident
        self._slots[:count] = slots
        self._reads[:count] = batch.reads[:count]
        self._starts[: count + 1] = self._count[: count + 1]
        self._wanted[:count] = self._count[:count]
        resident += 1
        self._lengths[:count] = resident

    def chunks(self, chunks: Sequence[Chunk], first: int, at: int) -> int:
        """Pack chunks as the sequences from `first` on, their tokens from place `at` on, all at
        once: a step has some hundred; return where the last ends."""
        tokens = []
        for row, chunk in enumerate(chunks, first):
            sequence = chunk.request.sequence
            tokens.append(sequence.tokens[chunk.start : chunk.start + chunk.count])
            self._table[row, : sequence.held] = sequence.pages[: sequence.held]
        counts = np.array([chunk.count for chunk in chunks], np.int32)
        starts = np.array([chunk.start for chunk in chunks], np.int32)
        ends = np.cumsum(counts, dtype=np.int32)
        last, end = first + len(chunks), at + int(ends[-1])
        positions = self._count[: end - at] + np.repeat(starts - ends + counts, counts)
        pages, offsets = np.divmod(positions, self._page_size)
        rows = np.repeat(self._count[first:last], counts)
        np.concatenate(tokens, out=self._tokens[at:end])
        self._positions[at:end] = positions
        self._slots[at:end] = self._table[rows, pages] * self._page_size + offsets
        self._starts[first + 1 : last + 1] = ends + at
        self._lengths[first:last] = starts + counts
        for chunk, place in zip(chunks, (ends + at).tolist(), strict=True):
            chunk.packed_end = place
        self._reads[first:last] = [chunk.reads for chunk in chunks]
        return end

    def want(self, at: int, start: int, stop: int) -> int:
        """Ask for the logits of the tokens [start, stop), as row `at` and those that follow; return
        the next row."""
        end = at + stop - start
        self._wanted[at:end] = self._count[start:stop]
        return end

    def view(self, tokens: int, rows: int, wanted: int) -> StepInput:
        """Return a step of so many tokens, sequences and rows of logits."""
        known = self._views.get((tokens, rows, wanted))
        if known is None:
            sizes = (tokens, tokens, tokens, rows + 1, rows, rows, wanted, rows)
            views = [tensor[:size] for tensor, size in zip(self._inputs, sizes, strict=True)]
            known = StepInput(*views)
            if tokens == rows:
                self._views[tokens, rows, wanted] = known
        return known

    def kv_tokens(self, rows: int) -> int:
        """Return the tokens that the attention of the first sequences sees."""
        return int(self._lengths[:rows].sum())
