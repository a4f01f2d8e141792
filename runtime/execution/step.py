"""One step of the model: what the engine hands to an executor, and what an executor is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

DEFAULT, WHOLE, SPARSE = 0, 1, 2
"""Of a sequence of a step: which keys it reads."""


def whole_rows(step: StepInput, rows: int, sparse: bool) -> np.ndarray:
    """Return which of the first rows read everything [rows], bool; `sparse` is the default."""
    if step.reads is None:
        return np.full(rows, not sparse)
    reads = step.reads.numpy()[:rows]
    return (reads == WHOLE) | ((reads == DEFAULT) & (not sparse))


def reads_of(attention: str) -> int:
    """Return which keys a request under `with attention` reads."""
    return {"": DEFAULT, "dense": WHOLE}.get(attention, SPARSE)


@dataclass
class StepInput:
    """The tokens of one forward pass over B sequences, packed; int32 CPU tensors, contiguous.

    The tensors are views of buffers that the next step overwrites. Rows of one token (decode)
    come first. T tokens, B sequences, R rows of logits; R is at most what `most_logits` says.
    """

    tokens: Tensor
    """[T] token ids."""
    positions: Tensor
    """[T] position of each token in its sequence, from 0."""
    slots: Tensor
    """[T] where its keys and values go: page * page_size + offset."""
    query_starts: Tensor
    """[B + 1] offsets of the sequences' tokens in `tokens`."""
    kv_lengths: Tensor
    """[B] tokens of each sequence that attention sees, those of this step included."""
    page_table: Tensor
    """[B, MAXP] pages of each sequence; entries past its length are 0 or stale."""
    logits_rows: Tensor
    """[R] which of the T tokens give logits, in this order."""
    reads: Tensor | None = None
    """[B] which keys each sequence reads: as the executor does by default, all, or as its policy
    says (DEFAULT, WHOLE, SPARSE); None: by default."""
    copies: Tensor | None = None
    """[2, X] slots from which keys and values are copied, and to which, in each layer as soon as
    they are written there: those of tokens that one sequence computes and others share. No slot
    that is copied to is copied from. None: none; only executors that have `copies_slots` get any.
    """

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one token, so that a captured graph may run it."""
        return self.tokens.shape[0] == self.kv_lengths.shape[0]


def decode_step(rows: int, length: int, page_size: int, shared: int = 0) -> StepInput:
    """Return a decode step of so many sequences of `length` tokens, in the first pages; their first
    `shared` tokens, in whole pages, are the same."""
    common = shared // page_size
    own = -(-length // page_size) - common
    pages = torch.arange(common + rows * own, dtype=torch.int32)
    table = torch.cat([pages[:common].expand(rows, -1), pages[common:].view(rows, own)], 1)
    each, starts = torch.ones(rows, dtype=torch.int32), torch.arange(rows + 1, dtype=torch.int32)
    zeros = torch.zeros_like(each)
    return StepInput(zeros, each * (length - 1), zeros, starts, each * length, table, starts[:-1])


class ModelExecutor(Protocol):
    """A model with its paged KV memory, on whatever device."""

    vocab_size: int
    context_length: int
    page_size: int
    page_bytes: int
    num_pages: int
    max_batch: int
    max_tokens: int

    # One whose `copies_slots` is true does what `StepInput.copies` says.
    # One whose steps take as long as their tokens do says so: `tokens_are_dear`.
    # One whose steps may have more rows of logits than `max_batch` says so: `max_logits`.
    # One that has `forward_narrow`, for steps with logits of some words, says so: `takes_words`.

    def forward(self, step: StepInput) -> Tensor:
        """Run one step; return logits [R, V] float32 in a buffer that the next call reuses."""
        ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy the keys and values of a page, all layers."""
        ...


def most_logits(executor: ModelExecutor) -> int:
    """Return how many rows of logits one step of an executor may have."""
    return getattr(executor, "max_logits", executor.max_batch)
