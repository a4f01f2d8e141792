"""Counts what rows cost: tokens, first-token time, and prefix hits.

A *model call* is a request of the engine that needs logits: a gen, or a stretch of options that is
scored. It sends its whole prompt; a *hit* is a token of a prompt that need not be computed, because
an earlier call's prompt, or the tokens that one generated, begin in the same way. The first
position whose logits a call needs, and all after it, are computed in any case. Requests that only
fill a sequence send nothing, so what they compute counts against the hits: they begin a later
call's work, or waste it.

The *ideal* is the cache that never forgets: `ideal_hits` finds it in a log of calls, from sorted
lists of tokens. Over a batch it equals the tokens sent, less the edges of the radix tree over all
prompts, less the positions computed again for their logits. `PromptLog` predicts the same call by
call while the program runs; the scheduler measures what the cache of pages really gave.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence as Calls
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from ..memory.kv_cache import NOBODY
from ..memory.prefix_tree import common_prefix
from ..memory.radix import Edge
from ..memory.sequence import Sequence
from ..tracing.trace import CallRecord, Trace
from .request import Request

if TYPE_CHECKING:
    from ..programs.frame import Frame

MOST_TOKENS = 1 << 24
"""Tokens of all prompts that are remembered: 64 MiB. Then all are forgotten, and it begins anew."""

EDGE_TOKENS = 128
"""An edge of the tree counts for so many tokens more, by the memory that it takes besides."""


@dataclass
class Hits:
    """Tokens of the prompts that calls sent, and how many of them were hits."""

    sent: int = 0
    predicted: int = 0
    measured: int = 0


class _Owned(Edge):
    """Tokens, and the number of the only sequence that has gone this way, or NOBODY."""

    __slots__ = ("owner",)

    def __init__(self, tokens: np.ndarray) -> None:
        super().__init__(tokens)
        self.owner = NOBODY

    def split(self, at: int) -> _Owned:
        """Let the lower one have the owner, too."""
        lower = super().split(at)
        lower.owner = self.owner
        return lower


class PromptLog:
    """All prompts so far as a radix tree without pages: a cache that never forgets."""

    def __init__(self) -> None:
        self._root = _Owned(np.empty(0, np.int32))
        self._tokens = 0
        self._whole = True

    def add(self, tokens: np.ndarray, of: Sequence | None = None) -> int:
        """Remember tokens; return the longest prefix that they share with earlier ones.

        With the sequence `of` which they are, the way goes on from where it was found last.
        """
        if self._tokens > MOST_TOKENS:
            self.__init__()
            self._whole = False
        number = NOBODY if of is None else of.number
        edge, begin, size = self._root, 0, len(tokens)
        if of is not None and of.logged is not None:
            known, start, log = of.logged
            if log is self._root and start < size:
                edge, begin = known, start
        at = begin
        while True:
            shared = edge.shared(tokens[begin:])
            at = begin + shared
            if shared < len(edge.tokens):
                if at < size:
                    edge.split(shared)
                    self._tokens += EDGE_TOKENS
                if edge.owner != number:
                    edge.owner = NOBODY
                break
            if edge.owner != number:
                edge.owner = NOBODY
            child = edge.children.get(int(tokens[at])) if at < size else None
            if child is None:
                break
            edge, begin = child, at
        if at < size:
            leaf = edge.children[int(tokens[at])] = _Owned(tokens[at:].copy())
            leaf.owner = number
            self._tokens += size - at + EDGE_TOKENS
            edge, begin = leaf, at
        if of is not None:
            of.logged = edge, begin, self._root
        return at

    def alone(self, of: Sequence) -> bool:
        """Say whether no other sequence begins with more tokens of this one than it has KV of, and
        none that it has itself lost or cut off may be found again."""
        if of.logged is None or not self._whole:
            return False
        edge, begin, log = of.logged
        return log is self._root and edge.owner == of.number and begin <= of.resident


class HitCounter:
    """Counts the hits of each instance's calls, as they begin to be computed."""

    def __init__(self, trace: Trace | None = None) -> None:
        self._log = PromptLog()
        self._trace = trace
        self._of: dict[int, Hits] = {}

    def begins(self, request: Request) -> None:
        """Count a request when it is admitted; `sequence.resident` is what it need not compute."""
        sequence, hits = request.sequence, self._of.setdefault(request.order[0], Hits())
        predicted, measured = hits.predicted, hits.measured
        tokens = sequence.tokens[: sequence.length]
        known = self._log.add(tokens, sequence)
        if request.counted:
            self._record("known", tokens, 0, 0)
        elif not request.needs_logits:
            hits.predicted -= sequence.length - known
            hits.measured -= sequence.pending
            self._record("fill", tokens, 0, sequence.length)
        else:
            cap = min(request.prompt, request.first_logits)
            hits.sent += request.prompt
            hits.predicted += min(known, cap)
            hits.measured += min(sequence.resident, cap)
            self._record("call", tokens, request.prompt, request.first_logits)
        request.counted = True
        if self._trace is not None:
            self._trace.hits_predicted += hits.predicted - predicted
            self._trace.hits_measured += hits.measured - measured

    def alone(self, sequence: Sequence) -> bool:
        """Say whether nothing need be looked for that a sequence has no KV of, as nobody else can
        have it: so with most streams that go on, each behind an answer of its own."""
        return self._log.alone(sequence)

    def known(self, tokens: np.ndarray, of: Sequence) -> None:
        """Take note of tokens that a generation has left in a sequence, with their KV."""
        self._log.add(tokens, of)
        self._record("known", tokens, 0, 0)

    def _record(self, kind: str, tokens: np.ndarray, prompt: int, first_logits: int) -> None:
        if self._trace is not None:
            self._trace.calls.append(CallRecord(kind, tokens.copy(), prompt, first_logits))

    def take(self, instance: int) -> Hits:
        """Return, and forget, an instance's hits."""
        return self._of.pop(instance, Hits())


