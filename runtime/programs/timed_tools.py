"""Tools on a virtual clock: calls take stated seconds, so that a run has the same steps always.

In threads a tool answers whenever it does, and what the next step of the model takes depends on
that. Here a call's function runs where it is asked for, and its answer is there when the clock of
the model that is simulated has come so far.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Protocol

from ...ir.core import Operation
from .tools import LIMIT, Completion, ToolCall, checked, outcome, too_slow


class Clock(Protocol):
    """Whose time it is."""

    now: float
    """Virtual seconds."""


ToolSeconds = Callable[[str], float]
"""How long a call of a tool takes, in virtual seconds, by the tool's name."""


@dataclass(frozen=True)
class Jump:
    """What one waits for who has nothing to do before a tool answers: the clock goes on at once."""

    clock: Clock
    until: float

    def wait(self) -> None:
        """Let the clock be where the next tool answers."""
        self.clock.now = max(self.clock.now, self.until)


class TimedTools:
    """A `ToolPool` on a virtual clock.

    A call that takes longer than its timeout is told as late when that is over. Functions run one
    at a time in the thread that asks for them: what one takes in truth is counted nowhere, and one
    that hangs is waited for. None may run programs: the step that it is
    called in has not ended.
    """

    def __init__(
        self, records: Mapping[str, Operation], clock: Clock, seconds: ToolSeconds,
        limit: int = LIMIT,
    ) -> None:  # fmt: skip
        self._records, self._clock, self._seconds, self._limit = records, clock, seconds, limit
        self._queued: deque[ToolCall] = deque()
        self._running: list[tuple[float, int, Completion]] = []
        """When each is answered, its number, and the answer; the next one first."""
        self._numbers = count()

    def __bool__(self) -> bool:
        return bool(self._running or self._queued)

    def submit(self, call: ToolCall) -> None:
        """Start a call, or queue it when too many run."""
        self._queued.append(call)
        self._start(self._clock.now)

    def cancel(self, call: ToolCall) -> None:
        """Forget a call."""
        call.closed = True
        self._running = [entry for entry in self._running if entry[2][0] is not call]
        heapq.heapify(self._running)
        if call in self._queued:
            self._queued.remove(call)
        self._start(self._clock.now)

    def poll(self) -> list[Completion]:
        """Return the calls that are answered by now with their checked value, or with an error."""
        finished: list[Completion] = []
        while self._running and self._running[0][0] <= self._clock.now:
            at, _, completion = heapq.heappop(self._running)
            finished.append(completion)
            self._start(at)  # one that waited for a place begins when that is free
        return finished

    def pause(self) -> Jump:
        """Return what to wait for before it is worth while to `poll` again."""
        return Jump(self._clock, self._running[0][0] if self._running else self._clock.now)

    def _start(self, now: float) -> None:
        while self._queued and len(self._running) < self._limit:
            call = self._queued.popleft()
            seconds = self._seconds(call.tool)
            call.deadline = inf  # of a coroutine, which is awaited now, however long it takes
            if seconds > call.timeout:
                answer: Completion = (call, None, too_slow(call))
            else:
                answer = checked(self._records, *outcome(call, "here"))
            heapq.heappush(
                self._running, (now + min(seconds, call.timeout), next(self._numbers), answer)
            )
