"""Pipelines as data: the tasks of one model step over queues, what they read, write and wait for.

A queue runs its tasks in the order listed; tasks of different queues run at the same time unless
one waits for the event of another. A slot is memory that one task at a time may write. An access
names the slot and what it must hold, so a pipeline says for itself what would be a hazard: a read
that finds anything else. `passes.graph.hazards` proves that none can happen, whatever tasks take.

Letters of CGOPipe (MoE-Lightning, ASPLOS 2025, algorithm 1) in brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from ..core import Module, Operation, Region, Symbol, Term, make
from ..diagnostics import PassError


class BrokenPipeline(PassError):
    """A pipeline whose tasks do not fit together."""

    template = "pipeline {pipeline}: {problem}"


class Kind(StrEnum):
    """What a task does; i is its layer, j its micro-batch, p a page of expert weights."""

    EMBED = "embed"
    """Looks up the tokens of j: writes the residual stream x(0, j)."""
    PRE = "pre"
    """[A] Norm and projections of x(i, j) to q, k and v, on the GPU."""
    QKV_DOWN = "qkv_down"
    """[Q, D1] q, k and v of j to host memory."""
    APPEND = "append"
    """Rotates q and k, and writes k and v of j to the pages of its sequences."""
    ATTEND = "attend"
    """[B] Attention of j over the pages of its sequences."""
    SEEN_UP = "seen_up"
    """[h, D2] The attention output of j to GPU memory."""
    ROUTE = "route"
    """[C, first part] Output projection, residual, norm, router: which experts j's tokens take."""
    EXPERTS = "experts"
    """[C, second part] The experts whose pages are listed, for j's tokens, on the GPU."""
    COMBINE = "combine"
    """[C, last part] The weighted sum of the experts' rows: writes x(i + 1, j)."""
    PAGE = "page"
    """[D, D3] Pages of expert weights from host memory to the GPU's ring."""
    STAGE = "stage"
    """[S] Pages from pageable to pinned memory, by the CPU."""
    READ = "read"
    """Pages from disk to host memory."""
    ROUTED_DOWN = "routed_down"
    """The rows that CPU experts multiply, and the routing of j, to host memory."""
    CPU_EXPERTS = "cpu_experts"
    """[E] The experts of layer i that the CPU computes, for j's tokens."""
    ROWS_UP = "rows_up"
    """What the CPU's experts gave, to GPU memory."""
    KV_UP = "kv_up"
    """[D4] Keys and values of j's sequences to GPU memory, where attention is computed there."""
    KV_DOWN = "kv_down"
    """New keys and values of j to host memory, where attention is computed on the GPU."""
    LAUNCHES = "launches"
    """Launches of a lowered step, one after another, up to where something must be waited for."""
    HEAD = "head"
    """Logits of j's rows."""


class Access(NamedTuple):
    """A slot, and what it holds when read or once written; text form `slot=holds`."""

    slot: str
    holds: str

    def __str__(self) -> str:
        return f"{self.slot}={self.holds}"

    @staticmethod
    def of(text: str) -> Access:
        """Read `slot=holds`."""
        slot, _, holds = text.partition("=")
        return Access(slot, holds)


@dataclass(frozen=True)
class Task:
    """One task: where it is queued, what it touches, and whose events it waits for.

    `waits` are names of tasks launched before. Where `event_queue` is set, the event that others
    wait for is recorded there and not on the task's own queue: it then says that whatever was
    launched on *that* queue is done (what the published code does by mistake). `micro_batch` is -1
    where a task belongs to none.
    """

    name: str
    kind: Kind
    queue: str
    layer: int
    micro_batch: int = -1
    pages: tuple[int, ...] = ()
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()
    waits: tuple[str, ...] = ()
    event_queue: str = ""

    def __str__(self) -> str:
        parts = [f"{self.queue:>12} {self.name}"]
        for word, items in (("reads", self.reads), ("writes", self.writes), ("waits", self.waits)):
            parts += [f"{word} {' '.join(map(str, items))}"] if items else []
        return "  ".join(parts)


class LaunchedTask(NamedTuple):
    """A task that is launches [first, end) of a lowered step, and the tasks that it waits for."""

    name: str
    queue: str
    first: int
    end: int
    waits: tuple[str, ...]


