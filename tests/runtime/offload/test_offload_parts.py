"""The parts of an offloading executor: memory, queues, micro-batches, placing, formats."""

import gc
from collections import deque
from time import perf_counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from weft.ir.offload.schedules import PipelineShape
from weft.options import BadOption, Options
from weft.runtime.devices import streams as streams_module
from weft.runtime.devices.memory import MIB, DeviceMemoryExceeded, Memory
from weft.runtime.devices.streams import (
    PATIENCE,
    CudaDevice,
    convert,
    mapped,
    wait_for,
)  # fmt: skip
from weft.runtime.execution import key_device
from weft.runtime.execution.dtypes import TORCH
from weft.runtime.execution.library import matmul, workspace
from weft.runtime.offload.narrow import pack_rows, unpack_rows
from weft.runtime.offload.placing import colder
from weft.runtime.offload.split import split_rows
from weft.tests.runtime.offload.offload_cases import MIXED, step


def test_colder_keeps_counts_and_leaves_noise_alone():
    shape = PipelineShape(2, ringed=((0, 1, 2),), ring=4, cpu=((3, 4),), disk=((2,),))
    hot = [[1, 50, 0, 90, 2]]
    changed = colder(shape, hot)
    assert changed is not None and changed.cpu == ((0, 4),) and changed.ringed == ((1, 2, 3),)
    assert colder(changed, hot) is None
    assert colder(shape, [[10, 10, 10, 10, 9]]) is None


def test_a_long_sequence_is_cut_between_micro_batches():
    made = step((range(20), 3, [0, 1]), ((5,), 9, [2]), ((6,), 4, [3]), rows=[21, 0, 19])
    parts = split_rows(made, 3)
    assert [part.tokens for part in parts] == [10, 6, 6]  # the later rows see more keys
    assert parts[0].step.kv_lengths.tolist() == [13] and parts[1].step.kv_lengths.tolist() == [19]
    assert parts[2].step.kv_lengths.tolist() == [23, 10, 5]
    assert parts[2].step.query_starts.tolist() == [0, 4, 5, 6]
    assert [part.wanted.tolist() for part in parts] == [[1], [], [0, 2]]
    uncut = split_rows(made, 3, whole=True)
    assert [part.tokens for part in uncut] == [20, 1, 1]
    assert [len(part.step.kv_lengths) for part in uncut] == [1, 1, 1]


