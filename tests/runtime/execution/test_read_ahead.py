"""Tensors read ahead are the checkpoint's, in any order, and a file cut meanwhile is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.runtime.execution import read_ahead as module_of_read_ahead
from weft.runtime.execution import weights
from weft.runtime.execution.read_ahead import ReadAhead, _Buffer, read_ahead
from weft.runtime.execution.weight_files import (
    BrokenWeights,
    Checkpoint,
    MissingTensor,
    Read,
    TensorSource,
    WeightFiles,
    WrongShape,
)

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"piece": 24, "readers": 3, "buffers": 4}
MODULE = """
%w = graph.weight tensors = [["e0", "e1"], ["e2", "e3"]] : tensor<f32, [2, 8, 6]>
%packed = graph.weight tensors = ["q", "k"], rows = [6, 2], packed = 2 : tensor<bf16, [3, 8, 2]>
%qkv = graph.weight tensors = ["q", "k"], rows = [6, 2] : tensor<bf16, [8, 6]>
%alone = graph.weight tensors = ["o"], packed = 3 : tensor<bf16, [2, 4, 3]>
%rows = graph.weight tensors = "q", shard = [0, 1, 2] : tensor<f32, [3, 6]>
%columns = graph.weight tensors = ["q", "k"], rows = [6, 2], shard = [1, 1, 3] : tensor<i8, [8, 2]>
%cut = graph.weight tensors = [["e0", "e1"]], slices = [0, 2] : tensor<i8, [2, 4, 6]>
%norm = graph.weight tensors = "norm" : tensor<f32, [6]>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    one = {f"e{number}": torch.randn(4, 6) for number in range(4)}
    two = {"q": torch.randn(6, 6).bfloat16(), "k": torch.randn(2, 6).bfloat16()}
    two |= {"o": torch.randn(4, 6).half(), "norm": torch.ones(6), "none": torch.ones(0, 6)}
    save_file(one, tmp_path / "a.safetensors")
    save_file(two, tmp_path / "b.safetensors")
    files = dict.fromkeys(one, "a.safetensors") | dict.fromkeys(two, "b.safetensors")
    pairs = ", ".join(f'"{name}": "{file}"' for name, file in files.items())
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{pairs}}}}}')
    return tmp_path


