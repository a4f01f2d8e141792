"""The processes of a tensor-parallel run: how they meet, and what the first tells the others.

Rank 0 schedules, samples, calls tools and writes results. The others hold their part of the model
and run the steps that it announces: nothing is decided twice, so nothing can be decided otherwise.
A step travels as one message through gloo; its tensors are exchanged through NCCL between GPUs.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from ...ir.diagnostics import WeftError
from .rank_lives import Lives, named
from .step import StepInput

PATIENCE = timedelta(days=7)
"""How long a rank waits: rank 0 may have tools to call. A rank that dies is heard of at once."""

NCCL_BYTES = 1 << 30
"""Memory of a GPU that is left for exchanges: NCCL takes more where graphs are recorded."""

INLINE = 4096
"""Integers of a message that travel with its header; the rest follows in a second one."""

COLUMNS = 64
"""Columns of a page table that are sent are a multiple of this, or all: few sizes come again."""

STOP, COPY_PAGE, STEP, AGAIN, COPY_SLOTS = range(5)


class NotLaunched(WeftError):
    """A tensor-parallel run in another number of processes than ranks."""

    kind = "device error"
    template = "tp = {count} needs {count} processes, and {found}"
    hint = "start it as: torchrun --nproc-per-node {count} -m weft run FILE --tp {count}"


class SecondModel(WeftError):
    """A second tensor-parallel model in one process."""

    kind = "device error"
    template = "the ranks of this run serve a model already; with tp a process has one"
    hint = "run the other program in a run of its own"


class RankLost(WeftError):
    """A rank that does not answer any more."""

    kind = "device error"
    abrupt = True  # gloo's threads that wait for it end the process by a signal otherwise
    template = "rank {rank} of {count} lost {lost}: {problem}"
    hint = (
        "what was lost says above why it ended; rows that are done stand in the journal: run "
        "the same command again"
    )


def require_launched(count: int, launched: int) -> None:
    """Raise NotLaunched unless there are as many processes as ranks."""
    if launched != count:
        found = "there is one" if launched == 1 else f"there are {launched}"
        raise NotLaunched(count=count, found=found)


def take_gpu(gpu: int | None) -> None:
    """Let what this process does on a GPU be on that of its number; None: it is on none."""
    if gpu is not None:
        torch.cuda.set_device(gpu)


def join(gpu: int | None) -> None:
    """Meet the other ranks, once a process; raises SecondModel.

    `gpu` is the number of this process's GPU, None on a CPU.
    """
    if distributed.is_initialized():
        raise SecondModel()
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # no NVLink multicast
    backend = "gloo"
    if gpu is not None:
        take_gpu(gpu)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
    store.set_timeout(PATIENCE)
    distributed.init_process_group(
        backend, timeout=PATIENCE, store=store, rank=rank, world_size=count
    )
    _lives.append(Lives(store))
    _lives[-1].know(exchange(_lives[-1].own()))
    if gpu is not None:
        _connect(torch.device("cuda", gpu))


_lives: list[Lives] = []
"""Who lives of the ranks that were met: one, or none."""

_before_end: list[Callable[[], None]] = []


def before_end(act: Callable[[], None]) -> None:
    """Let something be done before the ranks part: recorded graphs hold a communicator, and NCCL
    waits for them for ever."""
    _before_end.append(act)


def leave() -> None:
    """Part from the other ranks, which do the same."""
    while _before_end:
        _before_end.pop()()
    while _lives:
        _lives.pop().close()
    distributed.destroy_process_group()


def _connect(device: torch.device) -> None:
    """Exchange something small and something large, so that NCCL takes its memory now: what is
    free later belongs to keys and values."""
    for size in (256, 1 << 24):
        values = torch.zeros(size, dtype=torch.bfloat16, device=device)
        with peers():
            distributed.all_reduce(values)
            distributed.broadcast(values, 0)
            found = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
            distributed.all_gather(found, values)
    del values, found
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()


@contextmanager
def peers() -> Iterator[None]:
    """Say that another rank is lost where an exchange with it fails."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            rank=distributed.get_rank(), count=distributed.get_world_size(),
            lost=named(_lives[-1].lost() if _lives else []),
            problem=str(error).splitlines()[0],
        ) from error  # fmt: skip


def least(number: int) -> int:
    """Return the smallest number that a rank gives: what all have."""
    if not distributed.is_initialized():
        return number
    box = torch.tensor([number])
    with peers():
        distributed.all_reduce(box, distributed.ReduceOp.MIN)
    return int(box)


