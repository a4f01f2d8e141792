"""Duplicate work computed once: a request that equals another gets that one's answer.

Two requests are equal if their streams have the same tokens and the same is asked of the model:
the same options, constraint and stops, and greedy or the same sampling key. While one is computed
(the leader), the others (its twins) wait; the answers of a run are remembered, the latest ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from .request import Request

MOST_NUMBERS = 1 << 22
"""Remembered tokens and log-probabilities, 16 MiB of them."""


@dataclass(frozen=True)
class Answer:
    """What a request has given: the tokens it added, and what is known of them."""

    tokens: np.ndarray
    reason: str
    margin: float
    scores: list[dict[int, float]]
    logprobs: list[float | None]
    sent: bool = True
    """Its prompt was sent: not so where a constraint left one text."""

    @staticmethod
    def of(request: Request) -> Answer:
        """Return a finished request's answer."""
        return Answer(
            request.generated().copy(), request.reason, request.margin, request.scores,
            request.token_logprobs, request.counted,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return len(self.tokens) + 64 + sum(map(len, self.scores))

    def give(self, request: Request) -> None:
        """Let an equal request be answered; its sequence gets the tokens, not their KV."""
        request.sequence.append(self.tokens)
        request.produced = request.flushed = len(self.tokens)
        request.reason, request.margin = self.reason, self.margin
        request.scores, request.token_logprobs = list(self.scores), list(self.logprobs)
        request.duplicate = True


class Duplicates:
    """The requests that are being computed, by what they ask, and the latest answers."""

    def __init__(self) -> None:
        self._leaders: dict[Hashable, Request] = {}
        self._twins: dict[Request, list[Request]] = {}
        self._keys: dict[Request, tuple[Hashable, Hashable]] = {}
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()
        self._size = 0

    def known(self, request: Request) -> Answer | None:
        """Return the answer of an equal request that is done; forgets nothing."""
        if request.same is None:
            return None
        answer = self._answers.get(self.key(request))
        if answer is not None:
            self._answers.move_to_end(self.key(request))
        return answer

    def joins(self, request: Request) -> bool:
        """Say whether an equal request is being computed, whose answer this one then waits for.

        Otherwise it is itself the one that later ones wait for.
        """
        if request.same is None:
            return False
        leader = self._leaders.setdefault(self.key(request), request)
        if leader is request:
            return False
        self._twins.setdefault(leader, []).append(request)
        return True

    def finished(self, request: Request) -> list[Request]:
        """Remember the answer of a leader; return the twins that it is for."""
        key = self._keys.pop(request, None)
        if key is None or self._leaders.get(key) is not request:
            return []
        del self._leaders[key]
        if request.needs_logits:  # what a fill has made resident may be gone later
            self._remember(key, Answer.of(request))
        return self._twins.pop(request, [])

    def left(self, request: Request) -> list[Request]:
        """Forget a request that was given up; return the twins that must be asked anew."""
        key = self._keys.pop(request, None)
        if key is None:
            return []
        leader = self._leaders.get(key)
        if leader is request:
            del self._leaders[key]
        elif leader in self._twins and request in self._twins[leader]:
            self._twins[leader].remove(request)
        return self._twins.pop(request, [])

    def forget(self) -> None:
        """Forget all answers: a new run computes what it asks."""
        self._answers.clear()
        self._size = 0

    def _remember(self, key: Hashable, answer: Answer) -> None:
        self._answers[key] = answer
        self._size += answer.size
        while self._size > MOST_NUMBERS:
            _, oldest = self._answers.popitem(last=False)
            self._size -= oldest.size

    def key(self, request: Request) -> tuple[Hashable, Hashable]:
        """Return what a request asks of which tokens, and how it draws: equal for equal ones."""
        key = self._keys.get(request)
        if key is None:
            sequence, sampling = request.sequence, request.sampling
            tokens = sequence.tokens[: sequence.length].tobytes()
            drawn: Hashable = sampling
            if sampling is not None and not sampling.temperature:
                drawn = sampling.max_tokens, sampling.ends  # all else decides nothing
            digest = blake2b(tokens, digest_size=16).digest()
            what = (digest, sequence.length, request.score_from, request.logprobs,
                    tuple(request.asked), request.same)  # fmt: skip
            key = self._keys[request] = what, drawn
        return key
