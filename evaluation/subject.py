"""A model under test, run by its meaning: a context once, then questions under any attention."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..codegen.meaning.graph_reference import Attend, GraphRun, Kvset, State
from ..frontend.checkpoints.checkpoint import Checkpoint
from ..ir.core import Operation
from ..ir.diagnostics import CapacityError, reason
from ..ir.model import ModelConfig
from ..options import Options

PAGE = 16
ROWS = 512
"""Rows of a step: what bounds the memory of scores."""


class ContextTooLong(CapacityError):
    """A text with more tokens than the model's context holds."""

    template = "{tokens} tokens do not fit the context of {model}, {context} tokens"
    hint = "ask for shorter lengths: --lengths 512,1k"


class Tested(Protocol):
    """A model that answers under an attention of choice: `Subject`, or `kernels.KernelSubject`."""

    checkpoint: Checkpoint
    config: ModelConfig

    def attention_of(self, judged: Any) -> Any:
        """Return what `follow` and `whole` take for an `attention.Judged`."""
        ...

    def begin(self, ids: Sequence[int], room: int = 0) -> None:
        """Take a context; `room` more tokens will follow."""
        ...

    def follow(self, ids: Sequence[int], attend: Any) -> Tensor:
        """Return the logits [len(ids), V] of tokens after the context."""
        ...

    def whole(self, ids: Sequence[int], attend: Any) -> Tensor:
        """Return the logits of every token of a sequence of its own."""
        ...


class Subject:
    """A checkpoint's graph with its weights in f32, and one sequence of keys and values.

    `begin` reads a context with dense attention; `follow` gives the logits of what comes next,
    under an attention of choice, and leaves the context as it was: ask again and again.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", seed: int = 0) -> None:
        from ..compiler.loading import tensor_source
        from ..runtime.execution.weights import load_weights

        self.checkpoint, self.config, self._device = checkpoint, checkpoint.config, device
        source = tensor_source(checkpoint, Options(seed=seed), device)
        loaded = load_weights(checkpoint.graph, source, device)
        self._weights = {name: weight.dense() for name, weight in loaded.items()}
        self._run, self.length = self._fresh(0), 0

    def attention_of(self, judged: Any) -> Attend | None:
        """Return what a graph's run attends with for an `attention.Judged`."""
        return judged.attend()

    def _fresh(self, tokens: int) -> GraphRun:
        slots = -(-(tokens + 4 * PAGE) // PAGE) * PAGE
        return GraphRun(self.checkpoint.graph, self._weights, page_size=PAGE, slots=slots)

    @torch.inference_mode()
    def begin(self, ids: Sequence[int], room: int = 0) -> None:
        """Forget the last context and read this one densely; `room` more tokens will follow."""
        if len(ids) + room > self.config.context_length:
            raise ContextTooLong(tokens=len(ids) + room, model=self.checkpoint.name,
                                 context=self.config.context_length)  # fmt: skip
        self._run, self.length = self._fresh(len(ids) + room), 0
        self._steps(ids, read_densely, logits=False)
        self.length = len(ids)

    @torch.inference_mode()
    def follow(self, ids: Sequence[int], attend: Attend | None = None) -> Tensor:
        """Return the logits [len(ids), V] of tokens after the context."""
        return self._steps(ids, attend, logits=True)

    @torch.inference_mode()
    def whole(self, ids: Sequence[int], attend: Attend | None = None, logits: bool = True
              ) -> Tensor:  # fmt: skip
        """Return the logits of every token of a sequence of its own, all under one attention."""
        self.begin([], room=len(ids))
        return self._steps(ids, attend, logits)

    def _steps(self, ids: Sequence[int], attend: Attend | None, logits: bool) -> Tensor:
        self._run.attend = attend
        found = [
            self._step(ids[at : at + ROWS], self.length + at, logits)
            for at in range(0, len(ids), ROWS)
        ]
        return torch.cat(found) if found else torch.zeros(0, self.config.vocab_size)

    def _step(self, ids: Sequence[int], first: int, logits: bool) -> Tensor:
        with nullcontext() if self._device == "cpu" else torch.device(self._device):
            return self._run.step(self._inputs(ids, first, logits))

    def _inputs(self, ids: Sequence[int], first: int, logits: bool) -> dict[str, Tensor]:
        rows = torch.arange(first, first + len(ids))
        pages = torch.arange(-(-(first + len(ids)) // PAGE))[None]
        wanted = torch.arange(len(ids)) if logits else torch.zeros(1, dtype=torch.long)
        return {
            "tokens": torch.tensor(list(ids)), "positions": rows, "slots": rows,
            "query_starts": torch.tensor([0, len(ids)]),
            "kv_lengths": torch.tensor([first + len(ids)]), "page_table": pages,
            "logits_rows": wanted,
        }  # fmt: skip


def read_densely(
    run: GraphRun, operation: Operation, q: Tensor, starts: Tensor, kvset: Kvset
) -> State:
    """Attend to all keys of one causal sequence by torch's kernel: as `dense_partial`, sooner."""
    heads, kv_heads, width = operation["heads"], operation["kv_heads"], operation["head_dim"]
    slots, length = kvset.slots[0], kvset.lengths[0]
    at = torch.arange(length - len(q), length)[:, None]
    seen = torch.arange(len(slots)) <= at
    if kvset.window is not None:
        seen &= torch.arange(len(slots)) > at - kvset.window
    k, v = (cache[kvset.layer][slots].unflatten(-1, (kv_heads, width)).transpose(0, 1)[None]
            for cache in (run.keys, run.values))  # fmt: skip
    rows = q.unflatten(-1, (heads, width)).transpose(0, 1)[None]
    found = torch.nn.functional.scaled_dot_product_attention(
        rows, k, v, seen, scale=operation["scale"], enable_gqa=True
    )[0].transpose(0, 1)
    return State(found.new_zeros(found.shape[:2]), found.new_ones(found.shape[:2]), found)


def read_text(file: Path) -> str:
    """Return a file's text; raises BadText."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadText(file=str(file), problem=f"cannot be read: {reason(error)}") from None
    if not text.strip():
        raise BadText(file=str(file), problem="is empty")
    return text


class BadText(CapacityError):
    """A text that cannot be read, or that has too few tokens."""

    kind = "text error"
    template = "{file} {problem}"
    hint = "--text takes a file of plain text in UTF-8, of some thousand words"
