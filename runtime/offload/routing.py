"""Routers' choices on their way to the experts: they are recorded, or a trace replaces them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...ir.model import ModelConfig
from ...ir.offload.routing import RoutingTrace
from ..execution.step import StepInput

PHASES = 4
"""Places of a trace where replayed steps begin in turn; what they give is kept on the device."""


class Routing(Protocol):
    """Is shown what each router gives; called by one queue's thread, in order of layers."""

    def begin(self, step: StepInput) -> None:
        """A step begins; the one before has ended."""
        ...

    def routed(self, layer: int, first: int, given: Mapping[str, Tensor]) -> None:
        """Look at, or change in place, what a layer's router gave for rows from `first` on.

        `order` [M] are pairs (token, choice) by page, `starts` [P + 1] where those of a page begin;
        a choice is S of them, one for each slice of its expert.
        """
        ...


class RoutingRecorder:
    """Keeps the experts that each row of each step took. On a GPU every layer waits for it.

    Rows that decode are single ones behind others whose logits are wanted: so is a prompt's last
    token where a step has that one alone, and it is kept as one.
    """

    def __init__(self, config: ModelConfig, model: str = "") -> None:
        self._config, self._model = config, model
        self._chosen: list[np.ndarray] = []
        self._decode: list[np.ndarray] = []

    def begin(self, step: StepInput) -> None:
        """Make room for the rows of a step."""
        config, rows = self._config, step.tokens.shape[0]
        shape = (rows, config.layers, config.experts_per_token)
        self._chosen.append(np.zeros(shape, np.uint16))
        lengths = step.query_starts.diff()
        wanted = torch.zeros(rows, dtype=torch.bool)
        wanted[step.logits_rows.long()] = True  # a chunk inside a prompt wants none
        alone = (lengths == 1).repeat_interleave(lengths)
        self._decode.append((alone & wanted & (step.positions > 0)).numpy())

    def routed(self, layer: int, first: int, given: Mapping[str, Tensor]) -> None:
        """Note the experts of some rows: those of a pair are told by where it stands."""
        order, starts = given["order"].cpu().long(), given["starts"].cpu().long()
        chosen = torch.empty(len(order), dtype=torch.int64)
        chosen[order] = torch.arange(len(starts) - 1).repeat_interleave(starts.diff())
        slices = (len(starts) - 1) // self._config.experts
        rows = (chosen[::slices] // slices).view(-1, self._config.experts_per_token).numpy()
        self._chosen[-1][first : first + len(rows), layer] = rows

    def trace(self) -> RoutingTrace | None:
        """Return what was recorded; None before the first step."""
        if not self._chosen:
            return None
        chosen, decode = np.concatenate(self._chosen), np.concatenate(self._decode)
        return RoutingTrace(chosen, decode, self._config.experts, self._model)


class RoutingReplay:
    """Lets rows take the experts of a trace's tokens, one after another, from the start again
    where it ends; routers still give the weights. What steps cost is then that of the trace."""

    def __init__(self, trace: RoutingTrace, place: str) -> None:
        self._trace, self._place = trace, place
        rows = trace.chosen[trace.decode] if trace.decode.any() else trace.chosen
        self._chosen = torch.from_numpy(rows.astype(np.int64))  # [T, L, A]
        self._steps = -1
        self._made: dict[tuple[int, int, int, int], tuple[Tensor, Tensor]] = {}

    def begin(self, step: StepInput) -> None:
        """The next place of the trace."""
        self._steps += 1

    def routed(self, layer: int, first: int, given: Mapping[str, Tensor]) -> None:
        """Put the trace's choice where the router's was."""
        slices = (len(given["starts"]) - 1) // self._trace.experts
        order, starts = self._pairs(layer, first, len(given["order"]), slices)
        given["order"].copy_(order, non_blocking=True)
        given["starts"].copy_(starts, non_blocking=True)

    def _pairs(self, layer: int, first: int, pairs: int, slices: int) -> tuple[Tensor, Tensor]:
        phase = self._steps % PHASES
        key = (layer, first, pairs, phase)
        if key not in self._made:
            total, tokens = len(self._chosen), pairs // (self._trace.top_k * slices)
            at = (phase * total // PHASES + first + torch.arange(tokens)) % total
            chosen = self._chosen[at, layer][..., None] * slices + torch.arange(slices)
            flat = chosen.flatten()
            counts = torch.bincount(flat, minlength=self._trace.experts * slices)
            starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
            made = (flat.argsort(stable=True), starts)
            self._made[key] = tuple(t.to(torch.int32).to(self._place) for t in made)  # type: ignore[assignment]
        return self._made[key]
