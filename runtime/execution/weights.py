"""Weights: safetensors files mapped into memory, checked, joined, and kept in a chosen format."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...ir.core import Module, Operation, thaw
from ...ir.diagnostics import ModelError
from ...ir.types import SCALED, dtype_of, shape_of, tensor
from .dtypes import TORCH


class MissingTensor(ModelError):
    """A tensor that the graph needs and the checkpoint lacks."""

    template = "{folder} has no tensor {tensor!r}"
    hint = "it may be a checkpoint of another architecture, or one of its files is missing"


class WrongShape(ModelError):
    """A tensor of another shape than the configuration says."""

    template = "{file}: {tensor} is {found}, but config.json makes it {wanted}"
    hint = "config.json and the weights belong to different checkpoints"


class NoFloats(ModelError):
    """A tensor of integers: what a quantizer stores beside scales that are not read here."""

    template = "{file}: {tensor} is of {found}, no floating-point format"
    hint = "load the unquantized checkpoint; weft can quantize weights itself (--weights int8)"


class BrokenWeights(ModelError):
    """A weight file that is cut short or corrupt."""

    template = "{file}: {problem}"
    hint = "the file may be cut short; copy or download it again"


class NoWeights(ModelError):
    """A folder without weights, or without one of its shards."""

    template = "{file} is missing"
    hint = "weights are model.safetensors, or shards that model.safetensors.index.json names"


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


FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""What safetensors calls the formats of weights that are read."""

Shard = tuple[int, int, int]
"""A part of a tensor: the axis that is split, which part, of how many equal ones."""


class TensorSource(Protocol):
    """Where tensors come from by name: a checkpoint, or a random generator."""

    def read(self, name: str, shape: tuple[int, ...], shard: Shard | None = None) -> Tensor:
        """Return a tensor of this shape, or a part of it, in the dtype that it is stored in."""
        ...


def part_of(tensor: Any, shape: tuple[int, ...], shard: Shard) -> Tensor:
    """Return a part of what can be indexed: a tensor, or a slice of a file that is read by it."""
    axis, index, count = shard
    size = shape[axis] // count
    return tensor[(slice(None),) * axis + (slice(index * size, (index + 1) * size),)]


class Checkpoint:
    """The safetensors files of a folder, mapped; every shard's header is checked on opening.

    Tensors are read onto `device`: from the mapped file straight to a GPU's memory.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        self.folder = Path(folder)
        self._device = device
        self._files: dict[str, Any] = {}
        self._home: dict[str, str] = {}
        for file in shard_files(self.folder):
            self._open(file)

    def _open(self, file: str) -> None:
        path = self.folder / file
        if not path.exists():
            raise NoWeights(file=str(path))
        try:
            self._files[file] = safe_open(path, framework="pt", device=self._device)
        except (SafetensorError, OSError) as error:
            raise BrokenWeights(file=str(path), problem=str(error)) from None
        self._home.update(dict.fromkeys(self._files[file].keys(), file))

    def place(self, name: str) -> str:
        """Return the file that a tensor is in."""
        return str(self.folder / self._home[name])

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._home)

    def read(self, name: str, shape: tuple[int, ...], shard: Shard | None = None) -> Tensor:
        """Return a tensor as a view of the mapped file; raises MissingTensor, WrongShape, NoFloats.

        Of a part only its bytes are read.
        """
        if name not in self._home:
            raise MissingTensor(folder=str(self.folder), tensor=name)
        file = self._home[name]
        stored = self._files[file].get_slice(name)
        if tuple(stored.get_shape()) != shape:
            raise WrongShape(file=str(self.folder / file), tensor=name,
                             found=list(stored.get_shape()), wanted=list(shape))  # fmt: skip
        if stored.get_dtype() not in FLOATS:
            found = stored.get_dtype()
            raise NoFloats(file=str(self.folder / file), tensor=name, found=found)
        if shard is not None:
            return part_of(stored, shape, shard)
        return self._files[file].get_tensor(name)


def shard_files(folder: Path) -> list[str]:
    """Return the names of a folder's files of weights: those that its index lists, if it has one;
    raises BrokenWeights."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(file, str) for file in files):
            raise TypeError("a tensor's file has no name")
        return sorted(files)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BrokenWeights(file=str(index), problem=f"no shard index: {error}") from None


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
    source = _Bounded(source)
    loaded: dict[tuple[Any, ...], Weight] = {}
    weights: dict[str, Weight] = {}
    total = weight_bytes(module) if progress else 0
    for operation in module.walk():
        if operation.name == "graph.weight":
            key = _identity(operation)
            if key not in loaded:
                usual = loaded.get(_identity(_usual(operation)))
                loaded[key] = _load(operation, source, device, usual)
                if progress is not None:
                    progress(sum(weight.bytes for weight in loaded.values()), total)
            weights[operation.result.name] = loaded[key]
    source.check()
    return weights


