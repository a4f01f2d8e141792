"""A GPU's executor and sampler give the tokens of the graph's meaning; kernels are interpreted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from weft.codegen.build_cuda import load_kernels
from weft.compiler import compile
from weft.ir.schedule import Schedule
from weft.passes.tile.rows.feed import carry
from weft.runtime.devices.device import (
    GIB,
    WORKSPACE,
    Device,
    DeviceFull,
    DeviceInUse,
    DeviceKept,
    DeviceLost,
    FormatNotThere,
    ModelTooLarge,
    NoGpu,
    device_errors,
)
from weft.runtime.devices.staging import ALIGNMENT, CARRIED, DEPTH, Layout, Staging
from weft.runtime.gpu.drawn import Draw, Drawn
from weft.runtime.schedule.flight import Flight
from weft.tests.each_time import each_time

WORKER = Path(__file__).parent / "device_worker.py"


LATER = ("sparse", "mixed", "together", "host_words", "host_mixed")


WIDE = ("llama wide", "qwen wide", "mixtral wide", "tail wide", "sparse wide")
"""Batches so wide that steps with chunks are recorded, too."""


@pytest.mark.parametrize(
    "name",
    each_time(("llama", "qwen", "mixtral", "tail", "host", *LATER, *WIDE),
              "mixtral", "llama wide"),
)  # fmt: skip
def test_tokens_equal_the_graphs_meaning(name, tmp_path, interpreting):
    name, *wide = name.split()
    done = interpreting.run(WORKER, name, tmp_path, *wide)
    assert done.returncode == 0, done.stderr
    found, expected, recordings = json.loads(done.stdout.splitlines()[-1])
    assert found == expected
    # decode steps of several batches were recorded, not launched, unless there are few, or a cache
    # cannot hold them
    assert recordings >= 1  # beside those that were made before the first step


def test_sparse_rows_go_with_all_the_rest(tmp_path, interpreting):
    """Experts, keys in fp8, a shared prefix that two rows read whole beside one that selects its
    keys in the same launch, and a constraint: tokens are those of the graph's meaning."""
    done = interpreting.run(WORKER.with_name("everything_worker.py"), tmp_path)
    assert done.returncode == 0, done.stderr
    found, expected, choice, together, formats = json.loads(done.stdout.splitlines()[-1])
    assert found == expected and together == 2
    assert formats == ["torch.float8_e4m3fn"], "so few tokens may be those of f32, too"
    assert re.fullmatch("[a-m]{2}[0-9]", choice)


def test_staging_keeps_what_is_on_its_way():
    staging = Staging(4 * ALIGNMENT, torch.device("cpu"))
    layout = Layout.of([("a", 3), ("b", 5)])
    assert layout.places == {"a": (0, 3), "b": (ALIGNMENT, 5)} and layout.end == 2 * ALIGNMENT
    buffers = [staging.open() for _ in range(DEPTH)]
    assert len({id(buffer) for buffer in buffers}) == DEPTH
    buffers[-1][:3] = [1, 2, 3]
    staging.send(layout.end)
    assert layout.views(staging.device)["a"].tolist() == [1, 2, 3]


