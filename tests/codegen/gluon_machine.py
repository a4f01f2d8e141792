"""Runs emitted Gluon on a CPU: each part of a program is a thread, and they take turns.

Gluon has no interpreter. Here a product reads its operands only when it is waited for, and a copy
overwrites its place at once: what a part does not wait for, or lets go too early, is seen in the
results. Parts that all wait for each other are an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from weft.codegen.triton.emit import emit
from weft.ir.core import Operation
from weft.ir.schedule import Schedule


class AllWait(Exception):
    """Every part of a program waits for another one."""


@dataclass
class Pointer:
    """Places in a buffer."""

    buffer: torch.Tensor
    at: Any = 0

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.buffer, self.at + more)


@dataclass
class Shared:
    """A tile in shared memory, or a row of them."""

    data: torch.Tensor

    def index(self, at: Any) -> Shared:
        return Shared(self.data[int(at)])

    def slice(self, first: int, size: int) -> Shared:
        return Shared(self.data[first : first + size])

    def permute(self, axes: Iterable[int]) -> Shared:
        return Shared(self.data.permute(*axes))

    def load(self, layout: object) -> torch.Tensor:
        return self.data.clone()

    def store(self, value: torch.Tensor) -> None:
        assert value.shape == self.data.shape and value.dtype == self.data.dtype
        self.data.copy_(value)


@dataclass
class Barrier:
    """Counts arrivals, and bytes that are on their way, of a phase."""

    count: int = 0
    left: int = 0
    bytes: int = 0
    phase: int = 0

    def step(self, arrivals: int, bytes: int) -> None:
        self.left, self.bytes = self.left - arrivals, self.bytes + bytes
        assert self.left >= 0
        if not (self.left or self.bytes):
            self.phase, self.left = self.phase + 1, self.count


@dataclass
class Product:
    """A product that is begun: its operands are read when it is done."""

    left: Any
    right: Shared
    acc: Any
    use_acc: bool
    result: torch.Tensor | None = None

    def _early(self, *_: object) -> None:
        raise AssertionError("a product is used before it is waited for")

    __getattr__ = __add__ = __radd__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _early
    __torch_function__ = _early

    def finish(self) -> None:
        left = self.left.data if isinstance(self.left, Shared) else self.left
        assert left.dtype == self.right.data.dtype
        before = self.acc.result if isinstance(self.acc, Product) else self.acc
        found = left.float() @ self.right.data.float()
        self.result = found + before if self.use_acc else found  # type: ignore[operator]


@dataclass
class Machine:
    """The parts of a program: one runs until it waits, then the next, so that every run is alike.
    The copying part is the last: those that compute begin before anything is there."""

    program: tuple[int, ...] = (0, 0, 0)
    turn: threading.Condition = field(default_factory=threading.Condition)
    alive: list[int] = field(default_factory=list)
    """Parts that have not ended, the one whose turn it is first."""
    waiting: int = 0
    stuck: bool = False
    own: threading.local = field(default_factory=threading.local)
    given: list[torch.Tensor] = field(default_factory=list)
    waited: bool = False

    def changed(self, barrier: Barrier, arrivals: int, bytes: int = 0) -> None:
        with self.turn:
            barrier.step(arrivals, bytes)
            self.waiting = 0

    def wait(self, barrier: Barrier, phase: Any, pred: Any = True) -> None:
        while bool(pred) and barrier.phase % 2 == int(phase):
            self.waiting += 1
            self.stuck = self.stuck or self.waiting == len(self.alive)
            if not self.stuck:
                self.alive.append(self.alive.pop(0))
                self.turn.notify_all()
                self.turn.wait_for(lambda: self.alive[0] == self.own.part)
            if self.stuck:
                raise AllWait()

    def specialised(
        self, parts: list[tuple[Callable[..., None], tuple[Any, ...]]], *_: object
    ) -> None:  # fmt: skip
        failed: list[BaseException] = []

        def run(number: int, part: Callable[..., None], arguments: tuple[Any, ...]) -> None:
            with self.turn:
                self.own.part, self.own.begun = number, []
                self.turn.wait_for(lambda: self.alive[0] == number)
                try:
                    part(*arguments)
                except BaseException as error:
                    failed.append(error)
                    self.stuck = True
                del self.alive[0]
                self.stuck = self.stuck or self.waiting == len(self.alive)
                self.turn.notify_all()

        self.alive, self.waiting, self.stuck = [*range(len(parts))], 0, False
        threads = [threading.Thread(target=run, args=(number, *part), daemon=True)
                   for number, part in enumerate(parts)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise next((e for e in failed if not isinstance(e, AllWait)), failed[0])

    # What the text calls

    def multiply(
        self, left: Any, right: Shared, acc: Any, use_acc: bool = True, is_async: bool = False
    ) -> Product:  # fmt: skip
        assert is_async
        begun = Product(left, right, acc, use_acc)
        self.own.begun.append(begun)
        return begun

    def finished(self, left: int, deps: list[Any]) -> Any:
        begun = self.own.begun
        while len(begun) > left:
            begun.pop(0).finish()
        found = [each.result if isinstance(each, Product) and each.result is not None else each
                 for each in deps]  # fmt: skip
        return tuple(found) if len(found) > 1 else found[0]

    def copied(
        self, pool: Any, place: list[Any], barrier: Barrier, into: Shared
    ) -> None:  # fmt: skip
        assert self.waited or any(pool.rows.data_ptr() == each.data_ptr() for each in self.given)
        row, column = map(int, place)
        rows, wide = into.data.shape
        assert pool.block == [rows, wide]
        found = torch.zeros_like(into.data)  # what is past the pool's end
        there = pool.rows[row : row + rows, column : column + wide]
        found[: there.shape[0], : there.shape[1]] = there
        into.store(found)
        self.changed(barrier, 0, -into.data.numel() * into.data.element_size())

    def barriers(self) -> SimpleNamespace:
        def begin(barrier: Barrier, count: int) -> None:
            barrier.count = barrier.left = count

        return SimpleNamespace(
            MBarrierLayout=lambda: "barriers",
            init=begin,
            wait=self.wait,
            expect=lambda barrier, bytes: self.changed(barrier, 1, bytes),
            arrive=lambda barrier, count=1, pred=True: bool(pred) and self.changed(barrier, count),
        )

    def language(self) -> SimpleNamespace:
        def shared(dtype: torch.dtype, shape: list[int], layout: object) -> Any:
            if layout == "barriers":
                made = [Barrier() for _ in range(shape[0])]
                return SimpleNamespace(index=lambda at: made[int(at)])
            return Shared(torch.full(shape, torch.nan, dtype=dtype))

        def load(pointer: Pointer, mask: Any = None, other: Any = 0) -> torch.Tensor:
            at = torch.as_tensor(pointer.at)
            if mask is None:
                return pointer.buffer[at]
            at, mask = torch.broadcast_tensors(at, torch.as_tensor(mask))
            other = torch.tensor(other, dtype=pointer.buffer.dtype)
            return torch.where(mask, pointer.buffer[torch.where(mask, at, 0)], other)

        def store(pointer: Pointer, value: torch.Tensor, mask: torch.Tensor) -> None:
            at, value, mask = torch.broadcast_tensors(pointer.at, value, mask)
            assert value.dtype == pointer.buffer.dtype
            pointer.buffer[at[mask]] = value[mask]

        def both(function: Any) -> Any:
            return lambda a, b: function(torch.as_tensor(a), torch.as_tensor(b))

        names = "float32 bfloat16 float16 int32 int64".split()
        layouts = "SliceLayout NVMMASharedLayout NVMMADistributedLayout DotOperandLayout".split()
        return SimpleNamespace(
            **{name: getattr(torch, name) for name in names},
            **{name: lambda *given, **named: given for name in (*layouts, "BlockedLayout")},
            constexpr=lambda value: SimpleNamespace(value=value),
            static_range=range, program_id=lambda axis: self.program[axis],
            to_tensor=lambda value: torch.tensor(value, dtype=torch.int32),
            arange=lambda low, high, layout: torch.arange(low, high, dtype=torch.int32),
            full=lambda shape, value, dtype, layout: torch.full(shape, value, dtype=dtype),
            cast=lambda value, dtype: torch.as_tensor(value).to(dtype),
            convert_layout=lambda value, layout: value,
            expand_dims=lambda value, axis: value.unsqueeze(axis), exp2=torch.exp2,
            where=lambda test, yes, no: torch.where(torch.as_tensor(test), yes, no),
            max=lambda value, axis: value.amax(axis), min=lambda value, axis: value.amin(axis),
            sum=lambda value, axis: value.sum(axis), maximum=both(torch.maximum),
            minimum=both(torch.minimum), load=load, store=store, allocate_shared_memory=shared,
            warp_specialize=self.specialised,
        )  # fmt: skip


def run_gluon(
    kernel: Operation, given: list[Any], schedule: Schedule, edit: Callable[[str], str] = str
) -> list[Any]:  # fmt: skip
    """Return the arguments as they are after a kernel's Gluon ran, arrays of bf16 as u16; `edit`
    changes the text before."""
    machine = Machine()
    chained = SimpleNamespace(gdc_wait=lambda: setattr(machine, "waited", True),
                              gdc_launch_dependents=lambda: None)  # fmt: skip
    names = {
        "gluon": SimpleNamespace(jit=lambda *of, **named: of[0] if of else lambda jitted: jitted),
        "tl": machine.language(), "extra": SimpleNamespace(cuda=chained),
        "mbarrier": machine.barriers(), "warpgroup_mma": machine.multiply,
        "warpgroup_mma_wait": machine.finished, "copied": machine.copied,
        "fence_async_shared": lambda: None,
        "TensorDescriptor": lambda pool, shape, strides, block, *_: SimpleNamespace(
            rows=pool.buffer.view(*shape), block=block
        ),
    }  # fmt: skip
    text = edit(emit(kernel, schedule).text)
    exec(text[text.index("SHARED =") :], names)  # what stands before are imports
    buffers = [_tensor(each) if isinstance(each, np.ndarray) else each for each in given]
    passed = [Pointer(each) if isinstance(each, torch.Tensor) else each for each in buffers]
    for pointer in passed:
        if isinstance(pointer, Pointer):
            pointer.data_ptr = lambda: 0  # type: ignore[attr-defined]
    arguments = kernel.regions[0].arguments
    machine.given = [buffer for value, buffer in zip(arguments, buffers, strict=True)
                     if value.name in (kernel.attribute("given") or ())]  # fmt: skip
    for machine.program in product(*map(range, names["grid"](*passed))):
        machine.waited = not schedule.chained
        names[kernel["name"].name](*names["described"](*passed))
    return [_array(value, like) for value, like in zip(buffers, given, strict=True)]


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).flatten()
    return torch.from_numpy(array.copy()).flatten()


def _array(value: Any, like: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(np.uint16).reshape(like.shape)
    return value.numpy().reshape(like.shape)
