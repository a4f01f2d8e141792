"""Runs pipelines: a thread a queue, which waits for events, launches, and records its own."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue
from time import perf_counter
from typing import Any
from weakref import WeakSet, ref

from ...ir.offload.pipeline import Pipeline, Task
from ..devices.streams import OffloadDevice, Stream
from .cores import Cores, keep_to

Work = Callable[[Task], Any]
"""Does a task, or launches it on the current stream; returns the event of its end where that is
another stream's, else None."""


TURN = 2e-4
"""Seconds after which a thread that waits gets the interpreter. Python's 5 ms are as long as a page
takes over the link: who launches the next copy must not wait for who launches kernels."""


class Abandoned(Exception):
    """Wakes a queue whose run has failed elsewhere."""


class _Signal:
    """That a task is launched, and on a device's stream the event of its end."""

    def __init__(self) -> None:
        self._launched = threading.Event()
        self._event: Any = None

    def set(self, event: Any = None) -> None:
        self._event = event
        self._launched.set()

    def wait(self, stream: Stream | None) -> None:
        """Wait on a host queue; on a device's, wait for the launch and let the stream wait."""
        self._launched.wait()
        if self._event is not None:
            if stream is None:
                self._event.synchronize()
            else:
                stream.wait(self._event)


class Run:
    """One pipeline under way; `spans` are the seconds of each task's work, on this host's clock."""

    def __init__(self, pipeline: Pipeline, work: Work) -> None:
        self.pipeline, self.work = pipeline, work
        self.signals = {task.name: _Signal() for task in pipeline.tasks}
        self._left = {queue: threading.Event() for queue in pipeline.queues}
        self.error: BaseException | None = None
        self.spans: dict[str, tuple[float, float]] = {}

    def fail(self, error: BaseException) -> None:
        """Keep the first error, and wake whoever waits."""
        if self.error is None and not isinstance(error, Abandoned):
            self.error = error
        for signal in self.signals.values():
            signal.set()

    def stop(self) -> None:
        """Begin no more tasks."""
        self.error = self.error or Abandoned()
        self.fail(self.error)

    def left(self, queue: str) -> None:
        """A queue has no more to do with it."""
        self._left[queue].set()

    def abandon(self) -> None:
        """Begin no more tasks, and wait until no queue is at one: what they write may be used."""
        self.stop()
        for left in self._left.values():
            left.wait()

    def wait(self, names: Iterable[str]) -> None:
        """Wait until tasks are done; raises what any task of the run has raised."""
        for name in names:
            self.signals[name].wait(None)
        if self.error is not None:
            raise self.error

    def finish(self) -> None:
        """Wait until all is done."""
        self.wait(self.signals)


class Queues:
    """The threads of a device's and the host's queues; they live as long as the executor.

    `host` names the queues whose work this machine's cores do; the others launch on streams.
    Those that `cores` names keep to theirs.
    """

    def __init__(self, device: OffloadDevice, host: Iterable[str], delay: Callable[[Task], None]
                 | None = None, cores: Cores | None = None) -> None:  # fmt: skip
        self._device, self._host, self._cores = device, frozenset(host), cores or {}
        self._delay = delay
        self._inboxes: dict[str, SimpleQueue[tuple[Run, tuple[Task, ...]] | None]] = {}
        self._threads: list[threading.Thread] = []
        self._run: Callable[[], Run | None] = lambda: None
        _LIVING.add(self)

    def start(self, pipeline: Pipeline, work: Work) -> Run:
        """Hand every queue its tasks; returns at once."""
        run = Run(pipeline, work)
        self._run = ref(run)
        for queue, tasks in pipeline.queues.items():
            self._inbox(queue).put((run, tasks))
        return run

    def close(self) -> None:
        """End the threads, after what is under way."""
        for inbox in self._inboxes.values():
            inbox.put(None)
        self._inboxes.clear()
        _TURNS.leave(self)

    def stop(self) -> None:
        """End the threads, each after the task that it does."""
        run = self._run()
        if run is not None:
            run.stop()
        self.close()
        self.join()

    def join(self) -> None:
        """Wait until the threads have ended, after `close`: memory that they use may go then."""
        while self._threads:
            self._threads.pop().join()

    def _inbox(self, queue: str) -> SimpleQueue[tuple[Run, tuple[Task, ...]] | None]:
        if queue not in self._inboxes:
            _TURNS.take(self)
            self._inboxes[queue] = inbox = SimpleQueue()
            thread = threading.Thread(target=self._serve, args=(queue, inbox),
                                      name=f"weft-{queue}", daemon=True)  # fmt: skip
            self._threads.append(thread)
            thread.start()
        return self._inboxes[queue]

    def _serve(self, queue: str, inbox: Any) -> None:
        stream, begun = None, False
        while (job := inbox.get()) is not None:
            run, tasks = job
            try:
                if not begun:
                    stream, begun = self._begin(queue), True
                for task in tasks:
                    self._do(run, task, stream)
            except BaseException as error:  # a queue must not die with others waiting for it
                run.fail(error)
            run.left(queue)
            del job, run, tasks  # what is done must not hold memory while the queue is idle

    def _begin(self, queue: str) -> Stream | None:
        """Return the stream of the queue whose thread calls it, and have the queue's cores."""
        if queue in self._cores:
            keep_to(self._cores[queue])
        return None if queue in self._host else self._device.stream(queue)

    def _do(self, run: Run, task: Task, stream: Stream | None) -> None:
        for name in task.waits:
            run.signals[name].wait(stream)
        if run.error is not None:
            raise Abandoned
        if self._delay is not None:
            self._delay(task)
        begin = perf_counter()
        if stream is None:
            run.work(task)
            event = None
        else:
            with stream():
                event = run.work(task)
            event = stream.record() if event is None else event
        run.spans[task.name] = (begin, perf_counter())
        run.signals[task.name].set(event)


class _Turns:
    """How soon a waiting thread gets the interpreter: the process has one such number, and short it
    is as long as any queues have threads."""

    def __init__(self) -> None:
        self._users: WeakSet[Queues] = WeakSet()
        self._usual = sys.getswitchinterval()

    def take(self, queues: Queues) -> None:
        """Queues begin a thread."""
        if not self._users:
            self._usual = sys.getswitchinterval()
        self._users.add(queues)
        sys.setswitchinterval(min(TURN, self._usual))

    def leave(self, queues: Queues) -> None:
        """Queues end their threads."""
        if queues in self._users:
            self._users.remove(queues)
            if not self._users:
                sys.setswitchinterval(self._usual)


_TURNS = _Turns()
_LIVING: WeakSet[Queues] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """End the threads before the interpreter does: one that copies then would abort the process."""
    for queues in tuple(_LIVING):
        queues.stop()


def busy(spans: Mapping[str, tuple[float, float]], tasks: Iterable[Task]) -> dict[str, float]:
    """Return the seconds that each queue worked, of a run's spans."""
    found: dict[str, float] = {}
    for task in tasks:
        begin, end = spans.get(task.name, (0.0, 0.0))
        found[task.queue] = found.get(task.queue, 0.0) + end - begin
    return found
