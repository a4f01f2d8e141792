"""The launches of a lowered step over queues, as a pipeline to prove: who must wait for whom.

What a launch reads and writes stands in its kernel: buffers that it stores to, and all others. Runs
of launches of one queue are its tasks; where a launch touches what a task of another queue has
written, or writes what it reads, a new task begins, which waits for that one. The pipeline says of
each access which write it must find or leave alone, and `hazards` proves that from queues and waits
alone, whatever tasks take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...ir.core import Operation, Term
from ...ir.offload.pipeline import Access, Kind, LaunchedTask, Pipeline, Task
from .memory_planning import size_of

MAIN = "gpu"
"""The queue of launches that name none."""


def launch_pipeline(
    function: Operation, kernels: Mapping[str, Operation], extents: Mapping[str, int]
) -> tuple[Pipeline, tuple[LaunchedTask, ...]]:
    """Return the pipeline of a lowered graph.func, and of each task which launches it is.

    `extents` bound the symbols in types of activations, as for `plan-memory`: those that share
    memory with what another queue touches are the same slot.
    """
    calls = [op for op in function.regions[0].operations
             if op.name in {"graph.call", "graph.library"}]  # fmt: skip
    touched = [_Touched.of(call, kernels) for call in calls]
    same = _same_memory(function, calls, extents)
    builder = _Builder()
    for number, (call, each) in enumerate(zip(calls, touched, strict=True)):
        builder.add(number, _queue(call), _renamed(each.reads, same), _renamed(each.writes, same))
    return builder.finish(f"{function['name'].name}-launches")


def _queue(call: Operation) -> str:
    queue = call.attribute("queue")
    return queue.name if queue is not None else MAIN


@dataclass(frozen=True)
class _Touched:
    """The slots that one launch reads and writes: values by name, layers' memory as `k<3>`."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @staticmethod
    def of(call: Operation, kernels: Mapping[str, Operation]) -> _Touched:
        if call.name == "graph.library":
            names = [value.name for value in call.operands]
            return _Touched(tuple(names), tuple(value.name for value in call.results))
        kernel = kernels[call["kernel"].name]
        buffers = [value for value in kernel.regions[0].arguments]
        reads, writes = [], []
        for value, term in zip(buffers, call["arguments"], strict=True):
            if value.type.name == "buffer":
                written = value.name in kernel["writes"]
                (writes if written else reads).append(_slot(call, term))
        return _Touched(tuple(reads), tuple(writes))


def _slot(call: Operation, term: Term) -> str:
    if term.name in {"in", "flat", "out"}:
        values = call.results if term.name == "out" else call.operands
        return values[term.parameters[0]].name  # type: ignore[index]
    return str(term.name) + "".join(f".{number}" for number in term.parameters)


def _renamed(slots: Iterable[str], same: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {name for slot in slots for name in same.get(slot, (slot,))}


def _same_memory(
    function: Operation, calls: list[Operation], extents: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    """Return, of each activation in the arena, those that another queue touches in its bytes."""
    values = {value.name: value for call in calls for value in call.results}
    offsets = dict(function["memory"]["offsets"].items)
    ranges = {name: (offsets[name], offsets[name] + size_of(value, extents))
              for name, value in values.items() if name in offsets}  # fmt: skip
    apart = {value.name for call in calls if _queue(call) != MAIN
             for value in (*call.operands, *call.results) if value.name in ranges}  # fmt: skip
    found = {}
    for name, (low, high) in ranges.items():
        shared = [other for other in apart if low < ranges[other][1] and ranges[other][0] < high]
        if shared:
            found[name] = tuple(sorted(shared))
    return found


@dataclass
class _Open:
    """A task under construction: its first launch, the tasks it waits for, all known to be done."""

    queue: str
    first: int
    waits: tuple[int, ...]
    done: set[int]
    reads: dict[str, str] = field(default_factory=dict)
    writes: set[str] = field(default_factory=set)


BEFORE = "before"
"""What a slot holds that no launch of the step has written."""


@dataclass
class _Builder:
    """Cuts launches into tasks, in order; every task that writes a slot makes a version of it."""

    tasks: list[Task] = field(default_factory=list)
    spans: list[LaunchedTask] = field(default_factory=list)
    _open: _Open | None = None
    _end: int = 0
    _done: list[set[int]] = field(default_factory=list)  # of each task, those before it
    _last: dict[str, int] = field(default_factory=dict)  # of each queue
    _writer: dict[str, int] = field(default_factory=dict)
    _readers: dict[str, set[int]] = field(default_factory=dict)

    def add(self, number: int, queue: str, reads: set[str], writes: set[str]) -> None:
        """Take one launch."""
        now = self._open
        if now is None or now.queue != queue or self._missing(queue, now.done, reads, writes):
            self.close()
            now = self._open = self._begin(number, queue, reads, writes)
        for slot in reads - now.writes:
            writer = self._writer.get(slot)
            now.reads[slot] = BEFORE if writer is None else self.tasks[writer].name
        now.writes |= writes
        self._end = number + 1

    def _begin(self, number: int, queue: str, reads: set[str], writes: set[str]) -> _Open:
        done: set[int] = set()
        if queue in self._last:
            done |= {self._last[queue], *self._done[self._last[queue]]}
        waits = self._missing(queue, done, reads, writes)
        for wait in waits:
            done |= {wait, *self._done[wait]}
        return _Open(queue, number, tuple(sorted(waits)), done)

    def _missing(
        self, queue: str, done: set[int], reads: set[str], writes: set[str]
    ) -> set[int]:  # fmt: skip
        """Return the tasks that a launch must find done, and cannot: the last of them alone."""
        wanted = {self._writer[slot] for slot in reads | writes if slot in self._writer}
        wanted |= {reader for slot in writes for reader in self._readers.get(slot, ())}
        wanted = {n for n in wanted if self.tasks[n].queue != queue and n not in done}
        return {n for n in wanted if not any(n in self._done[other] for other in wanted)}

    def close(self) -> None:
        """End the task under construction."""
        now, number = self._open, len(self.tasks)
        if now is None:
            return
        name = f"{now.queue}{number}"
        waits = tuple(self.tasks[wait].name for wait in now.waits)
        for slot in now.writes:
            self._writer[slot], self._readers[slot] = number, set()
        for slot in now.reads.keys() - now.writes:
            self._readers.setdefault(slot, set()).add(number)
        kind = Kind.LAUNCHES if now.queue == MAIN else Kind.KV_UP
        writes = dict.fromkeys(now.writes, name)
        self.tasks.append(Task(name, kind, now.queue, 0, reads=_accesses(now.reads),
                               writes=_accesses(writes), waits=waits))  # fmt: skip
        self.spans.append(LaunchedTask(name, now.queue, now.first, self._end, waits))
        self._done.append(now.done)
        self._last[now.queue] = number
        self._open = None

    def finish(self, name: str) -> tuple[Pipeline, tuple[LaunchedTask, ...]]:
        """Return the pipeline and its tasks' launches."""
        self.close()
        found = {a.slot for task in self.tasks for a in task.reads if a.holds == BEFORE}
        holds = tuple(Access(slot, BEFORE) for slot in sorted(found))
        return Pipeline(name, 1, 1, tuple(self.tasks), holds), tuple(self.spans)


def _accesses(found: Mapping[str, str]) -> tuple[Access, ...]:
    return tuple(Access(slot, holds) for slot, holds in sorted(found.items()))