class _Sorted:
    """Token lists in order: what begins most like another stands beside it."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []

    def shared(self, tokens: np.ndarray) -> int:
        """Return the longest prefix that `tokens` share with one of the lists."""
        at = bisect_left(self._keys, tokens.astype(">i4").tobytes())
        near = [np.frombuffer(key, ">i4") for key in self._keys[max(0, at - 1) : at + 1]]
        return max((common_prefix(other, tokens) for other in near), default=0)

    def add(self, tokens: np.ndarray) -> None:
        """Put a list in."""
        insort(self._keys, tokens.astype(">i4").tobytes())


def ideal_hits(calls: Calls[CallRecord]) -> Hits:
    """Return what calls sent, and the hits that a cache without end would have given.

    It reads only the log: each prompt is compared with its neighbours in the sorted list of all
    tokens known before it. A fill is a call's work begun early, so it counts as far as a later
    call sends its tokens; what it computes beyond that is waste, which the ideal does not have.
    """
    known, total = _Sorted(), Hits()
    for call, wanted in zip(calls, _wanted(calls), strict=True):
        tokens = call.tokens[:wanted]
        shared = known.shared(tokens)
        known.add(tokens)
        if call.kind == "call":
            total.sent += call.prompt
            total.predicted += min(shared, call.prompt, call.first_logits)
        elif call.kind == "fill":
            total.predicted -= wanted - shared
    total.measured = total.predicted
    return total


def _wanted(calls: Calls[CallRecord]) -> list[int]:
    """Return of each entry how many of its tokens count: of a fill, those that are sent later."""
    later, wanted = _Sorted(), []
    for call in reversed(calls):
        fills = call.kind == "fill"
        wanted.append(later.shared(call.tokens) if fills else len(call.tokens))
        if call.kind == "call":
            later.add(call.tokens[: call.prompt])
    return wanted[::-1]


class Meter:
    """One row's counters, and the sequences that it has."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.first_token: float | None = None
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.deduplicated_tokens = 0
        self.margin = float("inf")
        self.sequences: dict[Sequence, Frame] = {}
        self._seen: dict[Sequence, int] = {}

    def begin(self, sequence: Sequence) -> None:
        """Take note of a model call: which tokens of the prompt are new to its stream."""
        before = self._seen.get(sequence, sequence.fresh_from)
        self.prompt_tokens += sequence.length - before
        self._seen[sequence] = sequence.length

    def generated(self, request: Request) -> None:
        """Take note of a finished generation."""
        self.generated_tokens += request.flushed
        given = request.flushed if request.duplicate else min(request.given, request.flushed)
        self.deduplicated_tokens += given
        self._seen[request.sequence] = request.sequence.length
        self.margin = min(self.margin, request.margin)
        if request.first_token_time and self.first_token is None:
            self.first_token = request.first_token_time

    def forget(self, sequence: Sequence) -> None:
        """A sequence was freed."""
        self._seen.pop(sequence, None)
