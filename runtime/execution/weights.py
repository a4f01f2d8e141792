"""Weights: tensors of a checkpoint, checked, joined, and kept in a chosen format."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...ir.core import Module, Operation, thaw
from ...ir.diagnostics import ModelError
from ...ir.types import SCALED, dtype_of, shape_of, tensor
from ..devices.streams import mapped
from ..devices.zeros import ALIGNMENT
from .dtypes import TORCH
from .read_ahead import read_ahead
from .weight_files import Read, Shard, TensorSource, part_of


class NotFinite(ModelError):
    """Weights that are no numbers: every logit would be none, and every token the first one."""

    template = "{place}: {tensor} has {count:,} of {total:,} numbers that are not finite (NaN, Inf)"
    hint = "the file is corrupt, or training diverged; copy it again, or load another checkpoint"


def bounds_of(numbers: Tensor) -> Tensor:
    """Return the least and the largest of some numbers [2] f64, on their device, in one pass (6
    GB/s of a core). NaN and Inf survive in it."""
    numbers = numbers.float() if numbers.itemsize == 1 else numbers
    return torch.stack(torch.aminmax(numbers)).double()


def not_finite(numbers: Tensor, place: str, tensor: str) -> NotFinite:
    """Return the error of a tensor, or a part of one, that has such numbers."""
    count = int((~numbers.float().isfinite()).sum())
    return NotFinite(place=place, tensor=tensor, count=count, total=numbers.numel())


@dataclass(frozen=True)
class RandomTensors:
    """Random tensors, the same for a seed and a name: norms 1, biases 0, else scaled normal."""

    seed: int = 0
    device: str = "cpu"

    def read(self, name: str, shape: tuple[int, ...], shard: Shard | None = None) -> Tensor:
        """Return an f32 tensor; each device has a sequence of numbers of its own."""
        if shard is not None:
            return part_of(self.read(name, shape), shape, shard)
        if len(shape) == 1:
            fill = 0.0 if name.endswith("bias") else 1.0
            return torch.full(shape, fill, device=self.device)
        generator = torch.Generator(self.device)
        generator.manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        blank = torch.empty(shape, device=self.device)
        return blank.normal_(0.0, 1.0 / math.sqrt(shape[-1]), generator=generator)


@dataclass(frozen=True)
class Weight:
    """A weight as kernels read it: data in its format, and for 8 bits one f32 scale a row."""

    data: Tensor
    scale: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        scale = 0 if self.scale is None else self.scale.nbytes
        return self.data.nbytes + scale

    def dense(self) -> Tensor:
        """Return the numbers it stands for, f32."""
        data = self.data.float()
        return data if self.scale is None else data * self.scale[..., None]


Progress = Callable[[int, int], None]
"""Hears how many bytes of weights are loaded, and of how many."""


def load_weights(
    module: Module, source: TensorSource, device: str = "cpu", progress: Progress | None = None
) -> dict[str, Weight]:
    """Return the weights of a module's graph.weight operations, by value name, on a device.

    Parts are copied into the joined tensor one by one, so the peak is one tensor above the sum.
    Operations that name the same tensors in the same format share one weight. Raises ModelError:
    NotFinite once all are read, so that no device is waited for before.
    """
    operations = {_identity(op): op for op in module.walk() if op.name == "graph.weight"}
    copies = {key for key, op in operations.items() if _is_copy(op, operations)}
    total = sum(_bytes(op) for key, op in operations.items() if key not in copies)
    loaded: dict[tuple[Any, ...], Weight] = {}
    done, room = 0, _Room(device)
    with read_ahead(source, _all_reads(operations, copies)) as ahead:
        bounded = _Bounded(ahead)
        for key, operation in sorted(operations.items(), key=lambda pair: pair[0] in copies):
            usual = loaded[_identity(_usual(operation))] if key in copies else None
            loaded[key] = _load(operation, bounded, room, usual)
            if progress is not None and key not in copies:
                done += loaded[key].bytes
                progress(done, total)
    bounded.check()
    return {op.result.name: loaded[_identity(op)] for op in module.walk()
            if op.name == "graph.weight"}  # fmt: skip


def _is_copy(operation: Operation, operations: Mapping[tuple[Any, ...], Operation]) -> bool:
    """Return whether a weight is there as it is otherwise, too: then it is not read again."""
    packed = operation.attribute("packed") is not None
    return packed and _identity(_usual(operation)) in operations


def _all_reads(
    operations: Mapping[tuple[Any, ...], Operation], copies: Collection[tuple[Any, ...]]
) -> Iterator[Read]:
    """Yield what `_load` reads for all weights, in its order."""
    for key, operation in operations.items():
        if key not in copies:
            for _, read in reads_of(_whole(_usual(operation))):
                yield read


def weight_bytes(module: Module) -> int:
    """Return the bytes that a module's weights take, each counted once, scales included."""
    weights = (op for op in module.walk() if op.name == "graph.weight")
    return sum({_identity(op): _bytes(op) for op in weights}.values())


