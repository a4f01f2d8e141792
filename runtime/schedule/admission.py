"""Admission: rows start while what they may need of the KV memory fits it.

Every open row has a claim: the most pages that it holds, whatever the schedule and however long
its gens get. Rows that are held to their claims start only while those of all open ones fit, so
that none ever has to give pages back. What a gen on the row's own stream leaves of its token budget
is claimed no longer. Where not all rows would fit so, of those that keep steps full, or so few
parts of each that steps are not full, they are not held to their claims: what gens may make at most
is far from what they make. Such rows start while the open ones use less than a share of the memory,
and may have to compute KV again. `weft explain` says up to how many rows a proof holds.

Rows that all begin at once, as there is room, grow at once, and then compute KV again that has made
room for others'. Where that is dear, of more rows than a step takes, which only keep it full, as
many start as will about fit by what rows have taken until now; before one has ended, by a guess
(`best_draft`: 72 steps in place of 87). That is so on a CPU, where a step takes as long as
its tokens do: 24 rows of four turns (`react_replay`) computed 8,985 tokens in 149 steps and
1.39 s, and so 7,347 in 210 and 1.28 (AMD, one thread). Where a narrow step takes as long as a full
one it is not. On a CPU the last rows, for which a step has places, start however much of the memory
is in use: what they compute again costs less than steps that they have for themselves
(`multi_turn_long`: 293 steps and 9,468 tokens in place of 355 and 9,384, 94 % of the time).

Claims are worked out in `forecast.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from ...ir.budget import Limits
from ..memory.kv_cache import PagedKV

OPEN_BELOW = 0.7
"""Rows without a proof start while open ones use less than this share of the KV memory."""

TOGETHER = 1.2
"""How much more than all pages the open ones of them may take: rows end one after another. With no
more than all, `rag` ran in 120 steps in place of 97. With 1.4 times as much, `multi_turn_long` goes
in 258 steps in place of 293, computes 10,310 tokens in place of 9,468, and takes 1.02 times as
long (CPU)."""

RECENT = 0.25
"""Weight of the row that ended last in what a row is said to take."""


@dataclass(frozen=True)
class Claim:
    """The most pages that a row may hold, with so many of its parts side by side.

    Of a proven one, `tokens` is the most that its own stream may get; they are in `pages`.
    Of one without a proof, `guess` is how many pages such a row takes, while no row has shown it.
    """

    pages: int
    ahead: int
    proven: bool = True
    tokens: int = 0
    guess: float = inf

    def less(self, spared: int, limits: Limits) -> Claim:
        """Return what is left of it when gens on its own stream have ended so many tokens early.

        What the stream's parts may hold stays as it was.
        """
        if not self.proven or not self.tokens:
            return self
        tokens = max(0, self.tokens - spared)
        most, left = (limits.pages(min(size, limits.context)) for size in (self.tokens, tokens))
        return replace(self, pages=max(1, self.pages - most + left), tokens=tokens)


class Admission:
    """The claims of the rows that are open, by ticket, of all sessions of an engine.

    Where KV is dear to compute again, `rows` says how many a step takes.
    """

    def __init__(self, kv: PagedKV, limits: Limits, rows: int | None = None) -> None:
        self._kv, self._limits, self._rows = kv, limits, rows
        self._taken: float | None = None
        self.claims: dict[int, Claim] = {}
        self._claimed = 0
        self._unproven = 0

    def may_open(self, claim: Claim, last: bool = False) -> bool:
        """Say whether a row may start now; one always may when none is open. It is among the `last`
        where a step has places for all that are left."""
        if not self.claims:
            return True
        if claim.proven:
            return not self._unproven and self._claimed + claim.pages <= self._kv.num_pages
        if len(self.claims) > self._unproven or not self._fits(len(self.claims) + 1, claim):
            return False
        share = 1.0 if last and self._rows is not None else OPEN_BELOW
        return self._kv.live < share * self._kv.num_pages

    def _fits(self, rows: int, claim: Claim) -> bool:
        """Say whether so many rows without a proof may be open, by what such rows have taken, or by
        what is guessed of one."""
        if self._rows is None or rows <= self._rows:
            return True
        taken = claim.guess if self._taken is None else self._taken
        return rows * taken <= TOGETHER * self._kv.num_pages

    def open(self, ticket: int, claim: Claim) -> None:
        """Count a row that starts."""
        self.claims[ticket] = claim
        self._count(claim, 1)

    def spare(self, ticket: int, tokens: int) -> None:
        """Count less for an open row: gens on its stream have ended so many tokens early."""
        claim = self.claims[ticket]
        self._count(claim, -1)
        self.open(ticket, claim.less(tokens, self._limits))

    def close(self, ticket: int, tokens: int | None = None) -> None:
        """Count a row that has ended; it added so many tokens to the cache, if that is known."""
        self._count(self.claims.pop(ticket), -1)
        if tokens is not None:
            pages = tokens / self._limits.page_size
            known = pages if self._taken is None else self._taken
            self._taken = known + RECENT * (pages - known)

    def _count(self, claim: Claim, change: int) -> None:
        self._claimed += change * claim.pages if claim.proven else 0
        self._unproven += change * (not claim.proven)
