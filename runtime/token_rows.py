"""Short steps as decode steps: each token a row that sees the keys up to its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from .step import StepInput

Part = tuple[StepInput, np.ndarray]
"""A step of single tokens, and which of the whole step's rows of logits it gives [r]."""


def token_rows(step: StepInput, rows: int) -> Iterator[Part]:
    """Yield the step's tokens as decode steps of at most `rows` tokens, to be run in this order.

    A layer writes all keys and values of a step before it reads any, so tokens of one sequence may
    stand side by side: what a token sees is bounded by its own length. A part always has a row of
    logits, be it an unwanted one. (NumPy, because torch would wake a pool of threads that keeps
    the kernels' own from the cores.)
    """
    owner = np.repeat(np.arange(len(step.kv_lengths)), np.diff(step.query_starts.numpy()))
    lengths = torch.from_numpy(step.positions.numpy() + np.int32(1))
    pages = torch.from_numpy(step.page_table.numpy()[owner])
    asked = step.logits_rows.numpy()
    for start in range(0, len(owner), rows):
        part = slice(start, min(start + rows, len(owner)))
        wanted = np.flatnonzero((asked >= part.start) & (asked < part.stop))
        local = asked[wanted] - np.int32(start) if len(wanted) else np.zeros(1, np.int32)
        yield (
            StepInput(
                tokens=step.tokens[part],
                positions=step.positions[part],
                slots=step.slots[part],
                query_starts=torch.from_numpy(np.arange(part.stop - start + 1, dtype=np.int32)),
                kv_lengths=lengths[part],
                page_table=pages[part],
                logits_rows=torch.from_numpy(local),
            ),
            wanted,
        )


def single_rows(step: StepInput, page_size: int) -> tuple[StepInput, np.ndarray]:
    """Return a step as one of single tokens that all give logits, and their order [T].

    Tokens whose logits are wanted come first, in their order: token `order[t]` is row t.
    """
    asked, count = step.logits_rows.numpy(), step.tokens.shape[0]
    others = np.ones(count, bool)
    others[asked] = False
    order = np.concatenate([asked, np.flatnonzero(others)])
    owner = np.repeat(np.arange(len(step.kv_lengths)), np.diff(step.query_starts.numpy()))[order]

    pages = -(-int(step.kv_lengths.max()) // page_size)

    def taken(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int32, copy=False))

    return StepInput(
        tokens=taken(step.tokens.numpy()[order]),
        positions=taken(step.positions.numpy()[order]),
        slots=taken(step.slots.numpy()[order]),
        query_starts=taken(np.arange(count + 1)),
        kv_lengths=taken(step.positions.numpy()[order] + 1),
        page_table=taken(step.page_table.numpy()[owner, :pages]),
        logits_rows=taken(np.arange(count)),
        reads=None if step.reads is None else taken(step.reads.numpy()[owner]),
    ), order