def weight_bytes(module: Module) -> int:
    """Return the bytes that a module's weights take, each counted once, scales included."""
    sizes = {}
    for operation in module.walk():
        if operation.name == "graph.weight":
            shape = [int(extent) for extent in shape_of(operation.result.type)]  # type: ignore[arg-type]
            format = dtype_of(operation.result.type)
            scales = 4 * math.prod(shape[:-1]) if format in SCALED else 0
            key = _identity(operation)
            sizes[key] = math.prod(shape) * TORCH[format].itemsize + scales
    return sum(sizes.values())


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


def _load(
    operation: Operation, source: TensorSource, device: str, usual: Weight | None = None
) -> Weight:
    """Return a weight; one that is packed is made of the `usual` one, where that is there."""
    if (width := operation.attribute("packed")) is not None:
        data = (usual or _load(_usual(operation), source, device)).data
        return Weight(data.unflatten(1, (-1, width)).transpose(0, 1).contiguous())
    if operation.attribute("slices") is not None:
        return _load_slices(operation, source, device)
    shape = tuple(int(extent) for extent in shape_of(operation.result.type))  # type: ignore[arg-type]
    format = dtype_of(operation.result.type)
    tensors, rows = thaw(operation["tensors"]), thaw(operation.attribute("rows"))
    parted = _Parted(source, operation.attribute("shard"))
    if format in SCALED:
        data = torch.empty(shape, dtype=TORCH[format], device=device)
        scale = torch.empty(shape[:-1], device=device)
        for index, part in _parts(tensors, shape, rows, parted):
            data[index], scale[index] = quantize_rows(part.float(), format)
        return Weight(data, scale)
    if isinstance(tensors, str):
        return Weight(parted.read(tensors, shape).to(device, TORCH[format]).contiguous())
    data = torch.empty(shape, dtype=TORCH[format], device=device)
    for index, part in _parts(tensors, shape, rows, parted):
        data[index].copy_(part)
    return Weight(data)


def _load_slices(operation: Operation, source: TensorSource, device: str) -> Weight:
    """Load experts whole, then cut them; a scale is then of a row of a slice."""
    axis, count = operation["slices"]
    format, (e, n, k) = dtype_of(operation.result.type), shape_of(operation.result.type)
    sizes = (e // count, n * count, k) if axis == 0 else (e // count, n, k * count)  # type: ignore[operator]
    type = tensor("f32" if format in SCALED else format, *sizes)
    results = (replace(operation.result, type=type),)
    whole = replace(operation.with_attributes(slices=None), results=results)
    data = cut_slices(_load(whole, source, device).data, axis, count)
    return Weight(*quantize_rows(data, format)) if format in SCALED else Weight(data)


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


@dataclass(frozen=True)
class _Parted:
    """A source of which parts of the tensors are wanted, all split alike; shapes are the parts'."""

    source: TensorSource
    shard: Shard | None

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if self.shard is None:
            return self.source.read(name, shape)
        axis, _, count = self.shard
        whole = tuple(size * (count if at == axis else 1) for at, size in enumerate(shape))
        return self.source.read(name, whole, self.shard)


def _parts(
    tensors: Any, shape: tuple[int, ...], rows: list[int] | None, source: _Parted
) -> Iterator[tuple[Any, Tensor]]:
    """Yield (index of the part, part) of a name, of a list of names, of a list of lists."""
    if isinstance(tensors, str):
        yield ..., source.read(tensors, shape)
    elif isinstance(tensors[0], list):
        for expert, names in enumerate(tensors):
            for index, part in _parts(names, shape[1:], rows, source):
                yield (expert, index), part
    else:
        first = 0
        for name, count in zip(tensors, rows or _equal(shape[0], len(tensors)), strict=True):
            yield slice(first, first + count), source.read(name, (count, *shape[1:]))
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
