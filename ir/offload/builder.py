"""Builds pipelines: a schedule says the order of tasks and what they touch, waits follow from it.

A task waits for whoever wrote what it reads, and for whoever still reads or writes what it
overwrites, but for waits that its queue and its other waits imply: none can be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .pipeline import Access, Kind, Pipeline, Task


@dataclass
class _Slot:
    """Who wrote a slot last (a task's number), and who has read it since."""

    writer: int | None = None
    readers: list[int] = field(default_factory=list)


class PipelineBuilder:
    """Appends tasks in launch order, and works out their waits."""

    def __init__(self, name: str, layers: int, micro_batches: int) -> None:
        self.name, self.layers, self.micro_batches = name, layers, micro_batches
        self._tasks: list[Task] = []
        self._numbers: dict[str, int] = {}
        self._before: list[int] = []  # of each task: bits of the tasks that are done before it
        self._last: dict[str, int] = {}
        self._slots: dict[str, _Slot] = {}
        self._holds: list[Access] = []
        self._ends: set[int] = set()  # the last task of each queue before the last `sync`
        self._past: set[str] = set()  # queues that have waited for these

    def hold(self, slot: str, holds: str) -> None:
        """Say what a slot holds before the first task."""
        self._holds.append(Access(slot, holds))

    def task(
        self, kind: Kind, queue: str, layer: int, micro_batch: int = -1, *,
        number: int | None = None, pages: Iterable[int] = (),
        reads: Iterable[tuple[str, str]] = (), writes: Iterable[tuple[str, str]] = (),
    ) -> Task:  # fmt: skip
        """Append a task; reads and writes are pairs of slot and what it holds (then)."""
        parts = [kind.value, layer, *([micro_batch] if micro_batch >= 0 else [])]
        name = ".".join(map(str, parts if number is None else [*parts, number]))
        read = tuple(Access(*pair) for pair in reads)
        written = tuple(Access(*pair) for pair in writes)
        needed = self._needed(read, written) | (set() if queue in self._past else self._ends)
        self._past.add(queue)
        waits = self._reduced(queue, needed)
        task = Task(name, kind, queue, layer, micro_batch, tuple(pages), read, written,
                    tuple(self._tasks[n].name for n in waits))  # fmt: skip
        self._append(task, waits)
        return task

    def sync(self) -> None:
        """Let whatever comes, on any queue, wait for everything until here."""
        self._ends, self._past = set(self._last.values()), set()

    def finish(self) -> Pipeline:
        """Return the pipeline."""
        return Pipeline(self.name, self.layers, self.micro_batches, tuple(self._tasks),
                        tuple(self._holds))  # fmt: skip

    def _needed(self, reads: tuple[Access, ...], writes: tuple[Access, ...]) -> set[int]:
        needed: set[int] = set()
        for access in reads:
            needed |= {self._slot(access.slot).writer} - {None}  # type: ignore[arg-type]
        for access in writes:
            slot = self._slot(access.slot)
            needed |= ({slot.writer} - {None}) | set(slot.readers)  # type: ignore[operator]
        return needed

    def _reduced(self, queue: str, needed: set[int]) -> list[int]:
        """Return the tasks to wait for: those that neither the queue nor other waits imply."""
        last = self._last.get(queue)
        done = 0 if last is None else self._before[last] | 1 << last
        waits = []
        for number in sorted(needed, reverse=True):
            if not done >> number & 1:
                waits.append(number)
                done |= self._before[number] | 1 << number
        return sorted(waits)

    def _append(self, task: Task, waits: list[int]) -> None:
        number = len(self._tasks)
        last = self._last.get(task.queue)
        done = 0
        for other in [*waits, *([] if last is None else [last])]:
            done |= self._before[other] | 1 << other
        self._tasks.append(task)
        self._before.append(done)
        self._last[task.queue] = number
        for access in task.reads:
            self._slot(access.slot).readers.append(number)
        for access in task.writes:
            self._slots[access.slot] = _Slot(number)

    def _slot(self, name: str) -> _Slot:
        return self._slots.setdefault(name, _Slot())
