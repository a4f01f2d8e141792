"""Tool calls: Python functions in threads, with a timeout, and checked results.

An `async def` tool runs in its thread, in an event loop of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import isawaitable
from time import monotonic
from typing import Any, Literal, Protocol

from ...ir.core import Operation, Term
from ...ir.diagnostics import RunError
from ...ir.source import Span
from ...ir.values import TIMEOUT, WRONG_VALUE, ErrorValue, ToolFailed
from .coerce import Mismatch, coerce

DEFAULT_TIMEOUT = 30.0

LIMIT = 32
"""Calls that run at once; others wait until one of them ends."""

HEARD_WITHIN = 0.25
"""Seconds that one waits at a time: Ctrl-C that comes just before a wait does not end that one."""

CANCELLED_AFTER = 1.0
"""Seconds behind its time at which a coroutine is cancelled: by then it has been told as late."""


class UnboundTool(RunError):
    """A declared tool without a Python function."""

    template = "the tool {tool} has no Python function"
    hint = (
        "weft run takes --tools FILE, or NAME_tools.py beside NAME.weft; from Python it is given "
        "when compiling: tools={{{tool!r}: function}}"
    )


@dataclass(eq=False)
class ToolCall:
    """One call on its way."""

    tool: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    returns: Term
    timeout: float
    row: int
    span: Span | None
    instance: int = 0
    deadline: float = field(default=0.0, init=False)
    closed: bool = field(default=False, init=False)


Completion = tuple[ToolCall, Any, BaseException | None]


class _Answers:
    """What threads have computed, until it is taken; who has nothing else to do waits for news.

    There is no lock, which Ctrl-C could leave locked.
    """

    def __init__(self) -> None:
        self.latest = 0
        """The number of the latest piece of news: an answer, or a call that was given up."""
        self._numbers = itertools.count(1)
        self._bells: set[queue.SimpleQueue[None]] = set()
        self._there: queue.SimpleQueue[Completion] = queue.SimpleQueue()

    def put(self, completion: Completion) -> None:
        """Let one be taken, and tell that it is there."""
        self._there.put(completion)
        self.tell()

    def tell(self) -> None:
        """Wake all who wait."""
        self.latest = next(self._numbers)
        for bell in tuple(self._bells):
            bell.put(None)

    def wait(self, seen: int, until: float) -> None:
        """Wait for news after the piece `seen`, no longer than to `until` (monotonic, s)."""
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._bells.add(bell)
        try:
            while self.latest == seen and (left := until - monotonic()) > 0:
                with suppress(queue.Empty):
                    bell.get(timeout=min(left, HEARD_WITHIN))
        finally:
            self._bells.discard(bell)

    def take(self) -> Iterator[Completion]:
        """Yield, and forget, those that are there."""
        while True:
            try:
                yield self._there.get_nowait()
            except queue.Empty:
                return


class Wait(Protocol):
    """What one waits for who has nothing to do before a tool answers."""

    def wait(self) -> None:
        """Wait for it."""
        ...


class Tools(Protocol):
    """Calls of tools that are on their way."""

    def __bool__(self) -> bool: ...

    def submit(self, call: ToolCall) -> None:
        """Start a call, or queue it when too many run."""
        ...

    def cancel(self, call: ToolCall) -> None:
        """Forget a call."""
        ...

    def poll(self) -> list[Completion]:
        """Return finished calls with their checked value, or with an error; wait for none."""
        ...

    def pause(self) -> Wait:
        """Return what to wait for before it is worth while to `poll` again."""
        ...


@dataclass(frozen=True)
class Pause:
    """What one waits for who has nothing to do before a tool answers, or a call's time is over.

    The piece of news `seen` is known; `until` is when the first call's time is over (monotonic, s).
    """

    answers: _Answers
    seen: int
    until: float

    def wait(self) -> None:
        """Wait for more news, whoever takes it."""
        self.answers.wait(self.seen, self.until)


class _Workers:
    """Daemon threads that wait for the next call: to start one takes as long as a short call.

    A thread whose call hangs is missed by nobody: the next call has another one.
    """

    def __init__(self, done: _Answers) -> None:
        self._calls: queue.SimpleQueue[ToolCall | None] = queue.SimpleQueue()
        self._done = done
        self._idle: deque[None] = deque()
        """One entry for each thread that waits, or is about to."""
        self._count = 0

    def run(self, call: ToolCall) -> None:
        """Let a thread run a call."""
        self._calls.put(call)
        try:
            self._idle.pop()
        except IndexError:
            self._count += 1
            threading.Thread(target=self._work, daemon=True).start()

    def end(self) -> None:
        """Let all threads end, now or when their calls do."""
        for _ in range(self._count):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            found = outcome(call)
            self._idle.append(None)  # before who waits for it can ask for the next
            self._done.put(found)
            del call, found  # what they hold must not live until the next one comes


Where = Literal["thread", "here"]

called_from_tool: ContextVar[Where | None] = ContextVar("called_from_tool", default=None)
"""Whether this is a tool's function, or what it calls: what it runs of weft has a caller that holds
memory until it answers. In a thread of its own, or in that of the run that calls it."""


def outcome(call: ToolCall, where: Where = "thread") -> Completion:
    """Run a call's function; return its value, not checked yet, or what it raised."""
    before = called_from_tool.set(where)
    try:
        value = call.function(*call.arguments)
        return call, asyncio.run(_awaited(call, value)) if isawaitable(value) else value, None
    except BaseException as error:
        return call, None, error
    finally:
        called_from_tool.reset(before)