@dataclass(frozen=True)
class Pipeline:
    """The tasks of one step in the order they are launched; waits point backwards.

    `holds` says what slots hold before the first task. Tasks of layer `layers` are of the next
    step: pages of its first layer, copied ahead.
    """

    name: str
    layers: int
    micro_batches: int
    tasks: tuple[Task, ...]
    holds: tuple[Access, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Task]:
        """The tasks by name."""
        return {task.name: task for task in self.tasks}

    @cached_property
    def queues(self) -> dict[str, tuple[Task, ...]]:
        """The tasks of each queue, in its order; queues in order of first use."""
        found: dict[str, list[Task]] = {}
        for task in self.tasks:
            found.setdefault(task.queue, []).append(task)
        return {queue: tuple(tasks) for queue, tasks in found.items()}

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """Every slot, in order of first mention."""
        accesses = (a for task in self.tasks for a in (*task.reads, *task.writes))
        return tuple(dict.fromkeys(a.slot for a in (*self.holds, *accesses)))

    def of_kind(self, *kinds: Kind) -> Iterator[Task]:
        """Yield the tasks of some kinds, in launch order."""
        return (task for task in self.tasks if task.kind in kinds)

    def predecessors(self) -> dict[str, tuple[str, ...]]:
        """Return, for each task, the tasks that must be done before it starts: edges, not closure.

        The one before it on its queue, and what the events that it waits for stand for. Raises
        BrokenPipeline where names are not unique or a wait does not point backwards.
        """
        last: dict[str, str] = {}
        covered: dict[str, tuple[str, ...]] = {}
        edges: dict[str, tuple[str, ...]] = {}
        for task in self.tasks:
            if task.name in edges:
                raise BrokenPipeline(pipeline=self.name, problem=f"two tasks {task.name}")
            before = [last[task.queue]] if task.queue in last else []
            for wait in task.waits:
                if wait not in covered:
                    problem = f"{task.name} waits for {wait}, which is not launched before it"
                    raise BrokenPipeline(pipeline=self.name, problem=problem)
                before += covered[wait]
            edges[task.name] = tuple(dict.fromkeys(before))
            if task.event_queue and task.event_queue != task.queue:
                covered[task.name] = tuple(filter(None, [last.get(task.event_queue)]))
            else:
                covered[task.name] = (task.name,)
            last[task.queue] = task.name
        return edges

    def __str__(self) -> str:
        head = f"{self.name}: {self.layers} layers, {self.micro_batches} micro-batches"
        held = "  before: " + " ".join(map(str, self.holds)) if self.holds else ""
        return "\n".join([head + held, *map(str, self.tasks)]) + "\n"

    def operation(self) -> Operation:
        """Return the pipeline as graph IR, whose text form reads back."""
        tasks = tuple(_operation(task) for task in self.tasks)
        return make(
            "graph.pipeline", name=Symbol(self.name), layers=self.layers,
            micro_batches=self.micro_batches, holds=[str(access) for access in self.holds] or None,
            regions=(Region((), tasks),),
        )  # fmt: skip

    def module(self) -> Module:
        """Return a module of this pipeline alone."""
        return Module((self.operation(),))

    @staticmethod
    def of(operation: Operation) -> Pipeline:
        """Return the pipeline that a `graph.pipeline` stands for: the inverse of `operation`."""
        name = operation["name"].name
        return Pipeline(
            name, operation["layers"], operation["micro_batches"],
            tuple(_task(inner, name) for inner in operation.regions[0].operations),
            _accesses(operation.attribute("holds")),
        )  # fmt: skip


def _operation(task: Task) -> Operation:
    lists = {"pages": task.pages, "reads": task.reads, "writes": task.writes, "waits": task.waits}
    texts: dict[str, Any] = {
        key: [_plain(item) for item in items] for key, items in lists.items() if items
    }
    number = None if task.micro_batch < 0 else task.micro_batch
    return make(
        "graph.task", name=task.name, kind=Term(task.kind.value), queue=Term(task.queue),
        layer=task.layer, micro_batch=number, event_queue=task.event_queue or None, **texts,
    )  # fmt: skip


def _plain(item: int | str | Access) -> int | str:
    return str(item) if isinstance(item, Access) else item


def _task(operation: Operation, pipeline: str) -> Task:
    get = operation.attribute
    kind = operation["kind"].name
    if kind not in set(Kind):
        known = ", ".join(Kind)
        raise BrokenPipeline(
            pipeline=pipeline, problem=f"task {operation['name']} is of no kind that is: {kind!r}",
            hint=f"the kinds are: {known}", span=operation.span,
        )  # fmt: skip
    return Task(
        operation["name"], Kind(kind), operation["queue"].name, operation["layer"],
        get("micro_batch", -1), get("pages", ()), _accesses(get("reads")), _accesses(get("writes")),
        get("waits", ()), get("event_queue", ""),
    )  # fmt: skip


def _accesses(texts: Iterable[str] | None) -> tuple[Access, ...]:
    return tuple(Access.of(text) for text in texts or ())
