"""A step whose draw is still on its way from the device, while the next one is prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from ..devices.device import device_error
from ..tracing.trace import StepRecord
from .batch import Batch, Chunk
from .garbage import collect_meanwhile
from .held_rows import Held
from .request import Request
from .scoring import Scores
from .siblings import OwnDraw

FOLLOWS = 256
"""Tokens of prompts that make up a step behind one that only fills and scores, though fewer than
the device should begin with: it would do nothing until what that one scores is there, and the host
has gone on with that. One of so many tokens takes as long as the host needs for it. On an H200,
with as many as it begins with in their place, hellaswag took 0.365 and not 0.297 s, few_shot 0.197
and not 0.178 (`bench.programs --target cuda`, one run each)."""

Drawn = tuple[Tensor, Tensor, Tensor]
"""token [S] i32, logprob [S], margin [S], on the host."""


class Queue(Protocol):
    """What waits for a step."""

    @property
    def backlog(self) -> int:
        """Tokens that the next step may compute."""
        ...


class Draw(Protocol):
    """A draw that has begun."""

    def ready(self) -> bool:
        """Say, without waiting, whether it is there."""
        ...

    def wait(self) -> Drawn:
        """Return what was drawn, when it is there."""
        ...


@dataclass(frozen=True)
class Landed:
    """A draw that is there already, and what others drew from the same logits."""

    drawn: Drawn
    others: Sequence[OwnDraw] = ()

    def ready(self) -> bool:
        """Say that it is there."""
        return True

    def wait(self) -> Drawn:
        """Return it."""
        return self.drawn


@dataclass
class Flight:
    """A launched step: the births of its drawn rows, in order, and the chunks that it ends.

    `leaves` is the batch's count at the launch: while it is the same, rows are where they were.
    A row that leaves and joins again is another row, by its birth.
    """

    births: np.ndarray
    chunks: tuple[Chunk, ...]
    draw: Draw
    leaves: int
    scores: Scores | None = None
    """What its chunks are scored by."""
    record: StepRecord | None = None
    """Where the trace wants to know when the draw is there."""
    tokens: int = 0
    """Tokens of the step, if it computes prompts besides what decodes."""
    began: float = 0.0
    """When the device began with it, at the earliest."""
    last: dict[Request, int] = field(default_factory=dict)
    """Requests that have left the batch before their last token was known, and its number."""

    @property
    def tells(self) -> bool:
        """Whether it gives anything: what a step gives that only fills is there at once."""
        return len(self.births) > 0 or self.scores is not None

    def ready(self) -> bool:
        """Say, without waiting, whether all that it gives is there; raises DeviceLost."""
        try:
            return self.draw.ready() and (self.scores is None or self.scores.ready())
        except RuntimeError as error:
            raise device_error(error) or error from None

    def wait(self, ahead: bool) -> tuple[Drawn, bool]:
        """Return what was drawn, and whether the host waited for it; a device that is `ahead` of
        its host may make it wait."""
        waited = ahead and not self.ready()
        if waited:
            collect_meanwhile()
        return self.draw.wait(), waited

    def unanswered(self) -> list[Request]:
        """Return the requests that nobody but it has any more."""
        return [*self.last, *(self.scores.answered() if self.scores is not None else ())]

    def forget(self, request: Request) -> None:
        """Let a request be none of those that it answers."""
        self.last.pop(request, None)
        if self.scores is not None:
            self.scores.forget(request)

    def rows(self, batch: Batch) -> np.ndarray | None:
        """Return each drawn row's row in the batch now, -1 where it has left; None: the same."""
        if self.leaves == batch.leaves:
            return None
        return _places(self.births, batch.birth[: batch.size])

    def source(self, batch: Batch, running: int, tokens: int) -> np.ndarray:
        """Return, for a packed step's tokens, the drawn row that gives each; -1: known already."""
        source = np.full(tokens, -1, np.int32)
        same = self.leaves == batch.leaves
        source[:running] = (
            np.arange(running) if same else _places(batch.birth[:running], self.births)
        )
        return source

    def may_be_followed(
        self, batch: Batch, scarce: bool = False, held: Held | None = None,
        queue: Queue | None = None,
    ) -> bool:  # fmt: skip
        """Whether the next step may begin before this one's draw is known.

        Not where the host must see its tokens to know what a constraint allows next, because the
        device does not know it (`held`), or is likely to compute too much in vain; nor, while
        pages are `scarce`, where half the rows or more are about to give theirs back. A row that
        draws its end or a stop leaves a step late: to compute it in vain costs less than a device
        that waits. Rows at their limit are not computed again: see `let_go`. Where no row runs,
        scores need not be there before others are computed, if FOLLOWS tokens wait in the `queue`.
        """
        if not batch.size:
            if self.scores is None or scarce or queue is None:
                return False
            return queue.backlog >= FOLLOWS
        if batch.constrained and not (held is not None and held.follows(batch)):
            return False
        return not scarce or 2 * len(batch.at_limit()) < batch.size

    def let_go(self, batch: Batch) -> None:
        """Take the rows out of the batch for which this draw, whatever it is, is the last."""
        rows = batch.at_limit()
        if len(rows):
            same = self.leaves == batch.leaves
            drawn = rows if same else _places(batch.birth[rows], self.births)
            for row, number in zip(rows[::-1].tolist(), drawn[::-1].tolist(), strict=True):
                self.last[batch.requests[row]] = number
                batch.leave(row)  # which moves the last row


def _places(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return where each wanted number stands among others, -1 where it does not."""
    order = np.argsort(among, kind="stable")
    at = np.searchsorted(among, wanted, sorter=order)
    place = np.append(order, -1)[at]
    return np.where(np.append(among, -1)[place] == wanted, place, -1)


def live(drawn: Drawn, rows: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """Return the rows that have not left, and what was drawn for them."""
    there = rows >= 0
    return rows[there], [tensor.numpy()[there] for tensor in drawn]
