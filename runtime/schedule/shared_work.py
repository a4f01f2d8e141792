"""Requests that are asked: computed, or given what is computed for others that ask the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..memory.sequence import Sequence as Stream
from .batch import Batch
from .duplicates import Answer, Duplicates
from .endings import Endings
from .request import Request
from .row_costs import HitCounter
from .scheduler import Scheduler
from .siblings import OwnDraw, Siblings


class SharedWork:
    """Lets equal requests have one answer, and samples of one prompt one row while they agree."""

    def __init__(
        self, scheduler: Scheduler, batch: Batch, hits: HitCounter, endings: Endings, most: int,
        draws: bool,
    ) -> None:  # fmt: skip
        """A draw takes `most` rows. Without `draws` each sample is computed by itself."""
        self.duplicates, self.siblings = Duplicates(), Siblings(most)
        self._scheduler, self._batch = scheduler, batch
        self._hits, self._endings, self._draws = hits, endings, draws

    def ask(self, request: Request) -> None:
        """Answer a request at once, or see that it will be."""
        answer = self.duplicates.known(request)
        if answer is not None:
            self._answer(request, answer)
        else:
            self._compute(request)

    def _compute(self, request: Request) -> None:
        if self.duplicates.joins(request):
            return
        alone = request.same is None or not self._draws
        if alone or not self.siblings.joins(request, self.duplicates.key(request)[0]):
            self.enqueue(request)

    def enqueue(self, request: Request) -> None:
        """Let a request wait for its turn, behind what its constraint forces."""
        if request.watch is not None and request.sampling is not None:
            finish = self._endings.force(request)
            if finish is not None:
                self._endings.finish(request, finish)
                return
        self._scheduler.enqueue(request)

    def left(self, request: Request) -> None:
        """Compute anew what was to be answered by a request that is given up."""
        for other in (*self.duplicates.left(request), *self.siblings.leave(request)):
            self._compute(other)

    def share(self, request: Request) -> None:
        """Give a finished request's answer to those that wait for it."""
        if request.error is not None:
            self.left(request)
            return
        others = [*self.duplicates.finished(request), *self.siblings.leave(request)]
        if others:
            answer = Answer.of(request)
            for other in others:
                other.first_token_time = request.first_token_time
                self._answer(other, answer, request.sequence)

    def _answer(self, request: Request, answer: Answer, of: Stream | None = None) -> None:
        """Give a request the answer of an equal one; its sequence, or the tree, has the KV."""
        if request.sequence.resident < request.first_logits:  # no logits: nothing is rewound
            self._scheduler.reuse(request, of=of)
        if answer.sent:
            self._hits.begins(request)
        answer.give(request)
        self._scheduler.reuse(request, request.sequence.length, of)
        self._scheduler.ended(request)

    def part(self, draws: Sequence[OwnDraw], tokens: np.ndarray) -> None:
        """Let those who drew another token than their leader's row of the batch, for which `tokens`
        [R] has it, go on by themselves."""
        for own, others in self.siblings.parted(draws, tokens):
            leader, request = self._batch.requests[own.row], own.request
            self.siblings.follow(request, others)
            try:
                self._batch.flush(own.row)
                self._give(request, leader)
                finish = self._endings.take(request, own.token, own.logprob, own.margin)
            except BaseException:  # an interrupt, too: it is no sibling any more
                self.enqueue(request)
                raise
            if finish is None:
                self.enqueue(request)
            else:
                self._endings.finish(request, finish)

    def _give(self, request: Request, leader: Request) -> None:
        """Give a request all that its leader has generated until now, with its KV."""
        tokens, of = leader.generated().tolist(), leader.sequence
        self._scheduler.reuse(request, of=of)
        self._hits.begins(request)
        request.take(tokens)
        request.given = len(tokens)
        self._scheduler.reuse(request, request.sequence.length, of)
        request.margin, request.first_token_time = leader.margin, leader.first_token_time
        request.token_logprobs = list(leader.token_logprobs)
        if request.watch is not None:
            for token in tokens:
                request.watch.accept(token)
