"""Calls under way in threads: what a task loop waits for where it would wait for an engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from .line import Cancelled, Over

PAUSE = 0.01
"""Seconds that a step waits for news, before tools are looked at again."""


@dataclass(eq=False)
class Call:
    """One question to an endpoint; `work` runs in a thread, and gives `result` or `error`."""

    work: Callable[[Call], Any]
    priority: int = 0
    hear: Callable[[str], None] | None = None
    over: Over = field(default_factory=Over)
    tell: Callable[[str], None] = lambda text: None
    result: Any = None
    error: BaseException | None = None


News = tuple[Call, str | None]
"""A piece of a call's text, or None: it has ended."""


class Pool:
    """Runs calls, as many at once as there are threads, the most urgent first."""

    trace = None
    """There are no steps to trace: they are the server's."""

    steps = 0
    may_begin = False
    """Calls begin when they are submitted: nothing is held back for a step to begin first."""

    def __init__(self, threads: int) -> None:
        self._limit = threads
        self._waiting: queue.PriorityQueue[tuple[int, int, Call | None]] = queue.PriorityQueue()
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._open: set[Call] = set()
        self._threads = 0
        self._order = count()

    def __bool__(self) -> bool:
        return bool(self._open)

    def submit(self, call: Call) -> None:
        """Start a call as soon as a thread is free."""
        call.tell = lambda text: self._news.put((call, text))
        self._open.add(call)
        self._waiting.put((-call.priority, next(self._order), call))
        if self._threads < min(self._limit, len(self._open)):
            self._threads += 1
            threading.Thread(target=self._run, daemon=True).start()

    def cancel(self, call: Call) -> None:
        """Forget a call; its connection is shut, so that its thread is free for another."""
        call.over.set()
        self._open.discard(call)

    def step(self) -> list[Call]:
        """Hand out what has come, waiting a little for it; return the calls that have ended."""
        ended: list[Call] = []
        wait = True
        while True:
            try:
                call, text = self._news.get(timeout=PAUSE) if wait else self._news.get_nowait()
            except queue.Empty:
                return ended
            wait = False
            if call not in self._open:
                continue
            if text is None:
                self._open.discard(call)
                ended.append(call)
            elif call.hear is not None:
                call.hear(text)

    def close(self) -> None:
        """Cancel what is open, and let the threads end."""
        for call in list(self._open):
            self.cancel(call)
        for _ in range(self._threads):
            self._waiting.put((1 << 62, next(self._order), None))
        self._threads = 0

    def _run(self) -> None:
        while True:
            _, _, call = self._waiting.get()
            if call is None:
                return
            if not call.over.is_set():
                try:
                    call.result = call.work(call)
                except Cancelled:
                    continue
                except BaseException as error:
                    call.error = error
            self._news.put((call, None))
