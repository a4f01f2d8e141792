"""What a program instance asks of the engine: fill a sequence, score positions, or generate."""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...ir.diagnostics import WeftError
from ...ir.source import Span
from ..memory.sequence import Order, Sequence

if TYPE_CHECKING:
    from ..constraints.watch import Watch


@dataclass(frozen=True)
class Sampling:
    """How a gen draws its tokens; temperature 0 takes the most likely one."""

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    ends: tuple[int, ...] = ()
    key: int = 0
    """Names the gen of the instance: `sampler.site_key`."""


@dataclass(eq=False)
class Request:
    """One piece of model work on one sequence.

    With `sampling` it generates; with `score_from` it gives log-probabilities for what follows
    each position from there on; with neither it only makes the sequence's tokens resident.
    """

    sequence: Sequence
    name: str = ""
    sampling: Sampling | None = None
    watch: Watch | None = None
    score_from: int | None = None
    asked: Several[tuple[int, ...]] = ()
    """The words whose log-probability is asked after each position from there on."""
    logprobs: bool = False
    row: int = 0
    """The row of data that it works for, for messages."""

    span: Span | None = None
    """The statement that asks for it."""

    same: Hashable = None
    """What else decides its answer (constraint, stops); None: it is computed in any case."""

    attention: str = ""
    """The policy of `with attention` around it; empty: the executor's."""

    behind: Request | None = None
    """What computes all tokens of the stream that its sequence was forked from, asked for at the
    same time."""

    critical: int = 0
    """Predicted time from here to the program's end, in generated tokens."""

    # Set by the engine.
    arrived: int = -1
    """The step in which it began to wait for the first time; -1 before."""
    duplicate: bool = False
    """An equal request's answer was given to it."""
    given: int = 0
    """Its first tokens, for which it drew from another's logits."""
    prompt: int = 0
    """Tokens of the sequence when it was submitted: what the call sends."""
    counted: bool = False
    """Its prefix hits are counted."""
    produced: int = 0
    flushed: int = 0
    reason: str = ""
    scores: list[dict[int, float]] = field(default_factory=list)
    """The log-probabilities of the words asked for, after each scored position."""
    token_logprobs: list[float | None] = field(default_factory=list)
    margin: float = float("inf")
    first_token_time: float = 0.0
    followers: list[tuple[int, Request]] = field(default_factory=list)
    error: WeftError | None = None

    @property
    def order(self) -> Order:
        """Its sequence's age."""
        return self.sequence.order

    @property
    def needs_logits(self) -> bool:
        """Whether it is a model call; otherwise it only fills its sequence."""
        return self.sampling is not None or self.score_from is not None

    @property
    def goes_on(self) -> bool:
        """Whether it comes back from the batch with its KV: only forced tokens are to be read."""
        return self.counted and 0 < self.prompt <= self.sequence.resident and self.produced > 0

    @property
    def first_logits(self) -> int:
        """The first position whose logits are wanted; the length where none are."""
        if self.score_from is not None:
            return self.score_from
        return self.sequence.length - 1 if self.sampling else self.sequence.length

    def problem(self) -> WeftError | None:
        """Return what has kept its constraint from being followed, with its place."""
        found = self.watch.problem if self.watch is not None else None
        if found is None:
            return None
        problem = f"row {self.row}, {self.name}: {found.fields['problem']}"
        return type(found)(what=found.fields["what"], problem=problem, span=self.span)

    def take(self, tokens: Several[int]) -> None:
        """Append tokens that no row of the batch holds."""
        self.sequence.append(tokens)
        self.produced += len(tokens)
        self.flushed += len(tokens)

    def generated(self) -> np.ndarray:
        """Return the tokens that it has added to the sequence."""
        length = self.sequence.length
        return self.sequence.tokens[length - self.flushed : length]
