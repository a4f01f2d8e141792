"""Samples of one prompt are one row until they draw different tokens.

Requests that ask the same of equal streams, each with a sampling key of its own, have the same
logits as long as they have drawn the same tokens. One of them, the leader, is computed. The others,
its siblings, draw from its logits: they have no row, compute no token and hold no page. One that
draws another token than its leader goes on by itself, with the keys and values that the leader has
until then; those that draw the same one stay together. Each draws what it would have drawn alone,
as a draw depends on its key, its position and the logits only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..execution.sampler import COLDEST, SampleKernel, uniforms
from .allowed_words import Narrow
from .batch import Batch
from .request import Request

SURE = 1e-3
"""How much of the whole mass a draw must lie away from where its token's begins and ends to be sure
of it: the kernels sum up 128 K words in blocks of 32 in f32, which differs by 3e-4 at most."""

MANY = 2
"""Siblings from which on to look at a leader's row once takes less time than to draw for each."""


@dataclass(frozen=True)
class OwnDraw:
    """What a sibling drew from the logits of its leader's row of the batch."""

    request: Request
    row: int
    token: int
    logprob: float
    margin: float


class Siblings:
    """Who draws from whose logits; a draw takes `most` rows at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[Request, dict[Request, None]] = {}
        self._leaders: dict[Request, Request] = {}
        self._open: dict[Hashable, Request] = {}
        """Leaders that have drawn nothing yet, by what they ask: others may still join them."""
        self._keys: dict[Request, Hashable] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def joins(self, request: Request, what: Hashable) -> bool:
        """Say whether a request that asks `what` draws from another's logits. Otherwise it is
        computed, and others may join it until it draws."""
        sampling = request.sampling
        if sampling is None or not sampling.temperature:
            return False
        key = what, replace(sampling, key=0)
        leader = self._open.setdefault(key, request)
        if leader is request:
            self._keys[request] = key
            return False
        self.follow(leader, [request])
        return True

    def follow(self, leader: Request, others: Sequence[Request]) -> None:
        """Let others draw from a leader's logits from now on."""
        if others:
            self._of.setdefault(leader, {}).update(dict.fromkeys(others))
            self._leaders.update(dict.fromkeys(others, leader))

    def draws(self, requests: Iterable[Request]) -> None:
        """Take note that requests draw: nobody joins them any more."""
        for request in requests if self._keys else ():
            key = self._keys.pop(request, None)
            if key is not None:
                del self._open[key]

    def leave(self, request: Request) -> list[Request]:
        """Forget a request, be it a leader or a sibling; return those that it was computed for."""
        self.draws([request])
        leader = self._leaders.pop(request, None)
        if leader is not None:
            del self._of[leader][request]
            if not self._of[leader]:
                del self._of[leader]
        others = list(self._of.pop(request, ()))
        for other in others:
            del self._leaders[other]
        return others

    def draw(
        self, batch: Batch, logits: Tensor, tokens: Tensor, mask: Tensor | None,
        settings: Sequence[Tensor], sample: SampleKernel, narrow: Narrow | None,
    ) -> list[OwnDraw]:  # fmt: skip
        """Draw for the siblings of the batch's first rows, from these rows' logits [R, ...], for
        which `tokens` [R] were drawn; who is sure to draw the same one is left out.

        `settings` are temperature, top_k, top_p, min_p and a uniform [R] of the rows themselves;
        the logits are of the words of `narrow`, if it is given, and tokens their columns.
        """
        leaders = enumerate(batch.requests[: len(logits)])
        pairs = [(row, each) for row, leader in leaders for each in self._of.get(leader, ())]
        if not pairs:
            return []
        rows = np.array([row for row, _ in pairs])
        keys = np.array([_key(each) for _, each in pairs], np.uint64)
        uniform = uniforms(keys, batch.produced[rows])
        if mask is None:
            pairs, rows, uniform = _unsure(batch, logits, tokens, pairs, rows, uniform)
        found: list[OwnDraw] = []
        for at in range(0, len(pairs), self._most):
            some = pairs[at : at + self._most]
            of = torch.from_numpy(rows[at : at + self._most])
            temperature, top_k, top_p, min_p, _ = (each[of] for each in settings)
            allowed = None if mask is None else mask[of]
            own = torch.from_numpy(uniform[at : at + self._most])
            drawn = sample(logits[of], allowed, temperature, top_k, top_p, min_p, own)
            drawn = drawn if narrow is None else narrow.named(drawn)
            values = zip(some, *(each.tolist() for each in drawn), strict=True)
            found += [OwnDraw(each, row, *value) for (row, each), *value in values]
        return found

    def parted(
        self, draws: Sequence[OwnDraw], tokens: np.ndarray
    ) -> Iterator[tuple[OwnDraw, list[Request]]]:
        """Yield those who drew another token than their leader's row, for which `tokens` [R] has
        it, and who drew the same as each; none of them is a sibling of that leader any more."""
        groups: dict[tuple[int, int], list[OwnDraw]] = {}
        for each in draws:
            if each.token != tokens[each.row]:
                groups.setdefault((each.row, each.token), []).append(each)
        for first, *others in groups.values():
            for each in (first, *others):
                self.leave(each.request)
            yield first, [each.request for each in others]


Pairs = list[tuple[int, Request]]
"""Rows of leaders, each with a sibling."""


def _unsure(
    batch: Batch, logits: Tensor, tokens: Tensor, pairs: Pairs, rows: np.ndarray,
    uniform: np.ndarray,
) -> tuple[Pairs, np.ndarray, np.ndarray]:  # fmt: skip
    """Leave those out whose uniform lies well within the mass of what their leader drew, where all
    words may be drawn: masses are in the order of the vocabulary."""
    counts = np.bincount(rows, minlength=len(logits))
    plain = (counts >= MANY) & (batch.temperature[: len(logits)] > 0)
    plain &= (batch.top_k[: len(logits)] == 0) & (batch.min_p[: len(logits)] <= 0)
    plain &= batch.top_p[: len(logits)] >= 1
    (looked,) = plain.nonzero()
    if not len(looked):
        return pairs, rows, uniform
    mass = logits.numpy()[looked]
    mass -= mass.max(1, keepdims=True)
    mass /= np.maximum(batch.temperature[looked], COLDEST)[:, None]
    np.exp(mass, out=mass)
    begin, end = np.full((2, len(logits)), np.inf, np.float32)
    whole, drawn = mass.sum(1), tokens.tolist()
    for at, row in enumerate(looked.tolist()):
        token = drawn[row]
        before = mass[at, :token].sum()
        begin[row] = before / whole[at] + SURE
        end[row] = (before + mass[at, token]) / whole[at] - SURE
    unsure = ~((begin[rows] < uniform) & (uniform < end[rows]))
    left = unsure.nonzero()[0].tolist()
    return [pairs[at] for at in left], rows[unsure], uniform[unsure]


def _key(request: Request) -> int:
    assert request.sampling is not None
    return request.sampling.key
