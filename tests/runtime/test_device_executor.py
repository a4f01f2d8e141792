"""A GPU's executor and sampler give the tokens of the graph's meaning; kernels are interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from weft.runtime.attention_plan import Shape
from weft.runtime.device import (
    GIB,
    WORKSPACE,
    Device,
    DeviceFull,
    DeviceInUse,
    DeviceLost,
    FormatNotThere,
    ModelTooLarge,
    NoGpu,
    device_errors,
)
from weft.runtime.lists import PAGES, AttentionLists
from weft.runtime.staging import ALIGNMENT, DEPTH, Layout, Staging
from weft.runtime.step import StepInput

WORKER = Path(__file__).parent / "device_worker.py"


LATER = ("sparse", "together", "host_words")


@pytest.mark.parametrize(
    "name", ["llama", "qwen", "mixtral", "tail", "host",
             *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)]
)  # fmt: skip
def test_tokens_equal_the_graphs_meaning(name, tmp_path):
    pytest.importorskip("triton")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), name, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, expected, recordings = json.loads(done.stdout.splitlines()[-1])
    assert found == expected
    # decode steps of several batches were recorded, not launched, unless a cache cannot hold them
    assert recordings >= (1 if name.startswith("host") else 2)


def decode_step(lengths, table):
    ints = [torch.tensor(values, dtype=torch.int32) for values in (
        [0] * len(lengths), [n - 1 for n in lengths], [0] * len(lengths),
        list(range(len(lengths) + 1)), lengths,
    )]  # fmt: skip
    rows = torch.arange(len(lengths), dtype=torch.int32)
    return StepInput(*ints, torch.tensor(table, dtype=torch.int32), rows)


def seen_keys(lists, table_width):
    """The keys that each query sees by the lists: (page, offset) pairs, from every item."""
    arrays = {name.removeprefix("plan_"): array for name, array in lists.arrays.items()}
    keys = {}
    for item, first in enumerate(arrays["item_row"].tolist()):
        low, high = int(arrays["item_low"][item]), int(arrays["item_high"][item])
        for row in range(first, first + int(arrays["item_rows"][item])):
            end = min(high, int(arrays["row_limit"][row]))
            entry = int(arrays["item_page"][item])
            pages = lists.arrays[PAGES]
            found = {(int(pages[entry + key // 16]), key % 16) for key in range(low, end)}
            keys.setdefault(int(arrays["row_query"][row]), []).extend(sorted(found))
    return keys


def test_lists_that_grow_say_what_lists_made_anew_say():
    shape = Shape(4, 2, 16, 16, 8, 32, 64)
    device = torch.device("cpu")
    growing = AttentionLists(shape, (0,), device, 64)
    pick = np.random.default_rng(0)
    table = pick.permutation(3 * 40).reshape(3, 40)
    table[1, :4] = table[0, :4]  # a shared prefix of 64 keys
    lengths = np.array([65, 90, 300])
    for _ in range(150):
        step = decode_step(lengths.tolist(), table.tolist())
        grown = growing.plan(step)
        anew = AttentionLists(shape, (0,), device, 64).plan(step)
        found, expected = seen_keys(grown, 40), seen_keys(anew, 40)
        for query in range(3):
            assert sorted(found[query]) == sorted(expected[query])
            assert len(found[query]) == lengths[query]  # every key once
        lengths += 1


@pytest.mark.parametrize(("prefix", "own"), [(0, 40), (256, 40), (256, 200), (0, 900)])
def test_lists_with_too_many_items_for_a_recorded_room_are_cut_anew(prefix, own):
    """Rows of many lengths, some of them ended: every key once, within what the room has."""
    shape, pick = Shape(4, 2, 16, 16, 8, 32, 64), np.random.default_rng(own)
    lists = AttentionLists(shape, (0,), torch.device("cpu"), 4096)
    table = pick.permutation(12 * 80).reshape(12, 80)
    table[:, : prefix // 16] = table[0, : prefix // 16]

    def step(rows, longer):
        lengths = prefix + own + longer - np.arange(rows) % 7
        return decode_step(lengths.tolist(), table[:rows].tolist())

    whole = lists.plan(step(12, 0))
    room, fitted = lists.room(16, whole, 4096), 0
    for rows, longer in ((12, 60), (9, 64), (5, 70), (2, 300), (1, 90)):
        wanted = step(rows, longer)
        planned = lists.plan(wanted)
        found = lists.within(wanted, planned, room)
        if found is None:
            continue
        fitted += 1
        assert room.takes(found) and found.apart >= room.apart
        assert len(found.arrays["plan_item_row"]) <= len(planned.arrays["plan_item_row"])
        seen, expected = seen_keys(found, 80), seen_keys(planned, 80)
        assert {row: sorted(keys) for row, keys in seen.items()} == {
            row: sorted(keys) for row, keys in expected.items()
        }
        after = lists.plan(decode_step((wanted.kv_lengths + 1).tolist(), table[:rows].tolist()))
        items = [len(each.arrays["plan_item_row"]) for each in (after, planned)]
        assert items[0] == items[1]  # the next step's are its own again: its room may be recorded
    assert fitted >= 3


def test_lists_that_would_take_much_longer_cut_anew_are_left():
    lists = AttentionLists(Shape(4, 2, 16, 16, 8, 32, 64), (0,), torch.device("cpu"), 4096)
    few = lists.plan(decode_step([30] * 12, np.arange(12 * 2048).reshape(12, 2048).tolist()))
    room = lists.room(16, few, 1 << 18)
    step = decode_step([32_000], np.arange(2048)[None].tolist())
    planned = lists.plan(step)
    assert not room.takes(planned) and lists.within(step, planned, room) is None


def test_lists_are_made_anew_when_rows_change():
    shape = Shape(4, 2, 16, 16, 8, 32, 64)
    lists = AttentionLists(shape, (0,), torch.device("cpu"), 64)
    table = np.arange(80).reshape(2, 40)
    lists.plan(decode_step([70, 80], table.tolist()))
    other = table[::-1].copy()  # other pages under lengths that grew by one
    found = seen_keys(lists.plan(decode_step([71, 81], other.tolist())), 40)
    assert found[0][0] == (40, 0) and len(found[1]) == 81


def test_lists_keep_a_table_of_their_own():
    """The next step overwrites the batch's: pages that change would not be seen to."""
    lists = AttentionLists(Shape(4, 2, 16, 16, 8, 32, 64), (0,), torch.device("cpu"), 64)
    step = decode_step([490, 500], np.arange(64).reshape(2, 32).tolist())
    kept = lists.plan(step).arrays[PAGES]
    assert not np.shares_memory(kept, step.page_table.numpy())


