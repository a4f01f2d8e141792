"""Recorded steps all of whose rows are held to constraints: logits of the words only that these
allow in any of their states.

The head's weight is a fifteenth of what an 8 B model reads in a step of one row. A row's mask
depends on a token that the host has not seen, but the words of all masks of its constraint do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.rooms import Room
from ..execution.library import Launch
from ..execution.recipe import Recipe
from ..schedule.held_rows import Several
from .recordings import COST, Recorded

FEW = {64: 0.5, 128: 0.25}
"""Rows that kernels of a head have a program for, and the part of all words that so many may be
allowed: rows of a weight that lie apart are read less fast. All of 128 K words took an H200 277 us
for a row, 305 for 64 and 310 for 128, half of them 169, 244 and 416, a quarter 101, 148 and 259,
3,811 that lie together 41, 44 and 60."""

RATE = 4e12
"""Bytes of weights that a device is taken to read a second: an H200's."""

KEPT = 64
"""Lists of words that are remembered, of four bytes a word."""


class ListedHead:
    """The words that logits are computed of, on the device, and the recordings that read them.

    A recording of all words gets a twin when its steps have lost, by words that nothing allows, as
    much as it takes to record one.
    """

    def __init__(self, kernels: Mapping[str, Any], vocab: int, width: int, device: torch.device):
        names = {rows: f"head_words_{vocab}x{width}_{rows}" for rows in FEW}
        self._kernels = {
            rows: kernels[name].launch for rows, name in names.items() if name in kernels
        }
        self._vocab, self._device = vocab, device
        self._words = torch.zeros(vocab if self._kernels else 0, dtype=torch.int32, device=device)
        self._count = torch.zeros(1, dtype=torch.int32, device=device)
        self._bytes = 2 * vocab * width
        self._known: dict[Several, Tensor] = {}
        self._listed: Several = frozenset()
        self._lost: dict[Room, float] = {}
        self._twins: dict[Room, Recorded] = {}
        self.cost = COST

    def __len__(self) -> int:
        return len(self._twins)

    def twin(
        self, recorded: Recorded, constraints: Several, record: Callable[[Room, bool], Recorded]
    ) -> Recorded:
        """Return what replays a step of `recorded` whose rows are held to some constraints, their
        words in place; itself where they allow too many, or it is not worth while yet."""
        room = recorded.room
        if not constraints or not self._kernels or room.sparse or room.rows > max(FEW):
            return recorded
        words = self._words_of(constraints)
        part = len(words) / self._vocab
        if part > next(most for rows, most in FEW.items() if room.rows <= rows):
            return recorded
        found = self._twins.get(room)
        if found is None:
            lost = self._lost.get(room, 0.0)
            lost += (1 - part) * self._bytes / RATE
            self._lost[room] = lost
            if lost < self.cost:
                return recorded
            found = self._twins[room] = record(room, True)
        if self._listed != constraints:
            self._words[: len(words)] = words
            self._count.fill_(len(words))
            self._listed = constraints
        return found

    def launch(self, recipe: Recipe, extents: Mapping[str, int], logits: Tensor) -> Launch | None:
        """Return the launch of a recipe's last product for the listed words; None: it has none in
        bf16."""
        head = recipe.head(extents)
        if head is None or {tensor.dtype for tensor in head} != {torch.bfloat16}:
            return None
        rows = logits.shape[0]
        kernel = next(self._kernels[most] for most in FEW if rows <= most)
        return kernel, (rows, *head, self._count, self._words, logits)

    def _words_of(self, constraints: Several) -> Tensor:
        """Return the words [W] i32 that some constraints allow."""
        if constraints not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            union = np.bitwise_or.reduce([one.allowed for one in constraints])
            bits = np.unpackbits(union.view(np.uint8), bitorder="little")[: self._vocab]
            words = torch.from_numpy(np.flatnonzero(bits).astype(np.int32))
            self._known[constraints] = words.to(self._device)
        return self._known[constraints]
