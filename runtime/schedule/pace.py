"""When a step must be launched so that a device that runs ahead of its host never waits for it."""

from __future__ import annotations

from math import ceil, inf
from time import perf_counter

from ..execution.step import ModelExecutor
from .flight import Flight
from .whole_blocks import BLOCK

AT_ONCE = 64
"""Requests that come before the next step does, where the device does not wait for it: each step of
prompts keeps the host for as long as 30 new rows do. With 32, imitated at the pace of an H200's
host (bench/host_clock.py; medians of three runs in turn), best_draft took 1.06 times as long,
adapters 1.05, self_consistency 1.03, few_shot and retry 1.02, chat 0.98, hellaswag 0.95 (0.99 by
the shortest runs), and skeleton, react, tree_of_thoughts and multi_turn_short within 1.1 %."""

IN_VAIN = 8
"""Rows that begin before rows that run have their next step, where none of them asks for anything:
all that they ask is being computed for others. In `chat` fifteen of 192 rows ask first what all
ask; it took 0.963 s of an H200 so, and 0.987 without."""

FIRST = 1024
"""Tokens that a device begins with: enough to be busy while more requests come."""

BUSY = 24e-3
"""Seconds that a step of prompts should take at least while more come. The host needs 12 to 18 ms
to launch the next one: a shorter one is over before, and as each then begins when but the few are
there that came in the meantime, all that follow are as short. W1 of the 8 B shape on two H200: 54
steps of 1,024 tokens and 1.82 s, or 7 and 1.55 s."""

MOST = 4 * FIRST
"""Tokens that are always enough: a pace that was believed too fast must not keep a device idle."""

PACE = 2e-5
"""Seconds of a prompt's token on a device where none was measured."""

LEAD, LEAD_REQUEST = 14e-3, 1.5e-4
"""Seconds before the device's next step is due: to launch one, and for each request that waits. The
host schedules, packs and plans attention for 8 to 15 ms before the first kernel of 50 prompts."""

SLOWER = 0.25
"""The part of a slower pace that is believed: what comes too late costs more than what is early."""

PATIENCE = 6e-3
"""Seconds that a device may wait for the last rows of a run: less than a step of decoding."""


class Pace:
    """The seconds of a prompt's token on an executor; it keeps them for its next engine, too."""

    def __init__(self, executor: ModelExecutor) -> None:
        self._executor = executor
        self._opens = self._more = False

    def due(self, flight: Flight | None, waiting: int, rest: float = inf) -> bool:
        """Say whether the next step, for which so many wait, must be launched now.

        A step of the host's making, or one that computes no prompts, leaves no time. While a step
        computes prompts and all others are there in `rest` seconds, it is not: they would need
        one more step, and one more when the rows of this one have ended.
        """
        if flight is not None and flight.tokens >= FIRST // 2 and rest < PATIENCE:
            return False
        if flight is None or (flight.tells and flight.ready()):
            return True
        seconds = self._seconds(flight)
        lead = LEAD + LEAD_REQUEST * waiting
        return seconds <= lead or perf_counter() >= flight.began + seconds - lead

    def _seconds(self, flight: Flight) -> float:
        """Return how long the device should take for a step's prompts."""
        return flight.tokens * (getattr(self._executor, "pace", 0.0) or PACE)

    def enough(self) -> int:
        """Return the tokens of prompts with which a step begins though more may come."""
        known = 0.0 if self._opens else getattr(self._executor, "pace", 0.0)
        return min(max(FIRST, ceil(BUSY / known)), MOST) if known else FIRST

    def opening(self, tokens: int) -> int:
        """Return how many of a stream's tokens a device that does nothing begins with at once,
        while the host prepares what goes on from them; 0: they are too few."""
        self._opens = tokens >= FIRST
        return tokens // BLOCK * BLOCK if self._opens else 0

    def noted(self, now: bool, more: bool) -> bool:
        """Take note of whether a step begins now though more comes; return whether it does."""
        self._more = now and more
        return now

    def more(self) -> bool:
        """Say, once, whether more comes than the step that begins has."""
        more, self._more = self._more, False
        return more

    def landed(self, flight: Flight, following: Flight | None, now: float, waited: bool) -> None:
        """Take note of when a step's draw was there, and whether the host waited for it.

        Where the draw was there before the host looked, the step behind began earlier: about when
        this one's prompts should have been done.
        """
        self._opens = False
        if following is not None:
            seconds = self._seconds(flight)
            ended = now if waited or not seconds else min(now, flight.began + seconds)
            following.began = max(following.began, ended)
        if waited and flight.tokens >= FIRST // 2:
            known = getattr(self._executor, "pace", 0.0)
            taken = (now - flight.began) / flight.tokens
            slower = known + SLOWER * (taken - known) if known else taken
            self._executor.pace = min(taken, slower)  # type: ignore[attr-defined]