def test_staging_keeps_what_is_on_its_way():
    staging = Staging(4 * ALIGNMENT, torch.device("cpu"))
    layout = Layout.of([("a", 3), ("b", 5)])
    assert layout.places == {"a": (0, 3), "b": (ALIGNMENT, 5)} and layout.end == 2 * ALIGNMENT
    buffers = [staging.open() for _ in range(DEPTH)]
    assert len({id(buffer) for buffer in buffers}) == DEPTH
    buffers[-1][:3] = [1, 2, 3]
    staging.send(layout.end)
    assert layout.views(staging.device)["a"].tolist() == [1, 2, 3]


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


def test_memory_that_is_gone_when_it_is_taken_is_named_too(monkeypatch):
    device = Device("a card", (9, 0), 24 * GIB, 20 * GIB)
    now = Device("a card", (9, 0), 24 * GIB, 3 * GIB, own=GIB)
    monkeypatch.setattr(Device, "find", staticmethod(lambda: now))
    with pytest.raises(DeviceInUse, match=r"other processes hold 20.0 GiB and 3.0 GiB are free"):
        with device.watched("m"):
            raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(DeviceFull, match=r"3.0 GiB of 24.0 are free, and 20.0"):
        with device_errors():
            raise torch.OutOfMemoryError("CUDA out of memory")


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


def test_formats_that_a_card_lacks():
    old = Device("an old card", (8, 0), GIB, GIB)
    old.require_format("bf16")
    with pytest.raises(FormatNotThere, match=r"an old card .*8.0.* has no f8e4m3 products"):
        old.require_format("f8e4m3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu_for_the_target_cuda():
    with pytest.raises(NoGpu, match="needs an NVIDIA GPU"):
        Device.find()