def _bytes(operation: Operation) -> int:
    shape, format = _shape(operation), dtype_of(operation.result.type)
    scales = 4 * math.prod(shape[:-1]) if format in SCALED else 0
    return math.prod(shape) * TORCH[format].itemsize + scales


def _shape(operation: Operation) -> tuple[int, ...]:
    return tuple(int(extent) for extent in shape_of(operation.result.type))  # type: ignore[arg-type]


def _identity(operation: Operation) -> tuple[Any, ...]:
    """Return what two `graph.weight` operations share that are one weight."""
    parts = (operation.attribute(name) for name in ("shard", "slices", "packed"))
    return (operation["tensors"], *parts, dtype_of(operation.result.type))


def _usual(operation: Operation) -> Operation:
    """Return a packed weight as it is otherwise: [K/P, N, P] as [N, K]."""
    if operation.attribute("packed") is None:
        return operation
    type = operation.result.type
    blocks, rows, width = (int(extent) for extent in shape_of(type))  # type: ignore[arg-type]
    result = replace(operation.result, type=tensor(dtype_of(type), rows, blocks * width))
    return replace(operation.with_attributes(packed=None), results=(result,))


SMALL = 4 << 20
"""Bytes of a weight that is copied to others on a CPU, for large pages: a step that reads a model
from many small pages waits for them (a step of 16 rows of tiny-dense took .95 of the time)."""


