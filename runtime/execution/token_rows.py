"""Short steps as decode steps: each token a row that sees the keys up to its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from .step import StepInput

Part = tuple[StepInput, np.ndarray]
"""A step of single tokens, and which of the whole step's rows of logits it gives [r]; there may be
more rows behind them."""

GROUP = 16
"""Tokens that kernels take at a time: a part of more is of whole groups, whose last token comes
again, so that parts are of few shapes. It writes the same keys to the same place."""


def token_rows(step: StepInput, rows: int) -> Iterator[Part]:
    """Yield the step's tokens as decode steps of at most `rows` tokens, to be run in this order.

    A layer writes all keys and values of a step before it reads any, so tokens of one sequence may
    stand side by side: what a token sees is bounded by its own length. Of several parts the first
    has the sequences that begin first: who reads what another computes goes on behind its begin. A
    part always has a row of logits, be it an unwanted one, and one of more than a GROUP has whole
    groups of both. (NumPy, because torch would wake a pool of threads that keeps the kernels' own
    from the cores.)
    """
    counts = np.diff(step.query_starts.numpy())
    owner = np.repeat(np.arange(len(counts)), counts)
    pages, asked = step.page_table.numpy(), step.logits_rows.numpy()
    order = np.arange(len(owner))
    if len(owner) > rows:
        begins = step.positions.numpy()[step.query_starts.numpy()[:-1]]
        order = np.argsort(np.repeat(begins, counts), kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        asked = place[asked].astype(np.int32)
    for start in range(0, len(owner), rows):
        stop = min(start + rows, len(owner))
        wanted = np.flatnonzero((asked >= start) & (asked < stop))
        local = asked[wanted] - np.int32(start) if len(wanted) else np.zeros(1, np.int32)
        part = order[start:stop]
        if len(part) > GROUP:
            part, local = _whole_groups(part, rows), _whole_groups(local, rows)
        positions = step.positions.numpy()[part]
        given = (
            step.tokens.numpy()[part], positions, step.slots.numpy()[part],
            np.arange(len(part) + 1, dtype=np.int32), positions + np.int32(1), pages[owner[part]],
            local,
        )  # fmt: skip
        yield StepInput(*map(torch.from_numpy, given)), wanted


def _whole_groups(numbers: np.ndarray, most: int) -> np.ndarray:
    """Return numbers with the last one repeated up to whole groups, or to so many."""
    whole = min(-(-len(numbers) // GROUP) * GROUP, most)
    return np.pad(numbers, (0, whole - len(numbers)), mode="edge")


KEPT_PARTS = 256
"""Shapes of parts whose tensors are kept."""


class KeptRows:
    """Yields what `token_rows` does, in tensors that come again.

    Parts of as many tokens, pages and rows of logits are one and the same step, written over: so an
    executor binds its launches once. Binding them takes a fifth of the time that they run.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], tuple[StepInput, list[np.ndarray]]] = {}

    def __call__(self, step: StepInput, rows: int) -> Iterator[Part]:
        """Yield the step's tokens as steps of at most `rows`; each is to run before the next."""
        for part, wanted in token_rows(step, rows):
            yield self._again(part), wanted

    def _again(self, part: StepInput) -> StepInput:
        key = (*part.page_table.shape, part.logits_rows.shape[0])
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= KEPT_PARTS:
                self._kept.clear()
            own = replace(part, **{name: getattr(part, name).clone() for name in _FIELDS})
            found = self._kept[key] = own, [getattr(own, name).numpy() for name in _FIELDS]
            return own
        for name, array in zip(_FIELDS, found[1], strict=True):
            array[...] = getattr(part, name).numpy()
        return found[0]


_FIELDS = (
    "tokens", "positions", "slots", "query_starts", "kv_lengths", "page_table", "logits_rows",
)  # fmt: skip
