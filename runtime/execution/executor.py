"""What executors share, and the executor that runs a graph by its meaning: the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Protocol

import torch
from torch import Tensor

from ...ir.diagnostics import CapacityError
from ...ir.model import ModelConfig
from .ranks import announcer
from .step import StepInput

PAGE_SIZE = 16


class StepTooLarge(CapacityError):
    """A step with more rows, sequences or logits than the executor was built for."""

    template = (
        "a step of {rows} tokens in {sequences} sequences with {wanted} rows of logits exceeds "
        "{max_tokens} tokens in {max_batch} sequences with {max_logits} rows"
    )
    hint = "the scheduler must split the step, or the executor be built with larger limits"


class GraphInterpreter(Protocol):
    """What runs a graph step by step: `codegen.meaning.graph_reference.GraphRun` is one."""

    keys: dict[int, Tensor]
    values: dict[int, Tensor]

    def step(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run one step; returns logits [R, V]."""
        ...


class ReferenceExecutor:
    """Executes the graph by its meaning, operation by operation: the oracle, and always there.

    `interpreter` holds keys and values by slot, [slots, K*C] a layer, and has room for
    num_pages * page_size slots. `before` sees each step before it runs.
    """

    def __init__(self, config: ModelConfig, interpreter: GraphInterpreter, *, num_pages: int,
                 max_batch: int, max_tokens: int,
                 before: Callable[[StepInput], None] | None = None) -> None:  # fmt: skip
        self.config = config
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self._before = before or (lambda step: None)
        self.page_size, self.num_pages = PAGE_SIZE, num_pages
        self.page_bytes = page_bytes(config)
        self.max_batch, self.max_tokens = max_batch, max_tokens
        self.announcer = announcer(self.page_size)
        self._interpreter = interpreter

    @torch.inference_mode()
    def forward(self, step: StepInput) -> Tensor:
        """Return logits [R, V] f32."""
        check_step(step, self.max_batch, self.max_tokens)
        if self.announcer is not None:
            self.announcer.step(step, None)
        self._before(step)
        return self._interpreter.step(by_name(step)).float()

    @torch.inference_mode()
    def copy_page(self, source: int, target: int) -> None:
        """Copy a page in all layers."""
        if self.announcer is not None:
            self.announcer.copy_page(source, target)
        size = self.page_size
        for cache in (self._interpreter.keys, self._interpreter.values):
            for layer in cache.values():
                layer[target * size : (target + 1) * size] = layer[
                    source * size : (source + 1) * size
                ]


def by_name(step: StepInput) -> dict[str, Tensor]:
    """Return a step's tensors under the names of the graph's arguments."""
    return {item.name: getattr(step, item.name) for item in fields(step)}


def page_bytes(config: ModelConfig, element: int = 4, page_size: int = PAGE_SIZE) -> int:
    """Return the bytes of one page over all layers, keys and values."""
    return config.layers * 2 * config.kv_heads * page_size * config.head_dim * element


def check_step(
    step: StepInput, max_batch: int, max_tokens: int, max_logits: int | None = None
) -> None:
    """Raise StepTooLarge unless the step fits an executor's limits; rows of logits are as many as
    sequences at most, where `max_logits` does not say more."""
    most = max_batch if max_logits is None else max_logits
    rows, sequences = step.tokens.shape[0], step.kv_lengths.shape[0]
    wanted = step.logits_rows.shape[0]
    if rows > max_tokens or sequences > max_batch or wanted > most:
        raise StepTooLarge(rows=rows, sequences=sequences, wanted=wanted,
                           max_tokens=max_tokens, max_batch=max_batch, max_logits=most)  # fmt: skip