class _Room:
    """Memory for weights on a device; on a CPU in large pages, where small ones lie together."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._free = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor whose numbers are to be written."""
        if torch.device(self.device).type != "cpu":
            return torch.empty(shape, dtype=dtype, device=self.device)
        size = math.prod(shape) * dtype.itemsize
        if size > SMALL:
            return mapped(size).view(dtype).view(shape)
        if size > len(self._free):
            self._free = mapped(4 * SMALL)
        found, self._free = self._free[:size], self._free[-(-size // ALIGNMENT) * ALIGNMENT :]
        return found.view(dtype).view(shape)

    def keep(self, data: Tensor) -> Tensor:
        """Return a tensor on the device, contiguous: a small one of a CPU among others."""
        data = data.to(self.device)
        if data.device.type != "cpu" or data.nbytes > SMALL:
            return data.contiguous()
        return self.take(tuple(data.shape), data.dtype).copy_(data)


def _load(
    operation: Operation, source: TensorSource, room: _Room, usual: Weight | None = None
) -> Weight:
    """Return a weight; one that is packed is made of the `usual` one, where that is there."""
    if (width := operation.attribute("packed")) is not None:
        data = (usual or _load(_usual(operation), source, room)).data
        return Weight(data.unflatten(1, (-1, width)).transpose(0, 1).contiguous())
    if operation.attribute("slices") is not None:
        return _load_slices(operation, source, room)
    format = dtype_of(operation.result.type)
    if format not in SCALED and isinstance(operation["tensors"], str):
        ((_, read),) = reads_of(operation)
        return Weight(room.keep(source.read(*read).to(room.device, TORCH[format])))
    shape = _shape(operation)
    data = room.take(shape, TORCH[format])
    scale = torch.empty(shape[:-1], device=room.device) if format in SCALED else None
    for index, read in reads_of(operation):
        part = source.read(*read)
        if scale is None:
            data[index].copy_(part)
        else:
            data[index], scale[index] = quantize_rows(part.float(), format)
    return Weight(data, scale)


def _load_slices(operation: Operation, source: TensorSource, room: _Room) -> Weight:
    """Load experts whole, then cut them; a scale is then of a row of a slice."""
    axis, count = operation["slices"]
    format = dtype_of(operation.result.type)
    data = cut_slices(_load(_whole(operation), source, room).data, axis, count)
    return Weight(*quantize_rows(data, format)) if format in SCALED else Weight(data)


def _whole(operation: Operation) -> Operation:
    """Return a weight of slices as the experts that it is cut from, in f32 where rows are scaled
    anew."""
    if operation.attribute("slices") is None:
        return operation
    axis, count = operation["slices"]
    format, (e, n, k) = dtype_of(operation.result.type), _shape(operation)
    sizes = (e // count, n * count, k) if axis == 0 else (e // count, n, k * count)
    type = tensor("f32" if format in SCALED else format, *sizes)
    results = (replace(operation.result, type=type),)
    return replace(operation.with_attributes(slices=None), results=results)


def cut_slices(data: Tensor, axis: int, count: int) -> Tensor:
    """Return slices [E * S, ...] of experts [E, N, K]: of gate and up rows alike (axis 0), or of
    columns (axis 1)."""
    if axis == 0:
        parts = data.unflatten(1, (2, count, -1)).transpose(1, 2)  # [E, S, 2, F / S, K]
    else:
        parts = data.unflatten(2, (count, -1)).transpose(1, 2)  # [E, S, N, K / S]
    return parts.flatten(0, 1).flatten(1, -2).contiguous()


class _Bounded:
    """A source that notes the least and largest number of each tensor that is read: one pass, whose
    result stays on the device, and which NaN and Inf survive."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._bounds: dict[tuple[str, tuple[int, ...], Shard | None], Tensor] = {}

    def read(self, name: str, shape: tuple[int, ...], shard: Shard | None = None) -> Tensor:
        """Return the source's tensor."""
        found = self._source.read(name, shape, shard)
        self._bounds[name, shape, shard] = bounds_of(found)
        return found

    def check(self) -> None:
        """Raise NotFinite for the first tensor that holds such numbers."""
        if not self._bounds:
            return
        finite = torch.stack(list(self._bounds.values())).isfinite().all(1).tolist()
        for (name, shape, shard), fine in zip(self._bounds, finite, strict=True):
            if not fine:
                place = getattr(self._source, "place", str)(name)
                raise not_finite(self._source.read(name, shape, shard), place, name)


def reads_of(operation: Operation) -> Iterator[tuple[Any, Read]]:
    """Yield (index of a part of a weight, what is read for it)."""
    tensors, rows = thaw(operation["tensors"]), thaw(operation.attribute("rows"))
    shard = operation.attribute("shard")
    for index, name, shape in _parts(tensors, _shape(operation), rows):
        if shard is None:
            yield index, (name, shape, None)
        else:
            axis, _, count = shard
            whole = (size * (count if at == axis else 1) for at, size in enumerate(shape))
            yield index, (name, tuple(whole), shard)


def _parts(
    tensors: Any, shape: tuple[int, ...], rows: list[int] | None
) -> Iterator[tuple[Any, str, tuple[int, ...]]]:
    """Yield (index of the part, name, shape) of a name, of a list of names, of a list of lists."""
    if isinstance(tensors, str):
        yield ..., tensors, shape
    elif isinstance(tensors[0], list):
        for expert, names in enumerate(tensors):
            for index, name, part in _parts(names, shape[1:], rows):
                yield (expert, index), name, part
    else:
        first = 0
        for name, count in zip(tensors, rows or _equal(shape[0], len(tensors)), strict=True):
            yield slice(first, first + count), name, (count, *shape[1:])
            first += count


def _equal(total: int, parts: int) -> list[int]:
    return [total // parts] * parts


def quantize_rows(rows: Tensor, format: str = "i8") -> tuple[Tensor, Tensor]:
    """Return i8 or f8e4m3 numbers and f32 scales of rows [..., K]: symmetric, and the largest
    magnitude of a row is the format's: 127 or 448."""
    if format == "f8e4m3":
        most = torch.finfo(torch.float8_e4m3fn).max
        scale = rows.abs().amax(-1).clamp_min(1e-12) / most
        return (rows / scale[..., None]).clamp(-most, most).to(torch.float8_e4m3fn), scale
    scale = rows.abs().amax(-1).clamp_min(1e-12) / 127.0
    return torch.round(rows / scale[..., None]).to(torch.int8), scale