async def _awaited(call: ToolCall, value: Awaitable[Any]) -> Any:
    """Return what an async tool gives; one that nobody listens to any more is cancelled."""
    return await asyncio.wait_for(value, max(0.0, call.deadline - monotonic()) + CANCELLED_AFTER)


class ToolPool:
    """Runs tool calls in daemon threads, so that one that hangs holds up nothing else."""

    def __init__(self, records: Mapping[str, Operation], limit: int = LIMIT) -> None:
        self._records = records
        self._limit = limit
        self._queued: deque[ToolCall] = deque()
        self._running: set[ToolCall] = set()
        self._done = _Answers()
        self._seen = 0
        self._workers = _Workers(self._done)
        weakref.finalize(self, self._workers.end)

    def __bool__(self) -> bool:
        return bool(self._running or self._queued)

    def submit(self, call: ToolCall) -> None:
        """Start a call, or queue it when too many run."""
        self._queued.append(call)
        self._start()

    def cancel(self, call: ToolCall) -> None:
        """Forget a call; its thread may go on, but nobody listens."""
        call.closed = True
        self._running.discard(call)
        if call in self._queued:
            self._queued.remove(call)
        self._start()
        self._done.tell()  # a row that is given up makes room for others

    def poll(self) -> list[Completion]:
        """Return finished calls with their checked value, or with an error; wait for none."""
        self._seen = self._done.latest  # before they are taken: `pause` misses none
        finished: list[Completion] = []
        for call, value, error in self._done.take():
            if not call.closed:
                self._running.discard(call)
                finished.append(checked(self._records, call, value, error))
        now = monotonic()
        for call in [call for call in self._running if call.deadline <= now]:
            self.cancel(call)
            finished.append((call, None, too_slow(call)))
        self._start()
        return finished

    def pause(self) -> Pause:
        """Return what to wait for before it is worth while to `poll` again."""
        until = min((call.deadline for call in self._running), default=0.0)
        return Pause(self._done, self._seen, until)

    def _start(self) -> None:
        while self._queued and len(self._running) < self._limit:
            call = self._queued.popleft()
            call.deadline = monotonic() + call.timeout
            self._running.add(call)
            self._workers.run(call)


def tool_pool(executor: object, records: Mapping[str, Operation]) -> Tools:
    """Return what calls tools beside an executor: threads, or what a simulated one has for it."""
    return getattr(executor, "tools", ToolPool)(records)


def checked(
    records: Mapping[str, Operation], call: ToolCall, value: Any, error: BaseException | None
) -> Completion:
    """Return a call with its value as the declared type has it, or with ToolFailed."""
    if error is not None:
        return call, None, _failed(call, type(error).__name__, _said(error))
    try:
        return call, coerce(call.returns, records, value), None
    except Mismatch as mismatch:
        return call, None, _failed(call, WRONG_VALUE, f"returned a wrong value: {mismatch}")
    except Exception as raised:  # by a class of the user's, as its values are looked at
        return call, None, _failed(call, type(raised).__name__, _said(raised))


def too_slow(call: ToolCall) -> ToolFailed:
    """Return the error of a call whose time is over."""
    return _failed(call, TIMEOUT, f"did not answer in {call.timeout:g} s")


def call_now(
    declared: Operation, records: Mapping[str, Operation], function: Callable[..., Any]
) -> Callable[..., Any]:
    """Return what runs a tool outside a program, under its timeout, and checks its value.

    It raises ToolFailed.
    """
    timeout = declared.attribute("timeout", DEFAULT_TIMEOUT)

    def called(*arguments: Any) -> Any:
        pool = ToolPool(records)
        pool.submit(
            ToolCall(
                declared["name"].name, function, arguments, declared["returns"], float(timeout),
                row=0, span=declared.span,
            )
        )  # fmt: skip
        finished: list[Completion] = []
        while not finished:
            pool.pause().wait()
            finished = pool.poll()
        _, value, error = finished[0]
        if error is not None:
            raise error
        return value

    return called


def _said(error: BaseException) -> str:
    """Return what an exception says; its class is the user's, and may fail at that, too."""
    try:
        return str(error)
    except Exception as other:
        return f"its text cannot be had: {type(other).__name__}"


def _failed(call: ToolCall, kind: str, message: str) -> ToolFailed:
    readable = message.encode("utf-8", "backslashreplace").decode("utf-8")
    error = ErrorValue(tool=call.tool, kind=kind, message=readable)
    return ToolFailed.of(error, call.row, call.span)
