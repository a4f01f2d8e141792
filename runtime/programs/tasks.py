"""Cooperative tasks: coroutines of program instances that wait for the model, tools, or branches.

A task is a generator. It yields a `Request`, a `ToolCall` or a `Branches`, and is resumed with
the finished request, the tool's value, or the list of what the branches returned; or `Together`,
and is resumed when all of its requests are finished; or a `StepEnd`. A `Spawn` gives
it a `Later` at once; a `Later` that it yields resumes it when the value is there. An instance has
ended when its first task and all that it spawned have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..devices.device import device_errors
from ..engine import Engine
from ..schedule.request import Request
from .future_values import Later, Spawn
from .texts import PORTION, Unencoded
from .tools import ToolCall, Tools, Wait

Coroutine = Generator[Any, Any, Any]


@dataclass(frozen=True)
class Branches:
    """Coroutines to run side by side."""

    coroutines: list[Coroutine]


class StepEnd:
    """A task that could go on for long lets the step end, and goes on in the next one."""


@dataclass(frozen=True)
class Together:
    """Requests that are asked for at once; `done` is called with each as soon as it is finished."""

    requests: list[Request]
    done: Callable[[Request], None]


@dataclass(eq=False)
class _Join:
    """A parent that waits for its branches."""

    parent: _Task
    results: list[Any]
    missing: int


@dataclass(eq=False, slots=True)
class _Task:
    coroutine: Coroutine
    root: Root
    join: _Join | None = None
    position: int = 0
    waits_for: set[Request | ToolCall] = field(default_factory=set)
    later: Later | None = None
    done: Callable[[Request], None] | None = None
    """Who hears of each request of several that it waits for."""
    error: BaseException | None = None
    """The first error of those."""


@dataclass(eq=False)
class Root:
    """A program instance as a whole: all its tasks, its value, and who hears how it ended."""

    on_done: Callable[[Any, BaseException | None], None]
    tasks: set[_Task] = field(default_factory=set)
    value: Any = None


class TaskLoop:
    """Runs tasks over one engine and one pool of tools."""

    def __init__(
        self, engine: Engine, tools: Tools, gather: Callable[[Iterable[str]], None] | None = None
    ) -> None:
        """`gather` encodes the texts that tasks wait for."""
        self.engine = engine
        self._tools = tools
        self._gather = gather
        self._unencoded: list[tuple[_Task, Unencoded]] = []
        self._ready: deque[tuple[_Task, Any, BaseException | None]] = deque()
        self._paused = False
        self._waiting: dict[Request | ToolCall, _Task] = {}

    def start(
        self, coroutine: Coroutine, on_done: Callable[[Any, BaseException | None], None]
    ) -> Root:
        """Add an instance; `on_done(result, error)` is called when it has ended."""
        root = Root(on_done)
        self._spawn(_Task(coroutine, root))
        return root

    def __bool__(self) -> bool:
        return self.under_way > 0

    @property
    def under_way(self) -> int:
        """How many tasks run, or wait for the model or for a tool."""
        return len(self._ready) + len(self._unencoded) + len(self._waiting)

    def step(self) -> Wait | None:
        """Run what is ready, then one step of the model.

        Returns what is to be waited for before the next step, where only tools can go on: not here,
        as others may have something to do meanwhile.
        """
        self.advance()
        if self.engine:
            steps = self.engine.steps
            with device_errors():
                done = self.engine.step()
            for request in done:
                self._wake(request, request, request.error)
            if self.engine.steps == steps:
                if done:  # the last of a batch have ended: a step need not wait for all of them
                    self.advance()
                else:  # what is ready may give room, or cancel
                    self._advance_all()
        if self._tools:
            for call, value, error in self._tools.poll():
                self._wake(call, value, error)
            if not (self._ready or self._unencoded or self.engine):
                return self._tools.pause()
        return None

    def advance(self) -> None:
        """Run what is ready, until it waits for the model or for a tool; what a device that is idle
        need not wait for runs after its next step has begun."""
        self._paused = False
        while (self._ready or self._unencoded) and not (self._paused or self.engine.may_begin):
            self._go_on()

    def _advance_all(self) -> None:
        while (self._ready or self._unencoded) and not self._paused:
            self._go_on()

    def _go_on(self) -> None:
        """Run the next task, or those whose texts are encoded once enough wait for that."""
        if self._ready and len(self._unencoded) < PORTION:
            self._resume(*self._ready.popleft())
            return
        waiting, self._unencoded = self._unencoded, []
        assert self._gather is not None
        self._gather(text for _, wish in waiting for text in wish.texts)
        for task, _ in waiting:
            self._resume(task, None, None)

    def cancel(self, root: Root) -> None:
        """Stop all tasks of an instance; whatever they wait for is forgotten."""
        for task in list(root.tasks):
            waits_for, task.waits_for = task.waits_for, set()
            for what in waits_for:
                del self._waiting[what]
                if isinstance(what, ToolCall):
                    self._tools.cancel(what)
                else:
                    self.engine.cancel(what)
        self._ready = deque(entry for entry in self._ready if entry[0].root is not root)
        self._unencoded = [entry for entry in self._unencoded if entry[0].root is not root]
        for task in list(root.tasks):
            task.coroutine.close()
        root.tasks.clear()

    def _spawn(self, task: _Task) -> None:
        task.root.tasks.add(task)
        self._ready.append((task, None, None))

    def _wake(self, what: Request | ToolCall, value: Any, error: BaseException | None) -> None:
        task = self._waiting.pop(what, None)
        if self.engine.trace is not None:
            self.engine.trace.answered(what)
        if task is None:
            return
        task.waits_for.discard(what)
        if task.done is not None:
            task.error = task.error or error
            if error is None:
                task.done(value)
            if task.waits_for:
                return
            value, error = None, task.error
            task.done = task.error = None
        self._ready.append((task, value, error))

    def _resume(self, task: _Task, value: Any, error: BaseException | None) -> None:
        """Run a task until it waits for what is not there; it may be cancelled meanwhile."""
        coroutine, alive = task.coroutine, task.root.tasks
        try:
            while task in alive:
                wish = coroutine.send(value) if error is None else coroutine.throw(error)
                error = None
                if isinstance(wish, Spawn):
                    child = _Task(wish.coroutine, task.root, later=(value := Later()))
                    alive.add(child)
                    self._resume(child, None, None)
                elif isinstance(wish, Later) and wish.ready:
                    value = wish.value
                else:
                    self._wait(task, wish)
                    return
        except StopIteration as stop:
            self._finish(task, stop.value)
        except Exception as failure:
            self.cancel(task.root)
            task.root.on_done(None, failure)

    def _wait(self, task: _Task, wish: Any) -> None:
        if isinstance(wish, Request):
            self._ask(task, wish)
            return
        if isinstance(wish, Later):
            wish.waiting.append(lambda: self._ready.append((task, wish.value, None)))
            return
        if isinstance(wish, StepEnd):
            self._paused = True
            self._ready.append((task, None, None))
            return
        if isinstance(wish, Unencoded):
            self._unencoded.append((task, wish))
            return
        if isinstance(wish, Branches):
            if not wish.coroutines:
                self._ready.append((task, [], None))
                return
            join = _Join(task, [None] * len(wish.coroutines), len(wish.coroutines))
            for position, coroutine in enumerate(wish.coroutines):
                self._spawn(_Task(coroutine, task.root, join, position))
            return
        if isinstance(wish, Together):
            task.done = wish.done
            for request in wish.requests:
                self._ask(task, request)
            return
        self._ask(task, wish)

    def _ask(self, task: _Task, what: Request | ToolCall) -> None:
        if isinstance(what, ToolCall):
            self._tools.submit(what)
        else:
            self.engine.submit(what)
        task.waits_for.add(what)
        self._waiting[what] = task
        if self.engine.trace is not None:
            self.engine.trace.asked(what)

    def _finish(self, task: _Task, value: Any) -> None:
        root, join = task.root, task.join
        root.tasks.discard(task)
        if task.later is not None:
            task.later.settle(value)
        elif join is None:
            root.value = value
        else:
            join.results[task.position] = value
            join.missing -= 1
            if not join.missing:
                self._ready.append((join.parent, join.results, None))
        if not root.tasks:
            root.on_done(root.value, None)
