"""The interpreter's part of a pipeline: every task is started by its queue's thread, in Python.

A task of a device is started once those that it waits for are started there or, on the host, done;
it runs once they have run. So starts overlap with what runs before, and delay what has nothing to
overlap with: a chain of small tasks, such as a micro-batch on its way through a layer. All threads
share one interpreter. The published model has no such term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...ir.offload.pipeline import Kind, Pipeline, Task
from ..simulate import Cost, Timeline, simulate
from .machine import HostedGpu

CALLS = {
    "embed": 1, "pre": 2, "qkv_down": 2, "append": 1, "attend": 1, "seen_up": 2, "route": 6,
    "experts": 2, "combine": 1, "routed_down": 4, "cpu_experts": 2, "rows_up": 2, "head": 3,
    "page": 2, "kv_up": 2, "kv_down": 2,
}  # fmt: skip
"""What a task calls from Python: kernels, products of a library, copies and their conversions."""

HOST_QUEUES = frozenset({"cpu", "cpu_experts", "disk", "stage"})
"""Queues whose work is done by the host's cores; the others launch on streams."""

BLOCKING = frozenset({Kind.KV_DOWN})
"""Tasks of a device whose thread waits until they have run: what it brings is put to its place."""

RESUMED = 3e-4
"""Seconds from the end of a small copy up to the next piece of a page, where pages have a queue of
their own: its thread looks again and again, and calls from Python. Traced: 0.24 and 0.4 ms on an
H200."""

GATHERED = 2 / 3
"""Rate of a copy of pages of keys from where they lie scattered, over that of a plain copy: 33 GB/s
of 50, traced."""

INTERPRETER = "interpreter"
"""The resource that starts share: one second of it a second."""


CALLS_PER_PAGE = 12
"""What experts of the CPU call for each page: rows are taken, widened, multiplied, put back."""


def start_seconds(kind: str, machine: HostedGpu, pages: int = 0) -> float:
    """Return what the interpreter takes to start a task of a kind, in s; `pages` are the CPU's."""
    calls = CALLS.get(kind, 0) + CALLS_PER_PAGE * pages
    return machine.task_start + calls * machine.call_start


class Start(NamedTuple):
    """The start of a device's task, on the thread of its queue."""

    name: str
    queue: str


def start_of(task: Task) -> Start:
    """Return the start of a task."""
    return Start(f"{task.name} starts", f"{task.queue} starts")


def simulate_started(
    pipeline: Pipeline, costs: Mapping[str, Cost], capacities: Mapping[str, float],
    machine: HostedGpu, gathered: Mapping[str, Cost], cpu_pages: Sequence[int] = (),
) -> Timeline:  # fmt: skip
    """Return a pipeline's timeline where each start takes the interpreter a while.

    `gathered` is what the thread that starts a device's task does for it besides: bytes brought
    together in pinned memory before they are copied. `cpu_pages` are those of each layer that the
    CPU computes.
    """
    edges, priced = dict(pipeline.predecessors()), dict(costs)
    tasks: list[Task | Start] = []
    last: dict[str, str] = {}
    for task in pipeline.tasks:
        mine = task.kind == Kind.CPU_EXPERTS and cpu_pages
        pages = cpu_pages[task.layer % len(cpu_pages)] if mine else 0
        seconds = start_seconds(task.kind.value, machine, pages)
        if task.queue in HOST_QUEUES:
            priced[task.name] = _started(costs[task.name], seconds)
        else:
            start = start_of(task)
            tasks.append(start)
            before = [last[task.queue]] if task.queue in last else []
            before += [_launched(pipeline.by_name[name]) for name in task.waits]
            edges[start.name], last[task.queue] = tuple(before), _launched(task)
            edges[task.name] = (*edges[task.name], start.name)
            priced[start.name] = _started(gathered.get(task.name, Cost(0.0)), seconds)
        tasks.append(task)
    found = simulate(tasks, edges, priced, {**capacities, INTERPRETER: 1.0})
    names = {task.name for task in pipeline.tasks}
    return replace(
        found,
        start={name: at for name, at in found.start.items() if name in names},
        end={name: at for name, at in found.end.items() if name in names},
        queues={queue: tuple(t.name for t in tasks) for queue, tasks in pipeline.queues.items()},
    )


def _launched(task: Task) -> str:
    """Return whose end tells other threads that a task is launched."""
    waited = task.queue in HOST_QUEUES or task.kind in BLOCKING
    return task.name if waited else start_of(task).name


def _started(cost: Cost, seconds: float) -> Cost:
    return Cost(cost.seconds + seconds, {**cost.uses, INTERPRETER: seconds})
