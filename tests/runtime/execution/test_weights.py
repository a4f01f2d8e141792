"""Weights: joined, converted and quantised as asked; broken files are named with the mend."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from weft.frontend.models.registry import tensor_names
from weft.ir.parser import parse_module
from weft.runtime.devices.zeros import ALIGNMENT
from weft.runtime.execution import weights
from weft.runtime.execution.weight_files import (
    BrokenWeights,
    Checkpoint,
    MissingTensor,
    NoFloats,
    NoWeights,
    WrongShape,
)
from weft.runtime.execution.weights import (
    NotFinite,
    RandomTensors,
    load_weights,
    quantize_rows,
    weight_bytes,
)

STACKED = """
%w = graph.weight tensors = [["e0.w1", "e0.w3"], ["e1.w1", "e1.w3"]] : tensor<f32, [2, 6, 4]>
%qkv = graph.weight tensors = ["q", "k"], rows = [5, 2] : tensor<f32, [7, 4]>
%b = graph.weight tensors = "q" : tensor<bf16, [5, 4]>
"""


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    names = ["e0.w1", "e0.w3", "e1.w1", "e1.w3"]
    tensors = {name: torch.randn(3, 4) for name in names}
    tensors |= {"q": torch.randn(5, 4), "k": torch.randn(2, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path, tensors


def test_joined_stacked_and_converted(folder):
    path, tensors = folder
    found = load_weights(parse_module(STACKED), Checkpoint(path))
    assert torch.equal(found["qkv"].data, torch.cat([tensors["q"], tensors["k"]]))
    assert torch.equal(found["w"].data[1], torch.cat([tensors["e1.w1"], tensors["e1.w3"]]))
    assert torch.equal(found["b"].data, tensors["q"].bfloat16())


def test_small_weights_of_a_cpu_lie_together(folder, monkeypatch):
    """In large pages, aligned, each its own; one that is large has a place of its own."""
    path, tensors = folder
    sizes, plain = [], weights.mapped
    monkeypatch.setattr(weights, "mapped", lambda size: sizes.append(size) or plain(size))
    found = load_weights(parse_module(STACKED), Checkpoint(path))
    starts = sorted(weight.data.data_ptr() for weight in found.values())
    assert len(sizes) == 1 and starts[-1] - starts[0] == 2 * ALIGNMENT
    assert all(start % ALIGNMENT == 0 for start in starts)
    monkeypatch.setattr(weights, "SMALL", 150)
    apart = load_weights(parse_module(STACKED), Checkpoint(path))
    assert sizes[1:] == [192, 600]  # w by itself, the other two together
    assert all(torch.equal(apart[name].data, weight.data) for name, weight in found.items())


def test_int8_rows(folder):
    path, tensors = folder
    text = STACKED.replace("f32", "i8").replace("bf16", "i8")
    found = load_weights(parse_module(text), Checkpoint(path))
    expected = torch.cat([tensors["q"], tensors["k"]])
    step = expected.abs().amax(-1, keepdim=True) / 127
    assert ((found["qkv"].dense() - expected).abs() <= step / 2 + 1e-6).all()
    assert found["w"].data.dtype == torch.int8 and found["w"].scale.shape == (2, 6)


@pytest.mark.parametrize("format", ["i8", "f8e4m3"])
def test_zero_rows_stay_zero(format):
    data, scale = quantize_rows(torch.zeros(2, 4), format)
    assert not data.float().any() and torch.isfinite(scale).all()


def test_fp8_rows(folder):
    path, tensors = folder
    text = STACKED.replace("bf16", "f8e4m3").replace("f32", "f8e4m3")
    found = load_weights(parse_module(text), Checkpoint(path))
    expected = torch.cat([tensors["q"], tensors["k"]])
    assert found["qkv"].data.dtype == torch.float8_e4m3fn and found["w"].scale.shape == (2, 6)
    error = (found["qkv"].dense() - expected).abs()
    assert (error <= expected.abs() / 16 + expected.abs().amax(-1, keepdim=True) * 2**-10).all()
    assert weight_bytes(parse_module(text)) == sum(w.bytes for w in found.values())


def test_equal_tensors_are_shared(folder):
    text = STACKED + '%again = graph.weight tensors = "q" : tensor<bf16, [5, 4]>\n'
    found = load_weights(parse_module(text), Checkpoint(folder[0]))
    assert found["again"] is found["b"]


def test_progress_rises_to_all_bytes_and_counts_what_is_shared_once(folder):
    text = STACKED + '%again = graph.weight tensors = "q" : tensor<bf16, [5, 4]>\n'
    module, heard = parse_module(text), []
    load_weights(module, Checkpoint(folder[0]), progress=lambda *bytes: heard.append(bytes))
    done, totals = zip(*heard, strict=True)
    assert set(totals) == {weight_bytes(module)} and done[-1] == totals[0]
    assert list(done) == sorted(set(done)) and len(done) == 3


def test_missing_tensor_and_wrong_shape(folder):
    checkpoint = Checkpoint(folder[0])
    with pytest.raises(MissingTensor, match="no tensor 'absent'"):
        checkpoint.read("absent", (1,))
    with pytest.raises(WrongShape, match=r"q is \[5, 4\], but config.json makes it \[6, 4\]"):
        checkpoint.read("q", (6, 4))


def test_weights_of_integers_are_refused_and_all_floats_are_read(tmp_path):
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
              torch.float8_e5m2)  # fmt: skip
    kinds = (*floats, torch.int8, torch.uint8, torch.int32, torch.int64)
    tensors = {str(kind).removeprefix("torch."): torch.ones(2, 3).to(kind) for kind in kinds}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    for number, name in enumerate(tensors):
        if number < len(floats):
            assert bool((checkpoint.read(name, (2, 3)).float() == 1.0).all())
            continue
        for shard in (None, (0, 1, 2)):
            with pytest.raises(NoFloats, match=f"model.safetensors: {name} is of .*floating-point"):
                checkpoint.read(name, (2, 3), shard)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_that_are_no_numbers_are_told(folder, wrong, kind):
    path, tensors = folder
    held = {name: found.to(kind).clone() for name, found in tensors.items()}
    held["k"].view(-1)[:2] = wrong
    save_file(held, path / "model.safetensors")
    total = held["k"].numel()
    with pytest.raises(NotFinite, match=f"model.safetensors: k has 2 of {total} numbers"):
        load_weights(parse_module(STACKED), Checkpoint(path))


def test_weights_as_large_as_they_can_be_are_fine(folder):
    path, tensors = folder
    held = {name: torch.full_like(found, 3e38) for name, found in tensors.items()}
    save_file(held, path / "model.safetensors")
    assert load_weights(parse_module(STACKED), Checkpoint(path))["b"].data.isfinite().all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: b"",
        lambda data: struct.pack("<Q", 2**60) + data[8:],
        lambda data: data[:8] + b"!" * 20 + data[28:],
        lambda data: data + b"extra",
    ],
    ids=["half", "four bytes", "empty", "huge header", "header no JSON", "trailing bytes"],
)
def test_broken_files_are_named(folder, damage):
    file = folder[0] / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BrokenWeights, match="model.safetensors.*\n.*cut short"):
        Checkpoint(folder[0])


def test_missing_files_and_shards(folder):
    path, _ = folder
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"q": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(NoWeights, match="model-00001-of-00002.safetensors is missing"):
        Checkpoint(path)
    for text in ("{", "[]", '{"weight_map": 1}', '{"weight_map": {"q": 3}}'):
        index.write_text(text)
        with pytest.raises(BrokenWeights, match="shard index"):
            Checkpoint(path)
        if text.startswith('{"'):
            assert tensor_names(path) <= {"q"}, "the loader says what is wrong"
    index.unlink()
    (path / "model.safetensors").unlink()
    with pytest.raises(NoWeights, match="model.safetensors is missing"):
        Checkpoint(path)


def test_random_tensors_depend_on_seed_and_name():
    source = RandomTensors(3)
    first = source.read("a.weight", (4, 8))
    assert torch.equal(first, RandomTensors(3).read("a.weight", (4, 8)))
    assert not torch.equal(first, source.read("b.weight", (4, 8)))
    assert not torch.equal(first, RandomTensors(4).read("a.weight", (4, 8)))
    assert torch.equal(source.read("norm.weight", (4,)), torch.ones(4))
