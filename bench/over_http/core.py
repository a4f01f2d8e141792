"""The engine's own loop behind the front: requests are taken between steps, answers sent after."""

from __future__ import annotations

import select
from collections.abc import Sequence
from itertools import chain
from time import perf_counter
from typing import Any

from weft.runtime.programs.tasks import TaskLoop
from weft.runtime.programs.tools import ToolPool

from ..measure import OwnClock, ran_and_waited
from .channel import Channel
from .jobs import Done


class EngineFailed(RuntimeError):
    """A step has failed: whoever waited for an answer has been told so."""


def serve(server: Any, front: Channel, clients: Channel, lost: Lost | None = None) -> Done:
    """Serve what the front sends until the clients say that they are done; return what they say.

    While there is work nothing is waited for; without work, both channels are, which `lost` hears.
    Raises EngineFailed, once the clients are done: until then each request is told why.
    """
    work = _Work(server)
    done: Done | None = None
    ready = select.poll()
    ready.register(front, select.POLLIN)
    ready.register(clients, select.POLLIN)
    while work or done is None:
        if work or lost is None:
            files = ready.poll(0 if work else None)
        else:
            with lost:
                files = ready.poll()
        for file, _ in files:
            if file == clients.fileno():
                for message in clients.take():
                    if isinstance(message, Done):
                        done = message
                    elif lost is not None:
                        lost.start()
                continue
            for request in chain.from_iterable(front.take()):
                work.take(*request)
        if told := work.step():
            front.send(told)
    if work.failure is not None:
        raise work.failure
    return done


class _Work:
    """The requests that are not answered, by number, and the loop that answers them."""

    def __init__(self, server: Any) -> None:
        self.failure: EngineFailed | None = None
        self._server = server
        self._loop = TaskLoop(server.engine, ToolPool({}))
        self._open: set[int] = set()
        self._told: list[tuple[int, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def take(self, number: int, asked: Any, tokens: Any) -> None:
        """Begin with a request."""
        self._open.add(number)
        if self.failure is not None:
            self._tell(number, None, self.failure)
            return
        tell = lambda value, error: self._tell(number, value, error)  # noqa: E731
        self._loop.start(self._server.serve(asked, tokens), tell)

    def step(self) -> list[tuple[int, Any]]:
        """Make a step; return what is to be told, by number. After a failure nothing runs."""
        if self.failure is None:
            try:
                self._loop.step()
            except Exception as error:
                self.failure = EngineFailed(_said(error))
                self.failure.__cause__ = error
                for number in [*self._open]:
                    self._tell(number, None, self.failure)
        told, self._told = self._told, []
        return told

    def _tell(self, number: int, value: Any, error: BaseException | None) -> None:
        """Note an answer, or what is wrong with its request."""
        self._open.discard(number)
        self._told.append((number, value if error is None else _said(error)))


class Lost:
    """The seconds of a run for which it waited for a core, on a machine of few cores.

    Of the seconds with work these are the ones in which this thread could run; of those without
    work, the ones in which another process could. The others have to do meanwhile what they do, one
    at a time, as if they shared a core: no less than the seconds that they ran are left.
    """

    def __init__(self, others: Sequence[int]) -> None:
        """`others`: the processes that have work meanwhile, by number."""
        self._others = others
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._idle, self._clock, self._begin = 0.0, OwnClock(), self._now()

    @property
    def seconds(self) -> float:
        """How many seconds were lost so far."""
        return self._idle + self._clock.lost()

    def __enter__(self) -> None:
        self._begin = self._now()

    def __exit__(self, *raised: object) -> None:
        wall, own, ran, waited = (
            now - then for now, then in zip(self._now(), self._begin, strict=True)
        )
        self._idle += max(0.0, min(waited, wall - own - ran))

    def _now(self) -> tuple[float, float, float, float]:
        """Return seconds: of the wall, that this thread has waited, that the others have run, and
        have waited."""
        others = [ran_and_waited(process) for process in self._others]
        ran, waited = (sum(each[part] for each in others) for part in (0, 1))
        return perf_counter(), ran_and_waited()[1], ran, waited


def _said(error: BaseException) -> str:
    """Return an error's class and text."""
    return f"{type(error).__name__}: {error}"
