"""Pages on disk: large ones are read by several threads, and a file that is gone is named."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weft.frontend.models.mixtral import build_mixtral
from weft.frontend.models.presets import PRESETS
from weft.ir.core import Module
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import graph_passes
from weft.runtime.execution.weight_files import BrokenWeights, NoFloats, NoWeights, WrongShape
from weft.runtime.execution.weights import NotFinite
from weft.runtime.offload import file_pages
from weft.runtime.offload.file_pages import FilePages, PageLost
from weft.runtime.offload.pages import PageShape, pool_bytes, pool_in
from weft.tests.runtime.offload.offload_cases import MIB, policy


def experts_of(module: Module):
    """The weights of the first layer's experts."""
    found = [op for op in module.walk() if op.name == "graph.weight"]
    return [op for op in found if "layers.0.mlp.experts" in str(op["tensors"])]


@pytest.fixture
def stored(tmp_path):
    """A layer's experts as one tensor each, in a file; and what is in it."""
    config = PRESETS["tiny-moe"]
    module = run_passes(graph_passes(), build_mixtral(config, fused=True), Context())[0]
    weights = experts_of(module)
    tensors = {
        "model.layers.0.mlp.experts.gate_up_proj": torch.randn(8, 2 * config.ffn, config.width),
        "model.layers.0.mlp.experts.down_proj": torch.randn(8, config.width, config.ffn),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path, weights, list(tensors.values())


def page_of(weights):
    shape = PageShape.of(weights)
    return pool_in(torch.zeros(pool_bytes(shape, 2), dtype=torch.uint8), shape, 2).page(1)


def test_pages_are_read_by_parts_straight_to_their_place(stored, monkeypatch):
    folder, weights, tensors = stored
    monkeypatch.setattr(file_pages, "CHUNK", 1000)
    sizes, real = [], os.preadv

    def preadv(descriptor, buffers, at):
        sizes.append(len(buffers[0]))
        return real(descriptor, [buffers[0][:700]], at)  # as a system may: less than asked for

    monkeypatch.setattr(os, "preadv", preadv)
    source, page = FilePages(folder, [weights]), page_of(weights)
    source.read(0, 5, page)
    assert torch.equal(page["gate_up"], tensors[0][5]) and torch.equal(page["down"], tensors[1][5])
    assert max(sizes) <= 1000 and len(sizes) > 500
    source.close()


def test_a_file_that_is_cut_in_a_later_part_is_named(stored, monkeypatch):
    folder, weights, _ = stored
    monkeypatch.setattr(file_pages, "CHUNK", 5000)
    source, page = FilePages(folder, [weights]), page_of(weights)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 3000)
    with pytest.raises(PageLost, match=r"safetensors: the page of layer 0, expert 7 .* too early"):
        source.read(0, 7, page)
    source.read(0, 0, page)
    source.close()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_rows_that_are_no_numbers_are_told_when_they_are_first_read(stored, wrong, kind):
    """Whether they go straight to their place, or are made wider; other pages are read."""
    folder, weights, tensors = stored
    if kind == torch.float8_e4m3fn:
        wrong = float("nan")  # it has no infinity
    names = ("gate_up_proj", "down_proj")
    held = {
        f"model.layers.0.mlp.experts.{n}": t.to(kind) for n, t in zip(names, tensors, strict=True)
    }
    down = held["model.layers.0.mlp.experts.down_proj"]
    down[5, 3, 1:3] = wrong
    save_file(held, folder / "model.safetensors")
    source, page = FilePages(folder, [weights]), page_of(weights)
    first, last = 5 * down.shape[1], 6 * down.shape[1] - 1
    count = f"{down[5].numel():,}"
    told = rf"model.safetensors: .*down_proj \(rows {first} to {last}\) has 2 of {count} numbers"
    with pytest.raises(NotFinite, match=told):
        source.read(0, 5, page)
    source.read(0, 4, page)
    assert torch.equal(page["down"], down[4].float())
    source.close()


def test_rows_are_looked_at_once(stored, monkeypatch):
    looked, real = [], file_pages.bounds_of
    monkeypatch.setattr(file_pages, "bounds_of", lambda rows: looked.append(1) or real(rows))
    folder, weights, _ = stored
    source, page = FilePages(folder, [weights]), page_of(weights)
    for _ in range(3):
        source.read(0, 1, page)
    assert len(looked) == 2  # both parts of the page
    source.close()


@pytest.mark.parametrize("content", [
    b"version https://git-lfs.github.com/spec/v1", (1 << 40).to_bytes(8, "little") + b"{}",
    (2).to_bytes(8, "little") + b"[]",
])  # fmt: skip
def test_a_file_without_a_header_is_named(stored, content):
    """Such as a pointer to where it lies, whose first bytes would be a header's size."""
    folder, weights, _ = stored
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BrokenWeights, match=r"model.safetensors: no safetensors header"):
        FilePages(folder, [weights])


def test_files_are_closed_with_the_executor_that_reads_them(stored):
    folder, weights, _ = stored
    file = str(folder / "model.safetensors")

    def opened():
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum(link.is_symlink() and os.readlink(link) == file for link in links)

    source = FilePages(folder, [weights])
    assert opened() == 1
    del source
    assert opened() == 0


@pytest.mark.parametrize("change, error", [
    (lambda t: t.transpose(1, 2).contiguous(), WrongShape), (lambda t: t.to(torch.int8), NoFloats),
])  # fmt: skip
def test_other_tensors_than_a_page_is_made_of_are_refused(stored, change, error):
    folder, weights, tensors = stored
    names = ("gate_up_proj", "down_proj")
    held = {
        f"model.layers.0.mlp.experts.{n}": change(t) for n, t in zip(names, tensors, strict=True)
    }
    save_file(held, folder / "model.safetensors")
    source = FilePages(folder, [weights])
    with pytest.raises(
        error, match="model.safetensors: model.layers.0.mlp.experts.gate_up_proj is"
    ):
        source.read(0, 0, page_of(weights))
    source.close()


def test_a_file_that_vanishes_before_it_is_opened_is_named(cases, tmp_path):
    folder = tmp_path / "tiny-moe"
    shutil.copytree(cases.checkpoint.folder, folder)
    made = cases.offloading(policy("cgo"), folder=folder, gpu_memory=64 * MIB)
    kernels = made.kernels([])
    (folder / "model.safetensors").unlink()
    with pytest.raises(NoWeights, match=r"tiny-moe/model.safetensors is missing"):
        made.executor(kernels)
