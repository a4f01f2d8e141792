"""Folders of shapes: their configuration, their tensors and their texts are the shape's."""

import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from weft.bench import gpu_folder
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.models import presets
from weft.frontend.models.config import parse_config
from weft.frontend.models.registry import load_model, tensor_names
from weft.runtime.execution.weight_files import Checkpoint
from weft.runtime.execution.weights import RandomTensors, load_weights

TINY_QWEN: Any = presets._dense(
    "Qwen3Moe", 4096, 64, 2, 4, 2, 16, 32, 8192, presets.Rope(1e6), False,
    head_norms=True, experts=4, experts_per_token=2,
)  # fmt: skip


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_shapes_configuration_is_read_back(name):
    shape = presets.PRESETS[name]
    assert parse_config(gpu_folder.hub_config(shape)) == shape


@pytest.fixture
def tiny_qwen(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny-qwen-moe", TINY_QWEN)
    return open_checkpoint("random:tiny-qwen-moe")


def test_a_folder_holds_its_shapes_tensors(tiny_qwen, tmp_path):
    total = gpu_folder.write(tiny_qwen, tmp_path, "cpu", most=300_000)
    config, graph = load_model(tmp_path)
    assert config == tiny_qwen.config
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    assert len(tensor_names(tmp_path)) == len(dict(gpu_folder.tensors_of(graph)))
    held = [load_file(file).values() for file in tmp_path.glob("*.safetensors")]
    assert total == sum(tensor.nbytes for tensors in held for tensor in tensors)
    stored = load_weights(graph, Checkpoint(tmp_path))
    made = load_weights(tiny_qwen.graph, RandomTensors())
    weights = [op for op in graph.walk() if op.name == "graph.weight"]
    routers = {op.result.name for op in weights if str(op["tensors"]).endswith("mlp.gate.weight")}
    assert routers
    assert stored.keys() == made.keys()
    for name, weight in made.items():
        kept = weight.data if name in routers else weight.data.bfloat16().float()
        assert torch.equal(stored[name].data, kept), name


def test_a_folder_of_another_shape_is_refused(tiny_qwen, tmp_path):
    gpu_folder.write(tiny_qwen, tmp_path, "cpu")
    gpu_folder.check_folder(tiny_qwen.config, tmp_path)
    with pytest.raises(SystemExit, match="another shape: its architectures is"):
        gpu_folder.check_folder(presets.PRESETS["llama-8b"], tmp_path)


@pytest.mark.slow
def test_a_folder_gives_its_shapes_texts(tiny_qwen, tmp_path):
    gpu_folder.write(tiny_qwen, tmp_path, "cpu")
    of_folder = gpu_folder.load(str(tmp_path), "cpu")
    assert of_folder["texts"] == gpu_folder.load(tiny_qwen.name, "cpu")["texts"]
    assert of_folder["shown"] > 1


def test_weights_without_room_are_refused_before_any_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2, 1, 1))
    with pytest.raises(OSError, match="give another folder with --work"):
        gpu_folder.write(open_checkpoint("random:tiny-dense"), tmp_path, "cpu")
    assert not list(tmp_path.iterdir())