def exchange(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all ranks, in order, for one of the same shape from each."""
    found = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    with peers():
        distributed.all_gather(found, tensor.contiguous())
    return found


class Channel:
    """Messages from rank 0 to all others: a kind, and arrays of int32."""

    def __init__(self) -> None:
        self._first = torch.zeros(INLINE, dtype=torch.int32)

    def send(self, kind: int, *arrays: np.ndarray) -> None:
        """Send a message; the others must `receive`."""
        head = np.array([kind, len(arrays), *(array.size for array in arrays)], np.int32)
        body = np.concatenate([head, *(array.reshape(-1) for array in arrays)])
        first = self._first.numpy()
        first[: min(INLINE, len(body))] = body[:INLINE]
        with peers():
            distributed.broadcast(self._first, 0)
            if len(body) > INLINE:
                distributed.broadcast(torch.from_numpy(body[INLINE:].copy()), 0)

    def receive(self) -> tuple[int, list[np.ndarray]]:
        """Return the next message of rank 0."""
        with peers():
            distributed.broadcast(self._first, 0)
            first = self._first.numpy()
            kind, count = first[:2].tolist()
            sizes = first[2 : 2 + count].tolist()
            missing = 2 + count + sum(sizes) - INLINE
            body = first
            if missing > 0:
                rest = torch.zeros(missing, dtype=torch.int32)
                distributed.broadcast(rest, 0)
                body = np.concatenate([first, rest.numpy()])
        ends = np.cumsum([2 + count, *sizes])
        return kind, [body[low:high].copy() for low, high in zip(ends[:-1], ends[1:], strict=True)]


class Announcer:
    """What an executor of rank 0 tells before it acts, so that every rank does the same."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._channel = Channel()
        self._open = True
        atexit.register(self.close)

    def step(self, step: StepInput, source: np.ndarray | None) -> None:
        """Announce a step; `source` as an executor that runs ahead takes it."""
        arrays = {name: getattr(step, name).numpy() for name in _PARTS}
        pages = -(-int(arrays["kv_lengths"].max()) // self._page_size)
        arrays["page_table"] = arrays["page_table"][:, : -(-pages // COLUMNS) * COLUMNS]
        if step.copies is not None:
            self._channel.send(COPY_SLOTS, step.copies.numpy().ravel())
        self._channel.send(STEP, *arrays.values(), *(() if source is None else (source,)))

    def copy_page(self, source: int, target: int) -> None:
        """Announce the copy of a page."""
        self._channel.send(COPY_PAGE, np.array([source, target], np.int32))

    def again(self, times: int) -> None:
        """Announce that the last recorded step runs again, so many times."""
        self._channel.send(AGAIN, np.array([times], np.int32))

    def close(self) -> None:
        """Let the others end; they wait for this when rank 0 ends, however it does."""
        if self._open and distributed.is_initialized():
            self._open = False
            try:
                self._channel.send(STOP)
            except RankLost:
                return  # there is nobody to tell
            leave()


def announcer(page_size: int) -> Announcer | None:
    """Return what tells the other ranks, where there are some and this is the first."""
    if not distributed.is_initialized() or distributed.get_rank():
        return None
    return Announcer(page_size)


def follow(executor: Any) -> None:
    """Run what rank 0 announces, until it ends."""
    channel, steps, copies = Channel(), _Steps(), None
    while True:
        kind, arrays = channel.receive()
        if kind == STOP:
            leave()
            return
        if kind == COPY_PAGE:
            executor.copy_page(*arrays[0].tolist())
        elif kind == COPY_SLOTS:  # of the step that comes next
            copies = torch.from_numpy(arrays[0].reshape(2, -1))
        elif kind == AGAIN:
            executor.run_again(int(arrays[0][0]))
        else:
            step, source = steps.of(arrays)
            step, copies = (step if copies is None else replace(step, copies=copies)), None
            executor.forward(step, *(() if source is None else (source,)))


_PARTS = tuple(item.name for item in fields(StepInput) if item.name not in {"reads", "copies"})


class _Steps:
    """Steps of equal sizes in the same tensors, so that an executor knows them again."""

    MOST = 512

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], StepInput] = {}

    def of(self, arrays: list[np.ndarray]) -> tuple[StepInput, np.ndarray | None]:
        count = len(_PARTS)
        sizes = tuple(len(array) for array in arrays[:count])
        if sizes not in self._known:
            if len(self._known) >= self.MOST:
                self._known.clear()
            rows = len(arrays[_PARTS.index("kv_lengths")])
            blanks: dict[str, Tensor] = {
                name: torch.zeros(size, dtype=torch.int32)
                for name, size in zip(_PARTS, sizes, strict=True)
            }
            blanks["page_table"] = blanks["page_table"].view(rows, -1)
            self._known[sizes] = StepInput(**blanks)
        step = self._known[sizes]
        for name, array in zip(_PARTS, arrays, strict=False):
            getattr(step, name).numpy().reshape(-1)[:] = array
        return step, arrays[count] if len(arrays) > count else None