def test_what_is_short_is_carried_by_a_kernel_and_what_is_long_is_copied():
    counts = []

    def carried(count, source, target):
        counts.append((count, len(source), len(target)))
        target.copy_(source)

    staging = Staging(2 * CARRIED, torch.device("cpu"), carried)
    for count in (3, CARRIED, CARRIED + 1):
        staging.open()[:count] = torch.arange(count) + count
        staging.send(count)
        assert torch.equal(staging.device[:count], torch.arange(count, dtype=torch.int32) + count)
    assert counts == [(3, 3, 3), (CARRIED, CARRIED, CARRIED)]
    drawn = Drawn(4, torch.device("cpu"), carried)
    drawn.block[:] = torch.arange(12).view(3, 4)
    draw = drawn.fetch(2)
    drawn.block.zero_()  # what comes next is drawn there
    assert draw.wait()[0].tolist() == [0, 1] and draw.wait()[1].view(torch.int32).tolist() == [4, 5]
    assert counts[2:] == [(12, 12, 12)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_kernels_carry_from_and_to_pinned_memory(tmp_path):
    kernel = load_kernels([(carry(), Schedule(num_warps=8))], tmp_path)["carry"].launch
    device = torch.device("cuda")
    staging, drawn = Staging(CARRIED, device, kernel), Drawn(256, device, kernel)
    for turn in range(3 * DEPTH):
        wanted = torch.randint(-(1 << 31), 1 << 31, (CARRIED - turn,), dtype=torch.int32)
        staging.open()[: len(wanted)] = wanted
        staging.send(len(wanted))
        drawn.block.copy_(staging.device[: drawn.block.numel()].view(3, 256))
        draw = drawn.fetch(256)
        drawn.block.zero_()
        assert torch.equal(staging.device[: len(wanted)].cpu(), wanted)
        assert torch.equal(draw.wait()[0], wanted[:256])


def test_a_model_too_large_says_by_how_much_and_what_fits():
    device = Device("a card", (8, 0), 24 * GIB, 20 * GIB)
    assert device.require_room("m", "bf16", 10 * GIB, GIB) == 9 * GIB - WORKSPACE
    with pytest.raises(ModelTooLarge, match=r"m needs 26.0 GiB .* 6.0 GiB more than the 20.0") as e:
        device.require_room("m", "f32", 22 * GIB, GIB)
    assert "billion parameters of f32 fit here; this model does with weights=bf16" in str(e.value)
    for capability, format in (((8, 0), "int8"), ((9, 0), "fp8")):
        device = Device("a card", capability, 24 * GIB, 20 * GIB)
        with pytest.raises(ModelTooLarge, match=f"this model does with weights={format}"):
            device.require_room("m", "bf16", 22 * GIB, GIB)


def test_memory_that_others_hold_is_named():
    device = Device("a card", (8, 0), 24 * GIB, 2 * GIB)
    with pytest.raises(DeviceInUse, match=r"other processes hold 22.0 GiB and 2.0 GiB are free"):
        device.require_room("m", "bf16", 10 * GIB, GIB)


def test_memory_that_another_model_of_this_process_has_is_named():
    device = Device("a card", (8, 0), 24 * GIB, 2 * GIB, own=18 * GIB)
    with pytest.raises(DeviceKept, match=r"this process holds 18.0 GiB .* 2.0 GiB are free") as e:
        device.require_room("m", "bf16", 10 * GIB, GIB)
    assert "kv_memory" in str(e.value)
    with pytest.raises(DeviceInUse):  # nor would it fit without that model
        Device("a card", (8, 0), 24 * GIB, 2 * GIB, own=GIB).require_room("m", "bf16", 10 * GIB, 0)


def test_memory_that_is_gone_when_it_is_taken_is_named_too(monkeypatch):
    device = Device("a card", (9, 0), 24 * GIB, 20 * GIB)
    now = Device("a card", (9, 0), 24 * GIB, 3 * GIB, own=GIB)
    monkeypatch.setattr(Device, "find", staticmethod(lambda: now))
    with pytest.raises(DeviceInUse, match=r"other processes hold 20.0 GiB and 3.0 GiB are free"):
        with device.watched("m"):
            raise torch.OutOfMemoryError("CUDA out of memory")
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: out of memory\nmore"),
    ):
        with pytest.raises(DeviceFull, match=r"3.0 GiB of 24.0 GiB are free, and 20.0 GiB"):
            with device_errors():
                raise error
        with pytest.raises(DeviceInUse, match=r"other processes hold 20.0 GiB"):
            with device.watched("m"):
                raise error
    with pytest.raises(DeviceLost, match="launch failure"):
        with device.watched("m"):
            raise RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize(
    "text",
    ["CUDA error: an illegal memory access was encountered\nmore", "Triton Error [CUDA]: unknown",
     "NCCL error in: ProcessGroupNCCL.cpp"],
)  # fmt: skip
def test_a_device_that_fails_is_named(text):
    with pytest.raises(DeviceLost, match="the GPU failed in mid-run: ") as caught:
        with device_errors():
            raise RuntimeError(text)
    assert "same command again" in str(caught.value) and "more" not in str(caught.value)
    with pytest.raises(RuntimeError, match="anything else"):
        with device_errors():
            raise RuntimeError("anything else")


def test_a_device_that_failed_is_heard_of_where_a_draw_is_looked_for():
    def query():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    draw = Draw(torch.zeros(3, 1, dtype=torch.int32), SimpleNamespace(query=query))
    with pytest.raises(DeviceLost, match="illegal memory access"):
        Flight(np.zeros(0), (), draw, 0).ready()


def test_formats_that_a_card_lacks():
    old = Device("an old card", (8, 0), GIB, GIB)
    old.require_format("bf16")
    with pytest.raises(FormatNotThere, match=r"an old card .*8.0.* has no f8e4m3 products"):
        old.require_format("f8e4m3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu_for_the_target_cuda(tmp_path):
    with pytest.raises(NoGpu, match="needs an NVIDIA GPU") as caught:
        Device.find()
    assert "`--target cuda`" in caught.value.hint_text
    pytest.importorskip("triton")
    text = "program p() -> str:\n    gen a(max_tokens=1)\n    return a\n"
    with pytest.raises(NoGpu):  # nothing before it, as a compiler, asks for one in other words
        compile(text, "tiny-dense", target="cuda", prove=False, cache=tmp_path)
    assert not (tmp_path / "triton").exists()  # nor were kernels compiled for nothing
