"""The last waves: where few gens wait for a place in the batch, running rows take turns with them.

Gens that begin when all others have ended run in steps that are mostly empty. A program's rows know
how far they are from its end, so those that are nearer to it let the others go first for a while,
and all end together (preemptive scheduling of the longest first: McNaughton, Management Science 6,
1959; Muntz and Coffman, IEEE Transactions on Computers 18, 1969). A row that stands back keeps its
pages: to go on it reads one token again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

from ..execution.step import ModelExecutor
from ..memory.kv_cache import PagedKV
from .batch import Batch
from .policy import Key, Policy
from .pressure import Pressure
from .request import Request

WAVES, WAVES_AHEAD = 4, 2
"""Gens wait for fewer batches than these: while there are more, steps are full in any order. The
second one where steps run ahead of the host, to whom a turn costs most."""

LONGER_AHEAD = 2
"""How many times as long turns are there, where a row that stands back also draws a token again."""

AT_ONCE = 8
"""One of so many rows stands back in one step, so that no step has all the host's work of it."""


class Turns:
    """Says which rows stand back; `enqueue` lets them wait for their next turn."""

    def __init__(
        self, batch: Batch, kv: PagedKV, policy: Policy, pressure: Pressure,
        executor: ModelExecutor, enqueue: Callable[[Request], None],
    ) -> None:  # fmt: skip
        self._batch, self._kv, self._policy, self._pressure = batch, kv, policy, pressure
        self._most, self._enqueue = executor.max_batch, enqueue
        self._ahead = bool(getattr(executor, "asynchronous", False))
        self._waves = WAVES_AHEAD if self._ahead else WAVES
        self._turn = policy.turn * (LONGER_AHEAD if self._ahead else 1)
        self.taken = 0
        """How often a row has stood back."""

    def take(
        self, clock: int, queue: Sequence[tuple[Key, int, Request]], others: Iterable[Request]
    ) -> None:
        """Let rows stand back in step `clock` for gens of the queue, if memory has room for all.

        `others` have asked and are not in the batch. A batch of one row is full in any order.
        """
        free = self._most - self._batch.size
        if len(queue) <= free or self._most == 1 or (self._ahead and free):
            return
        gens = [entry[2] for entry in queue if entry[2].sampling]
        few = free < len(gens) < self._waves * self._most
        leaving = self._leaving(gens, free) if few else []
        if leaving and self._pressure.has_room(clock, others):
            for request in leaving:
                self._batch.leave(self._batch.requests.index(request))
                # A step that runs ahead has a token of it on its way: that is drawn again.
                self._kv.rewind(request.sequence, request.first_logits)
                self._enqueue(request)
            self.taken += len(leaving)

    def _leaving(self, waiting: Sequence[Request], free: int) -> list[Request]:
        """Return the rows that are nearer to their ends than as many that wait, behind those that
        `free` places are for."""
        most = -(-self._most // AT_ONCE)
        last = heapq.nlargest(most, range(self._batch.size), self._urgency)
        if not last or not self._had_turn(last[0]):
            return []
        first = heapq.nsmallest(
            free + most, waiting, lambda each: self._policy.urgency(each, each.produced)
        )
        found: list[Request] = []
        for row, other in zip(last, first[free:], strict=False):
            if not self._gives_way(row, other):
                break
            found.append(self._batch.requests[row])
        return found

    def _urgency(self, row: int) -> float:
        return self._policy.urgency(self._batch.requests[row], int(self._batch.produced[row]))

    def _gives_way(self, row: int, other: Request) -> bool:
        """Say whether a row lets a request have its place.

        Only programs know their paths. The gen that waits must be the larger part of its own: how
        many pages the prompts after it will take is not known.
        """
        budget = other.sampling.max_tokens if other.sampling else 0
        if not self._had_turn(row) or not 0 < other.critical <= 2 * budget:
            return False
        return self._urgency(row) - self._policy.urgency(other, other.produced) >= self._turn

    def _had_turn(self, row: int) -> bool:
        """Say whether a row of a program has had its turn."""
        running = self._batch.requests[row]
        produced = self._batch.produced.item(row) - running.flushed
        return running.critical != 0 and produced >= self._turn
