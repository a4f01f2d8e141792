"""Files of weights: a folder's safetensors files, mapped or read, and what is wrong with them."""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...ir.diagnostics import ModelError


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


STORED = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""What safetensors calls the formats of weights that are read."""

Shard = tuple[int, int, int]
"""A part of a tensor: the axis that is split, which part, of how many equal ones."""

Read = tuple[str, tuple[int, ...], Shard | None]
"""What `TensorSource.read` is asked for."""


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
        self.device = device
        self._files: dict[str, Any] = {}
        self._home: dict[str, str] = {}
        for file in shard_files(self.folder):
            self._open(file)

    def _open(self, file: str) -> None:
        path = self.folder / file
        if not path.exists():
            raise NoWeights(file=str(path))
        try:
            self._files[file] = safe_open(path, framework="pt", device=self.device)
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
        if stored.get_dtype() not in STORED:
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
class Stored:
    """Where a tensor lies: its file, its format by safetensors' name, its shape, its first byte."""

    file: str
    format: str
    shape: tuple[int, ...]
    begin: int

    @property
    def dtype(self) -> torch.dtype:
        """The format as torch has it."""
        return STORED[self.format]

    @property
    def bytes(self) -> int:
        """Bytes of the file that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightFiles:
    """The safetensors files of a folder, to be read by any thread; raises NoWeights, BrokenWeights.

    They are not mapped: a mapped file that is cut short ends the process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored: dict[str, Stored] = {}
        self._files: dict[str, int] = {}
        self._end = weakref.finalize(self, _close, self._files)
        for name in shard_files(folder):
            self._open(name)

    def _open(self, name: str) -> None:
        path = self.folder / name
        if not path.exists():
            raise NoWeights(file=str(path))
        descriptor = self._files[name] = os.open(path, os.O_RDONLY)
        try:
            size = int.from_bytes(os.pread(descriptor, 8, 0), "little")
            if size > os.fstat(descriptor).st_size:
                raise ValueError(f"{size} bytes of it are not there")
            header = json.loads(os.pread(descriptor, size, 8))
            for tensor, entry in header.items():
                if tensor != "__metadata__":
                    begin = 8 + size + entry["data_offsets"][0]
                    self._stored[tensor] = Stored(name, entry["dtype"], tuple(entry["shape"]),
                                                  begin)  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise BrokenWeights(file=str(path), problem=f"no safetensors header: {error}") from None

    def find(self, name: str, shape: Iterable[int]) -> Stored:
        """Return where a tensor lies; raises MissingTensor, NoFloats, WrongShape."""
        stored, wanted = self._stored.get(name), tuple(shape)
        if stored is None:
            raise MissingTensor(folder=str(self.folder), tensor=name)
        if stored.format not in STORED:
            file = str(self.folder / stored.file)
            raise NoFloats(file=file, tensor=name, found=stored.format)
        if stored.shape != wanted:
            raise WrongShape(file=str(self.folder / stored.file), tensor=name,
                             found=list(stored.shape), wanted=list(wanted))  # fmt: skip
        return stored

    def read(self, file: str, begin: int, data: memoryview) -> None:
        """Fill `data` with the bytes of a file from `begin` on; raises OSError with its name."""
        path, done = str(self.folder / file), 0
        while done < len(data):
            try:
                count = os.preadv(self._files[file], [data[done:]], begin + done)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            if count == 0:
                raise OSError(0, f"it ends {len(data) - done} bytes too early", path)
            done += count

    def close(self) -> None:
        """Close the files; done too where nobody has them any more."""
        self._end()


def _close(files: dict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])