class Counted(Checkpoint):
    """A checkpoint that remembers what is read of it itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []

    def read(self, name: str, shape: tuple[int, ...], shard: Any = None) -> torch.Tensor:
        self.asked.append(name)
        return super().read(name, shape, shard)


READS: list[Read] = [
    ("q", (6, 6), None), ("e1", (4, 6), (0, 1, 2)), ("k", (2, 6), (1, 2, 3)), ("e0", (4, 6), None),
    ("none", (0, 6), None), ("norm", (6,), None), ("q", (6, 6), (0, 0, 3)), ("o", (4, 6), None),
]  # fmt: skip


@pytest.mark.parametrize("piece", [2, 24, 1 << 20])
def test_what_is_read_in_order_comes_from_the_pieces(folder: Path, piece: int) -> None:
    source, plain = Counted(folder), Checkpoint(folder)
    ahead = ReadAhead(source, READS, CPU, **SMALL | {"piece": piece})
    for read in READS:
        found, wanted = ahead.read(*read), plain.read(*read)
        assert found.dtype == wanted.dtype and torch.equal(found, wanted), read
        if read[2] is None:  # nobody else's bytes are kept with it
            assert found.untyped_storage().nbytes() == found.nbytes or not found.nbytes
    ahead.close()
    assert source.asked == ["none"]  # which has no bytes


def test_another_order_gives_the_same_tensors(folder: Path) -> None:
    source, plain = Counted(folder), Checkpoint(folder)
    ahead = ReadAhead(source, READS, CPU, **SMALL)
    for read in (READS[3], READS[0], READS[0], READS[2], READS[1]):
        assert torch.equal(ahead.read(*read), plain.read(*read))
    assert source.asked == ["e0", "q", "k"]
    ahead.close()  # others are under way, and nobody takes them


def test_what_is_missing_or_has_another_shape_is_told_when_it_is_read(folder: Path) -> None:
    reads: list[Read] = [("e0", (4, 6), None), ("gone", (4, 6), None), ("q", (6, 7), None)]
    ahead = ReadAhead(Counted(folder), reads, CPU, **SMALL)
    assert ahead.read(*reads[0]).shape == (4, 6)
    with pytest.raises(MissingTensor, match="no tensor 'gone'"):
        ahead.read(*reads[1])
    with pytest.raises(WrongShape, match=r"q is \[6, 6\], but config.json makes it \[6, 7\]"):
        ahead.read(*reads[2])
    ahead.close()


def test_a_file_that_is_cut_meanwhile_is_named(folder: Path) -> None:
    source, file = Counted(folder), folder / "a.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 100)
    ahead = ReadAhead(source, [("e2", (4, 6), None), ("e3", (4, 6), None)], CPU, **SMALL)
    with pytest.raises(BrokenWeights, match=r"a.safetensors: it ends \d+ bytes too early"):
        for name in ("e2", "e3"):
            ahead.read(name, (4, 6))
    ahead.close()


def test_a_host_that_pins_little_memory_reads_ahead_less(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, left = _Buffer.of, [1]

    def of(size: int, device: torch.device) -> _Buffer:
        if not left:
            raise RuntimeError("CUDA error: out of memory")
        return usual(left.pop() * size, device)

    monkeypatch.setattr(_Buffer, "of", of)
    source, plain = Counted(folder), Checkpoint(folder)
    ahead = ReadAhead(source, READS, CPU, **SMALL)
    assert all(torch.equal(ahead.read(*read), plain.read(*read)) for read in READS)
    ahead.close()

    def none(*_: Any) -> ReadAhead:
        return ReadAhead(source, READS, CPU, **SMALL)

    monkeypatch.setattr(module_of_read_ahead, "ReadAhead", none)
    source.device = "cuda"
    with read_ahead(source, READS) as found:
        assert found is source


def test_what_follows_a_tensor_that_is_lost_is_what_was_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, lost = WeightFiles.read, [True]

    def once(self: WeightFiles, file: str, begin: int, data: memoryview) -> None:
        if lost and lost.pop():
            raise OSError(5, "Input/output error", file)
        read(self, file, begin, data)

    monkeypatch.setattr(WeightFiles, "read", once)
    reads: list[Read] = [(f"e{number}", (4, 6), None) for number in range(4)]
    ahead = ReadAhead(Counted(folder), reads, CPU, piece=600, readers=1, buffers=2)
    with pytest.raises(BrokenWeights, match="Input/output error"):
        ahead.read(*reads[0])
    for each in reads:
        assert torch.equal(ahead.read(*each), Checkpoint(folder).read(*each))
    ahead.close()


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU's weights be read as a GPU's are."""

    @contextmanager
    def ahead(source: Checkpoint, reads: Any) -> Iterator[TensorSource]:
        found = ReadAhead(source, reads, CPU, **SMALL)
        yield found
        found.close()

    monkeypatch.setattr(weights, "read_ahead", ahead)


def module() -> Module:
    return parse_module(MODULE)


def test_weights_are_read_in_the_order_that_is_said(folder: Path, in_pieces: None) -> None:
    source, heard = Counted(folder), []
    found = weights.load_weights(module(), source, progress=lambda *pair: heard.append(pair))
    assert source.asked == []  # all from pieces, so the order was right
    q, k = (Checkpoint(folder).read(name, shape) for name, shape in (("q", (6, 6)), ("k", (2, 6))))
    assert torch.equal(found["qkv"].data, torch.cat([q, k]))
    packed = torch.cat([q, k]).unflatten(1, (3, 2)).transpose(0, 1)
    assert torch.equal(found["packed"].data, packed)
    total = weights.weight_bytes(module()) - found["packed"].bytes  # a copy, of what is read
    assert heard[-1] == (total, total) and len(heard) == 7


def test_weights_in_pieces_are_those_of_a_mapped_file(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    plain = weights.load_weights(module(), Checkpoint(folder))
    request.getfixturevalue("in_pieces")
    pieces = weights.load_weights(module(), Checkpoint(folder))
    assert plain.keys() == pieces.keys()
    for name, weight in plain.items():
        assert torch.equal(weight.dense(), pieces[name].dense()), name


def test_a_cpu_reads_its_mapped_files(folder: Path) -> None:
    source = Checkpoint(folder)
    with read_ahead(source, READS) as found:
        assert found is source


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_weights_on_a_gpu_are_those_of_a_mapped_file(folder: Path) -> None:
    large = {"large": torch.randn(5 << 10, 2 << 10)}  # 40 MiB: five pieces
    save_file(large, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    text = '%w = graph.weight tensors = "large", shard = [0, 1, 2] : tensor<f32, [2560, 2048]>\n'
    text += '%v = graph.weight tensors = "large", shard = [1, 1, 2] : tensor<f32, [5120, 1024]>\n'
    found = weights.load_weights(parse_module(text), Checkpoint(folder, "cuda"), "cuda")
    assert torch.equal(found["w"].data.cpu(), large["large"][2560:])
    assert torch.equal(found["v"].data.cpu(), large["large"][:, 1024:])