@given(
    st.lists(st.tuples(st.integers(1, 28), st.integers(0, 100)), min_size=1, max_size=20),
    st.integers(1, 6), st.integers(0, 4),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_micro_batches_have_like_work_and_no_more_than_fits(lengths, count, spare):
    pages = iter(range(10_000))
    parts = [
        (range(new), before, [next(pages) for _ in range(-(-(before + new) // 16))])
        for new, before in lengths
    ]
    made = step(*parts, rows=[])
    total = made.tokens.shape[0]
    most = -(-total // count) + spare
    cut = split_rows(made, count, most=most)
    assert sum(part.tokens for part in cut) == total and len(cut) <= count
    assert max(part.tokens for part in cut) <= most
    free = split_rows(made, count)
    work = [(part.step.positions + 1.0 + (made.positions + 1.0).mean()).sum() for part in free]
    heaviest = (made.positions + 1.0).max() + (made.positions + 1.0).mean()
    assert max(work) <= sum(work) / count + heaviest + 0.01
    whole = split_rows(made, count, whole=True)
    held = [sum(-(-n // 16) for n in part.step.kv_lengths.tolist()) for part in whole]
    assert sum(part.sequences for part in whole) == len(lengths)
    assert max(held) <= sum(held) / count + max(-(-(a + b) // 16) for a, b in lengths)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_four_bits_read_back_within_half_a_step(rows, pairs, seed):
    values = torch.randn(rows, 2 * pairs, generator=torch.Generator().manual_seed(seed))
    packed, scale = pack_rows(values)
    assert packed.shape == (rows, pairs)
    error = (unpack_rows(packed) * scale[:, None] - values).abs()
    assert (error <= scale[:, None] * 0.5001).all()


@given(st.integers(1, 40), st.integers(1, 9), st.integers(4, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_copies_to_another_dtype_take_nothing_but_their_scratch(rows, width, room, up):
    wide, narrow = torch.randn(rows, width), torch.zeros(rows, width, dtype=torch.bfloat16)
    source, target = (wide, narrow) if up else (wide.bfloat16(), torch.zeros_like(wide))
    scratch = torch.zeros(room, dtype=torch.uint8)
    with Allocations() as seen:
        convert(target, source, scratch)
    assert torch.equal(target, source.to(target.dtype)) and seen.bytes == 0


def test_devices_of_a_process_share_streams(monkeypatch):
    """A library's memory for a stream outlives the device: another stream would take it again."""
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or object())
    monkeypatch.setattr(streams_module, "_STREAMS", {})
    devices = [object.__new__(CudaDevice) for _ in "ab"]
    for each in devices:
        each.place = "cuda:0"
    streams = [each.stream(queue) for each in devices for queue in ("gpu", "up")]
    assert streams[:2] == streams[2:] and len(made) == 2


class Driver:
    """CUDA's runtime, as far as pinning asks it: takes nothing beyond `room` bytes."""

    def __init__(self, room):
        self.room, self.pinned = room, {}

    def cudaHostRegister(self, address, size, flags):  # noqa: N802
        if sum(self.pinned.values()) + size > self.room:
            return 2
        self.pinned[address] = size
        return 0

    def cudaHostUnregister(self, address):  # noqa: N802
        del self.pinned[address]


@pytest.fixture
def driver(monkeypatch):
    """A GPU of 1 GiB whose memory is the CPU's; `driver.fractions` are what was set."""
    made, gpu = Driver(3 * MIB), SimpleNamespace(name="played", total_memory=1 << 30)
    made.fractions = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: gpu)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction",
                        lambda share, place: made.fractions.append(share))  # fmt: skip
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda place: None)
    return made


def test_what_the_driver_does_not_pin_stays_pageable_and_is_told_once(driver):
    device = CudaDevice(1 << 28, "cpu")
    first, second, third = (device.host(2 * MIB) for _ in range(3))
    assert {first.data_ptr()} == driver.pinned.keys()
    assert len(second) == len(third) == 2 * MIB
    why = "the system pins no 2.0 MiB: cudaHostRegister gave error 2"
    assert device.refusals == [why] and device.register(second) == why
    device.close()
    assert not driver.pinned


def test_keys_that_nobody_has_any_more_are_not_pinned(driver, monkeypatch):
    """Nor are those of a cache of which the driver has refused a part."""
    made = []
    monkeypatch.setattr(key_device, "mapped", lambda size: made.append(mapped(size)) or made[-1])
    monkeypatch.setattr(key_device, "_Reached", lambda address, size: made[-1])
    keys = key_device.CudaKeys(1 << 28, "cpu")
    keys.reached(2 * MIB)
    with pytest.raises(key_device.NotPinned, match="error 2"):
        keys.reached(2 * MIB)
    assert {made[0].data_ptr()} == driver.pinned.keys()
    del keys
    gc.collect()
    assert not driver.pinned


def test_the_cap_is_the_allocators_share_too(driver):
    CudaDevice(1 << 28, "cpu")
    CudaDevice(1 << 40, "cpu")
    assert driver.fractions == [0.25, 1.0]


class Ending:
    """An event that is past after it was asked so many times."""

    def __init__(self, times):
        self.left = times

    def query(self):
        self.left -= 1
        return self.left < 0


def test_pages_wait_for_small_copies_but_not_for_ever(monkeypatch):
    first, second = Ending(3), Ending(0)
    events = deque((first, second))
    with monkeypatch.context() as patient:
        patient.setattr(streams_module, "PATIENCE", 200.0)
        wait_for(events)
    assert not events and first.left < 0
    stuck, begun = deque((Ending(10**9),)), perf_counter()
    wait_for(stuck)
    assert len(stuck) == 1 and PATIENCE <= perf_counter() - begun


class Allocations(TorchDispatchMode):
    """Counts the bytes of new tensors that operations return."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        held = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs))
                if isinstance(t, torch.Tensor)}  # fmt: skip
        self.bytes += sum(t.nbytes for t in tree_leaves(found) if isinstance(t, torch.Tensor)
                          and t.untyped_storage().data_ptr() not in held)  # fmt: skip
        return found


@pytest.mark.parametrize(("x", "w", "scaled", "out"), [
    ("bf16", "bf16", False, "bf16"), ("bf16", "f32", False, "f32"), ("bf16", "i8", True, "bf16"),
    ("f32", "bf16", False, "f32"), ("f32", "i8", True, "f32"),
])  # fmt: skip
def test_what_a_product_takes_for_a_while_is_known_before(x, w, scaled, out):
    """A policy is chosen by what is known: what is taken beyond it would exceed the cap."""
    x_, w_, out_ = (torch.zeros(shape, dtype=TORCH[name])
                    for shape, name in (((5, 64), x), ((48, 64), w), ((5, 48), out)))  # fmt: skip
    function, arguments = matmul([out_, x_, w_, torch.ones(48) if scaled else None])
    with Allocations() as seen:
        function(*arguments)
    assert seen.bytes == workspace(5, 48, 64, x, w, out)


@pytest.mark.parametrize(("x", "w", "out"), [
    ("bf16", "f32", "f32"), ("bf16", "i8", "bf16"), ("bf16", "i8", "f32"), ("f32", "bf16", "f32"),
])  # fmt: skip
def test_a_product_with_scratch_takes_nothing_and_gives_the_same(x, w, out):
    torch.manual_seed(0)
    x_, w_ = torch.randn(5, 64).to(TORCH[x]), (9 * torch.randn(48, 64)).to(TORCH[w])
    scale = torch.rand(48) if w == "i8" else None
    scratch = torch.zeros(workspace(5, 48, 64, x, w, out), dtype=torch.uint8)
    found = []
    for room in (None, scratch):
        found.append(torch.zeros(5, 48, dtype=TORCH[out]))
        function, arguments = matmul([found[-1], x_, w_, scale], room)
        with Allocations() as seen:
            function(*arguments)
    widened_outputs = x == "bf16" and out == "f32" and w == "i8"  # the CPU's product of bf16
    assert seen.bytes == 0 or widened_outputs
    assert torch.equal(*found) and found[0].abs().sum() > 0


@given(st.lists(st.integers(0, 4000), max_size=30), st.integers(0, 30_000))
@settings(max_examples=50, deadline=None)
def test_no_sequence_of_allocations_exceeds_the_cap(sizes, cap):
    memory = Memory("cpu", cap)
    for size in sizes:
        before = memory.used
        try:
            memory.allocate("x", (size,), torch.uint8)
        except DeviceMemoryExceeded:
            assert before + size > cap - 255 and memory.used == before
        assert memory.used == sum(memory.held.values()) <= cap


@given(st.lists(st.integers(0, 3000), max_size=40))
@settings(max_examples=50, deadline=None)
def test_small_tensors_share_blocks_and_no_bytes(sizes):
    memory = Memory("cpu", 1 << 30, block=4096)
    made = [memory.allocate("x", (size,), torch.uint8) for size in sizes]
    for number, tensor in enumerate(made):
        assert not tensor.any()
        tensor.fill_(number % 255 + 1)
    assert all((tensor == number % 255 + 1).all() for number, tensor in enumerate(made))
    blocks = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in made if len(t)}
    small = sum(-(-size // 256) * 256 for size in sizes if size <= 1024)
    assert list(blocks.values()).count(4096) <= -(-small // 3072) + 1


def test_options_that_do_not_go_with_it():
    with pytest.raises(BadOption, match="one process that runs compiled kernels"):
        Options(gpu_memory=1, tp=2)
    with pytest.raises(BadOption, match="attention is dense, over keys of f32"):
        Options(gpu_memory=1, kv="fp8", target="cuda")
    with pytest.raises(BadOption, match="offload_schedule must be one of ring, cgo"):
        Options().changed(offload_schedule="s9")
    with pytest.raises(BadOption, match="no offload option 'ring'"):
        type(Options().offload).parse({"ring": "3"})
    assert [layer.homes for layer in MIXED][2] == "rrrrrrrr"
