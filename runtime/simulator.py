"""A model without weights: logits from a hash of all tokens that it reads *through the paged KV*.

A wrong page, a missed copy or a stale slot changes the answer, so the engine's whole machinery
can be tested, and timed, on any machine. `toy_logits` is the same model on a plain list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ir.constraints.token_masks import few_words
from ..ir.core import Operation
from ..ir.vocabulary import Frame, Part
from .execution.step import ModelExecutor, StepInput
from .programs.timed_tools import TimedTools, ToolSeconds

_MULTIPLIER = 0x9E3779B97F4A7C15


class ToyExecutor:
    """A ModelExecutor whose KV memory holds token ids."""

    copies_slots = False
    """Whether prompts of one step may share tokens: set before an engine is made."""

    def __init__(
        self,
        vocab_size: int,
        num_pages: int = 256,
        page_size: int = 4,
        context_length: int = 512,
        max_batch: int = 16,
        max_tokens: int = 64,
    ) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.page_size = page_size
        self.page_bytes = page_size * 4
        self.num_pages = num_pages
        self.max_batch = max_batch
        self.max_tokens = max_tokens
        self.kv = np.full(num_pages * page_size, -7, np.int64)
        self.copies = 0

    def forward(self, step: StepInput) -> Tensor:
        """Write the step's tokens into the KV memory; return logits of the wanted rows."""
        return self.all_logits(step)

    def forward_narrow(self, step: StepInput, words: Tensor) -> Tensor:
        """Return them for some `words` [W] i32, as `CompiledExecutor.forward_narrow` does."""
        logits = self.all_logits(step)
        few = few_words(self.vocab_size)
        found = torch.full((len(logits), few if len(words) <= few else self.vocab_size), 1e6)
        found[:, : len(words)] = logits[:, words.long()]
        return found

    def all_logits(self, step: StepInput) -> Tensor:
        """Return logits of all words."""
        self.kv[step.slots.numpy()] = step.tokens.numpy()
        if step.copies is not None:
            source, target = step.copies.numpy()
            self.kv[target] = self.kv[source]
        sequence_of = np.repeat(np.arange(len(step.kv_lengths)), np.diff(step.query_starts.numpy()))
        positions = step.positions.numpy()
        rows = []
        for row in step.logits_rows.tolist():
            table = step.page_table[sequence_of[row]].numpy()
            seen = np.arange(int(positions[row]) + 1)
            slots = table[seen // self.page_size] * self.page_size + seen % self.page_size
            rows.append(toy_logits(self.kv[slots], self.vocab_size))
        return torch.stack(rows) if rows else torch.empty(0, self.vocab_size)

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's token ids."""
        pages = self.kv.reshape(self.num_pages, self.page_size)
        pages[target] = pages[source]
        self.copies += 1


def toy_logits(tokens: Sequence[int] | np.ndarray, vocab_size: int) -> Tensor:
    """Return the toy model's logits [V] after `tokens`."""
    ids = np.asarray(tokens, np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        weights = (np.arange(len(ids), dtype=np.uint64) + np.uint64(1)) * np.uint64(_MULTIPLIER)
        state = ((ids + np.uint64(3)) * (weights | np.uint64(1))).sum(dtype=np.uint64)
        z = state + np.arange(vocab_size, dtype=np.uint64) * np.uint64(_MULTIPLIER)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) / 2**20)


Price = Callable[[Sequence[int], Sequence[int], int], float]
"""Seconds of a step: the tokens that each sequence feeds, the keys that it sees, rows of logits."""


class SimulatedExecutor:
    """A ModelExecutor that answers as another one, and takes the time of a third.

    Each step advances `now`, a virtual clock in seconds, by its price, and tools take stated
    seconds of it. Two schedules of the same work can so be compared for a model and a machine that
    are not there, and one has the same steps whenever it is run.
    """

    takes_words = False
    """A price knows steps with logits of all words only."""

    tokens_are_dear = False
    """The price decides, and those that there are know a GPU."""

    def __init__(
        self, inner: ModelExecutor, price: Price, tool_seconds: ToolSeconds = lambda tool: 0.0
    ) -> None:
        """`tool_seconds` are those that a tool's call takes; 0: it is answered after the step that
        comes next."""
        self.now = 0.0
        self.steps = 0
        self._inner = inner
        self._price = price
        self._tool_seconds = tool_seconds

    def tools(self, records: Mapping[str, Operation]) -> TimedTools:
        """Return what calls tools on this clock, for an engine's task loop."""
        return TimedTools(records, self, self._tool_seconds)

    def __getattr__(self, name: str) -> Any:
        """Return a limit or a size of the executor that answers."""
        return getattr(self._inner, name)

    def forward(self, step: StepInput) -> Tensor:
        """Let the step's price go by; return the other executor's logits."""
        queries = np.diff(step.query_starts.numpy()).tolist()
        self.now += self._price(queries, step.kv_lengths.tolist(), len(step.logits_rows))
        self.steps += 1
        return self._inner.forward(step)


class ToyTokenizer:
    """Special ids 0..4, then all bytes, then some words; encodes by the longest match."""

    BEGIN, END, SYSTEM, USER, ASSISTANT = range(5)

    def __init__(self, words: Sequence[str] = ()) -> None:
        pieces = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
        self._bytes = [b""] * 5 + pieces
        self._ids = {piece: id for id, piece in enumerate(self._bytes) if piece}
        self._longest = max(len(piece) for piece in pieces)

    @property
    def size(self) -> int:
        """The number of token ids."""
        return len(self._bytes)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The id that ends a generation."""
        return (self.END,)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text."""
        return frozenset(range(5))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, by the longest match from the left."""
        data, ids, at = text.encode(), [], 0
        while at < len(data):
            for size in range(min(self._longest, len(data) - at), 0, -1):
                id = self._ids.get(data[at : at + size])
                if id is not None:
                    ids.append(id)
                    at += size
                    break
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return b"".join(self._bytes[id] for id in ids).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token."""
        return self._bytes[id]


class ToyChat:
    """A chat format of one special token a role, and one at each message's end."""

    def start(self) -> tuple[Part, ...]:
        """Return the begin token."""
        return (ToyTokenizer.BEGIN,)

    def frame(self, previous_roles: tuple[str, ...], role: str) -> Frame:
        """Return a role's markers."""
        marker = {"system": 2, "user": 3, "assistant": 4}[role]
        return Frame((marker,), (ToyTokenizer.END, "\n"))
