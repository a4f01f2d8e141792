"""Sparse decode attention at run time: who reads how much, labels' memory, steps that mix.

A policy's budget of a context is looked up in a table that is made once. Rows of one token are
decode and may be sparse; prompts are read whole, and a step says so of one token of a prompt. What
kernels need beside keys and values (labels, sums of v for a tail, and the calibration's tables)
lies in memory of its own, a tensor a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from ...ir.model import ModelConfig
from ...ir.sparse.calibration import AttentionCalibration, HeadChannels
from ...ir.sparse.policy import MOST_SCORED, SparsePolicy
from ..devices.memory import Memory
from ..devices.zeros import zeros
from .step import StepInput, whole_rows

LABEL_DTYPES = {"bf16": torch.bfloat16, "i8": torch.int8, "i4": torch.uint8}
"""Elements of a pool of labels; an i4 pool holds two channels in each."""

MISSED = 0.2
"""The share of what predictions name that a cache does not have: on tiny-dense 0.28 of all that is
predicted (2.4 K tokens, a ratio of 1/16, a cache of two selections), 0.19 of the better half, 0.12
of the best quarter."""

BOOKED = 0.07
"""Tokens that cross the link in the time that the cache's books take for a token that is selected:
on an H200, for 16384 tokens of 8 key heads of 128 in bf16, 86 us, in which 1160 cross."""

PAGED = ("labels", "value_sums")
"""What lies in pages, as keys and values do."""

Layers = Mapping[str, list[Tensor | None]]


class SparseDecode:
    """Which rows of a step read less than everything, and the memory of labels.

    `layers` is what `label_memory` returns; below `least` tokens of context all is read, as sparse
    attention does not pay there. `default` says whether rows that do not say it are sparse. Where
    keys lie across a link, `window` tokens of them cross it while a layer is computed. `shared`:
    labels that rows share are scored once for several of them.
    """

    def __init__(
        self, policy: SparsePolicy, least: int, layers: Layers, rows: int, context: int,
        default: bool = True, window: float = np.inf, shared: bool = False,
    ) -> None:  # fmt: skip
        every = range(context + 1)
        self.layers, self.unit, self._default = layers, policy.unit, default
        self.window, self.shared = window, shared
        self.tail, self.adaptive, self._policy = policy.tail != "none", policy.adaptive, policy
        self.some_whole = bool(policy.dense)
        most = MOST_SCORED if self._in_words() else context
        whole = (n < least or n > most or policy.reads_whole(n) for n in every)
        self._of = np.array([n + 1 if all else policy.budget(n)
                             for n, all in zip(every, whole, strict=True)], np.int32)  # fmt: skip
        self._budgets, self._guessed = (torch.zeros(rows, dtype=torch.int32) for _ in "bg")

    def query_bytes(self, head_dim: int) -> int:
        """Return how many bytes of a query are compared with labels in words; 0: they are not."""
        return self._policy.label_channels(head_dim) if self._in_words() else 0

    def attends_at_once(self, head_dim: int, group: int) -> bool:
        """Return whether the launch that chooses the keys of few rows may attend to them, too."""
        return self._in_words() and self._policy.attends_at_once(head_dim, group)

    def _in_words(self) -> bool:
        pools = [pool for pool in self.layers["labels"] if pool is not None]
        return any(pool.dtype == torch.int32 for pool in pools)

    @property
    def page_bytes(self) -> int:
        """Bytes of what lies in pages beside keys and values, all layers."""
        pools = [pool for name in PAGED for pool in self.layers.get(name, ()) if pool is not None]
        return sum(pool[0].nbytes for pool in pools)

    def wanted(self, step: StepInput) -> bool:
        """Whether some row of a step is sparse; then the step's budgets are in place."""
        rows = len(step.kv_lengths) if step.is_decode else decode_rows(step)
        lengths = step.kv_lengths.numpy()[:rows]
        budgets = self._of[lengths]
        budgets = np.where(whole_rows(step, rows, self._default), lengths + 1, budgets)
        self._budgets.numpy()[:rows] = budgets
        self._guessed.numpy()[:rows] = self.guess_budgets(budgets, budgets <= lengths)
        return bool((budgets <= lengths).any())

    def budgets(self, step: StepInput) -> dict[str, Tensor]:
        """Return where the budgets [B] of a decode step stand, in memory that stays; those of
        predicted queries too."""
        rows = len(step.kv_lengths)
        return {"plan_budget": self._budgets[:rows], "plan_guess_budget": self._guessed[:rows]}

    def guess_budgets(self, budgets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return how many tokens of those that it is predicted to read are fetched ahead, a row:
        the best, and as many as arrive in time."""
        share = ahead_share(self.window, int(budgets[chosen].sum()))
        least = np.minimum(budgets, self._policy.sinks + self._policy.recent + 1)
        return np.maximum(least, np.ceil(budgets * share)).astype(np.int32)

    def known(self, rows: int) -> np.ndarray:
        """Return the budgets of the first rows of the step that `wanted` was asked of."""
        return self._budgets.numpy()[:rows].copy()

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's labels and sums of v in all layers."""
        for name in PAGED:
            for pool in self.layers.get(name, ()):
                if pool is not None:
                    pool[target].copy_(pool[source])


def ahead_share(window: float, selected: int) -> float:
    """Return the share of the tokens that rows are predicted to read which is fetched ahead: what
    is not there yet crosses while a layer is computed, `window` tokens, and its books are kept in
    that time too. What is late waits for what came ahead, and most of that is read by nobody; so
    more would cost more than it saves (256 K tokens of an 8 B shape: a step of 5.2 ms with 0.42 of
    them, 3.6 with 0.05 or none)."""
    rest = max(window - BOOKED * selected, 0.0)
    return min(1.0, rest / (MISSED * selected)) if selected else 1.0


def label_memory(
    config: ModelConfig, policy: SparsePolicy, calibration: AttentionCalibration, num_pages: int,
    page_size: int, device: str = "cpu", words: bool = False, memory: Memory | None = None,
) -> Layers:  # fmt: skip
    """Return what sparse kernels take beside keys and values, a list over layers each: labels
    [N, K, rows, P], mean and level [K, r] f32, order [K, C] i32 (where a channel goes), and for a
    tail centre and spread [K, C], value_sums [N, K, C] f32 (`passes.tile.selection.tail`).

    Layers that stay dense have None. With `words`, labels are [N, K, W, P] i32 where the policy
    allows it (`passes.tile.selection.word_labels`). With a capped `memory` pools are asked for
    there.
    """
    found: dict[str, list[Tensor | None]] = {}
    for layer in range(config.layers):
        heads = [calibration.head(layer, head) for head in range(config.kv_heads)]
        dense = layer in policy.dense or config.windows[layer]
        for name, table in _tables(heads, policy, config.head_dim).items():
            found.setdefault(name, []).append(None if dense else table.to(device))
        for name, (shape, dtype) in _paged(config, policy, page_size, words).items():
            size = (num_pages, config.kv_heads, *shape)
            if dense:
                pool = None
            elif memory is not None:
                pool = memory.allocate(name, size, dtype)
            else:
                pool = zeros(size, dtype, device)
            found.setdefault(name, []).append(pool)
    return found


def _paged(
    config: ModelConfig, policy: SparsePolicy, page_size: int, words: bool = False
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return what a page of one key head has beside keys and values: shapes and dtypes by name."""
    r = policy.label_channels(config.head_dim)
    rows = r // 2 if policy.labels == "i4" else r
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    found["labels"] = ((rows, page_size), LABEL_DTYPES[policy.labels])
    if words and policy.in_words(config.head_dim):
        found["labels"] = ((rows // 4, page_size), torch.int32)
    if policy.tail != "none":
        found["value_sums"] = ((config.head_dim,), torch.float32)
    return found


def _tables(heads: list[HeadChannels], policy: SparsePolicy, width: int) -> dict[str, Tensor]:
    """Return the calibration's tables of a layer's key heads, on the CPU."""
    r = policy.label_channels(width)
    levels = [[1.0] * r if policy.labels == "bf16" else head.label_scales(r, policy.labels)
              for head in heads]  # fmt: skip
    order = torch.tensor([head.order for head in heads])
    found = {
        "mean": torch.tensor([head.label_means(r) for head in heads], dtype=torch.float32),
        "level": torch.tensor(levels, dtype=torch.float32),
        "order": order.argsort(-1).to(torch.int32),
    }
    if policy.tail != "none":
        means = [head.label_means(width) for head in heads]
        found["centre"] = torch.tensor(means, dtype=torch.float32)
        left_out = [[head.deviation[c] * (place >= r) for place, c in enumerate(head.order)]
                    for head in heads]  # fmt: skip
        found["spread"] = torch.tensor(left_out, dtype=torch.float32)
    return found


def page_bytes_beside(config: ModelConfig, policy: SparsePolicy, page_size: int) -> int:
    """Return the bytes of labels, and of sums of v, that a page of keys has over all layers."""
    sparse = sum(
        not config.windows[layer] and layer not in policy.dense for layer in range(config.layers)
    )
    paged = _paged(config, policy, page_size).values()
    return sparse * config.kv_heads * sum(prod(shape) * dtype.itemsize for shape, dtype in paged)


def decode_rows(step: StepInput) -> int:
    """Return how many of a step's sequences, which stand first, have one token."""
    many = np.flatnonzero(np.diff(step.query_starts.numpy()) != 1)
    return int(many[0]) if len(many) else len(step.kv_lengths)


def split(step: StepInput, rows: int, most: int) -> Iterator[tuple[StepInput, np.ndarray]]:
    """Yield the first `rows` sequences, of one token each, as decode steps of at most `most`, then
    what is left as one step; each with which of the whole step's rows of logits it gives."""
    for start in range(0, rows, most):
        yield _part(step, start, min(start + most, rows))
    if rows < len(step.kv_lengths):
        yield _part(step, rows, len(step.kv_lengths))


def grouped(
    step: StepInput, groups: Iterable[tuple[int, int]]
) -> Iterator[tuple[StepInput, np.ndarray]]:
    """Yield runs [first, last) of a decode step's sequences as steps, as `split` does."""
    return (_part(step, first, last) for first, last in groups)


def _part(step: StepInput, first: int, last: int) -> tuple[StepInput, np.ndarray]:
    """Return some sequences of a step; a part always has a row of logits, be it unwanted."""
    starts = step.query_starts.numpy()[first : last + 1]
    tokens, sequences = slice(int(starts[0]), int(starts[-1])), slice(first, last)
    asked = step.logits_rows.numpy()
    wanted = np.flatnonzero((asked >= tokens.start) & (asked < tokens.stop))
    local = asked[wanted] - np.int32(tokens.start) if len(wanted) else np.zeros(1, np.int32)
    part = replace(
        step, tokens=step.tokens[tokens], positions=step.positions[tokens],
        slots=step.slots[tokens], query_starts=torch.from_numpy(starts - starts[0]),
        kv_lengths=step.kv_lengths[sequences], page_table=step.page_table[sequences],
        logits_rows=torch.from_numpy(local),
        reads=None if step.reads is None else step.reads[sequences],
    )  # fmt: skip
    return part, wanted
