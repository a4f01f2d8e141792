"""A model divided between a simulated GPU and the CPU: the tokens of the whole model, exactly."""

import random
import re
import shutil
import threading
import time
from dataclasses import replace

import pytest
import torch
import weft
from weft.codegen.meaning.graph_reference import GraphRun
from weft.compiler import Compilation
from weft.compiler.loading import reference_executor
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.models.presets import PRESETS
from weft.ir.core import Module, walk
from weft.ir.diagnostics import CapacityError
from weft.ir.offload.pipeline import Kind
from weft.ir.offload.schedules import SCHEDULES
from weft.ir.types import dtype_of, shape_of, tensor
from weft.options import Options
from weft.passes.graph.hazards import Hazard
from weft.runtime.devices.device import NoGpu
from weft.runtime.devices.memory import DeviceMemoryExceeded, Memory
from weft.runtime.devices.streams import SimulatedDevice
from weft.runtime.execution.executor import by_name, page_bytes
from weft.runtime.execution.weight_files import Checkpoint
from weft.runtime.execution.weights import load_weights
from weft.runtime.offload import executor as executor_module
from weft.runtime.offload.file_pages import PageLost
from weft.runtime.offload.narrow import pack_rows, unpack_rows
from weft.tests.each_time import each_time
from weft.tests.runtime.offload.offload_cases import (
    LIMITS,
    MIB,
    MIXED,
    ON_DISK,
    Cases,
    greedy,
    policy,
    step,
)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tokens_equal_the_whole_models_under_every_schedule(schedule, cases, whole):
    executor = cases.executor(policy(schedule))
    assert greedy(executor) == whole
    assert executor.device.memory.peak <= executor.device.memory.cap
    executor.close()


@pytest.mark.parametrize("schedule", each_time(["cgo", "s4"], "cgo"))
def test_keys_of_bf16_are_half_the_bytes_and_read_as_the_whole_model_reads_them(schedule, cases):
    """The whole model over keys of bf16 is the oracle: the same kernels on one device."""
    options = Options(**LIMITS, kv="bf16", cache=cases.cache, tune="off")  # sums in one order
    whole = Compilation("program p() -> int:\n    return 1\n", "tiny-moe", options=options).executor
    made = cases.offloading(policy(schedule), kv="bf16")
    executor = made.executor(made.kernels([]))
    prompt = step((range(40, 60), 0, [0, 1]), ((9, 10, 11), 0, [2]))
    after = step(((5,), 20, [0, 1]), ((6,), 3, [2]))
    for each in (prompt, after):
        torch.testing.assert_close(
            executor.forward(each), whole.forward(each), atol=1e-4, rtol=1e-4
        )
    wide = cases.offloading(policy(schedule), kv="f32")
    assert executor.page_bytes * 2 == page_bytes(cases.checkpoint.config)
    assert executor.num_pages >= 2 * wide._settings(wide.policy).num_pages
    executor.close()


def test_experts_of_bf16_pages_are_the_librarys_and_give_the_whole_models_tokens(cases):
    options = Options(**LIMITS, weights="bf16", cache=cases.cache)
    whole = Compilation("program p() -> int:\n    return 1\n", "tiny-moe", options=options).executor
    made = cases.offloading(replace(policy("cgo"), page_format="bf16"), weights="bf16")
    called = [op for section in made.lowered.sections
              for op in walk(section.function.regions[0].operations)
              if op.attribute("routine") == "moe_expert"]  # fmt: skip
    assert len(called) >= 2
    executor = made.executor(made.kernels([]))
    assert greedy(executor) == greedy(whole)
    executor.close()


def test_prompts_and_decoding_share_a_pipeline(cases):
    """A step of both kinds: its micro-batches mix them, and a prompt is cut between two."""
    options = Options(**LIMITS)
    reference = reference_executor(cases.checkpoint, cases.checkpoint.graph, options)
    executor = cases.executor(policy("ring"))
    for made in (
        step((range(7), 0, [0]), (range(30, 33), 0, [1])),
        step(((5,), 7, [0]), ((6,), 3, [1]), (range(60, 97), 0, [2, 3, 4]), rows=[0, 2, 38, 1]),
        step(((9,), 8, [0]), (range(97, 101), 37, [2, 3, 4])),
    ):
        torch.testing.assert_close(executor.forward(made), reference.forward(made),
                                   atol=1e-4, rtol=1e-4)  # fmt: skip
    executor.copy_page(2, 6)
    reference.copy_page(2, 6)
    made = step(((8,), 41, [6, 3, 4]))
    torch.testing.assert_close(executor.forward(made), reference.forward(made),
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    executor.close()


def test_a_program_gives_what_it_gives_on_the_whole_model(cases):
    program = """
program continued(text: str) -> str:
    "{text}"
    gen rest(max_tokens=6)
    return rest
"""
    options = Options(cache=cases.cache, **LIMITS).changed(trace=True)
    results = []
    divided = {"gpu_memory": 20 * MIB, "offload_cpu_experts": 1}
    for chosen in (options.changed(executor="reference"), options.changed(**divided)):
        executable = weft.compile(program, "tiny-moe", options=chosen)
        results.append([executable.run(text=text).value for text in ("copy: dog", "reverse: abc")])
    assert results[0] == results[1] and all(results[0])


def test_pages_from_disk_and_a_small_ring(cases, whole):
    executor = cases.executor(policy("ring", ON_DISK, micro_batches=2))
    assert greedy(executor) == whole
    kinds = {task.kind for task in executor.pipeline.tasks}
    assert {Kind.READ, Kind.CPU_EXPERTS, Kind.PAGE} <= kinds
    executor.close()


def test_logits_do_not_depend_on_the_schedule_or_on_delays(cases):
    """Random delays move every task about; a proven pipeline gives the same bits."""
    chance = random.Random(3)

    def delay(task):
        time.sleep(chance.random() * 2e-3)

    prompt = step(((1, 2, 3, 4, 5, 6, 7, 8), 0, [0]), ((9, 10, 11), 0, [1]))
    exact = None
    for schedule in ("ring", "s3"):
        executor = cases.executor(policy(schedule), delay=delay)
        for _ in range(3):
            found = executor.forward(prompt).clone()
            exact = found if exact is None else exact
            assert torch.equal(found, exact)
        executor.close()


def test_a_dropped_wait_is_refused_and_would_give_other_logits(cases, monkeypatch):
    real = executor_module.build_pipeline

    def faulty(name, shape):
        pipeline = real(name, shape)
        tasks = [
            replace(t, waits=tuple(w for w in t.waits if not w.startswith("page.")))
            if t.kind is Kind.EXPERTS else t
            for t in pipeline.tasks
        ]  # fmt: skip
        return replace(pipeline, tasks=tuple(tasks))

    made = cases.offloading(policy("ring"))
    kernels = made.kernels([])
    monkeypatch.setattr(executor_module, "build_pipeline", faulty)
    with pytest.raises(Hazard, match=r"experts\.\d\.\d\.\d reads page\.\d while page\.\d\.\d may"):
        greedy(made.executor(kernels))

    ran = threading.Event()

    def late(task):
        """Hold the pages of layer 3 back until its experts have run."""
        if task.kind is Kind.PAGE and task.layer == 3:
            assert ran.wait(60)
        if task.kind is Kind.COMBINE and task.layer == 3:
            ran.set()

    made.options = made.options.changed(prove=False)
    executor = made.executor(kernels, delay=late)
    prompt = step((range(40, 60), 0, [0, 1]))
    wrong = executor.forward(prompt).clone()
    monkeypatch.undo()
    right = made.executor(kernels)
    assert not torch.allclose(wrong, right.forward(prompt), atol=1e-3)
    executor.close()
    right.close()


@pytest.mark.slow
def test_head_norms_windows_and_three_of_six_experts(cases, monkeypatch):
    shape = replace(
        PRESETS["tiny-moe"], architecture="Qwen3MoeForCausalLM", head_norms=True, tied=False,
        experts=6, experts_per_token=3, windows=(0, 24, 0, 0, 0),
    )  # fmt: skip
    monkeypatch.setitem(PRESETS, "tiny-qwen-moe", shape)
    mine = Cases(cases.cache)
    mine.checkpoint = open_checkpoint("random:tiny-qwen-moe")
    reference = reference_executor(mine.checkpoint, mine.checkpoint.graph, Options(**LIMITS))
    expected = greedy(reference, 3)
    for schedule in ("ring", "s4"):
        executor = mine.executor(None, gpu_memory=24 * MIB, offload_schedule=schedule,
                                 offload_cpu_experts=1, offload_micro_batches=3)  # fmt: skip
        assert greedy(executor, 3) == expected
        executor.close()


@pytest.mark.parametrize("gpu_memory", each_time([17, 40], 17))
def test_the_cap_holds(gpu_memory, cases, whole):
    executor = cases.executor(None, gpu_memory=gpu_memory * MIB, offload_cpu_experts=2)
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    memory = executor.device.memory
    assert memory.peak <= memory.cap and sum(memory.held.values()) == memory.used
    executor.close()


def test_a_policy_that_does_not_fit_has_fewer_pages_on_the_gpu(cases, whole):
    made = cases.offloading(policy("ring"), gpu_memory=17 * MIB)
    (remark,) = made.chosen.remarks
    assert "its pages take" in remark and "fewer lie there" in remark
    resident, asked = (sum(len(layer.resident) for layer in found.layers)
                       for found in (made.policy, policy("ring")))  # fmt: skip
    assert resident < asked and made.policy.schedule == "ring"
    executor = made.executor(made.kernels([]))
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    assert executor.device.memory.peak <= 17 * MIB
    executor.close()
    assert cases.offloading(policy("ring")).chosen.remarks == ("policy given",)


def test_what_does_not_fit_is_refused_by_the_device(cases):
    with pytest.raises(DeviceMemoryExceeded, match=r"pages: .* needed, but of 12\.0 MiB only"):
        cases.executor(policy("cgo"), device=SimulatedDevice.of(12 * MIB))
    with pytest.raises(CapacityError, match=r"MiB of GPU memory are [\d.]+ MiB too few"):
        cases.executor(None, gpu_memory=10 * MIB, offload_cpu_experts=0)
    memory = Memory("cpu", 1000)
    memory.allocate("a", (100,), torch.float32)
    with pytest.raises(DeviceMemoryExceeded, match="b: 1.0 KiB of GPU memory are needed"):
        memory.allocate("b", (200,), torch.float32)


def test_a_model_larger_than_host_memory_runs_from_disk(cases, whole):
    made = cases.offloading(None, gpu_memory=19 * MIB, offload_host_memory=6 * MIB)
    assert sum(len(layer.disk) for layer in made.policy.layers) > 20
    executor = made.executor(made.kernels([]))
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    executor.close()
    with pytest.raises(CapacityError, match=r"2\.0 MiB of host memory are [\d.]+ [KM]iB too few"):
        _ = cases.offloading(None, gpu_memory=19 * MIB, offload_host_memory=2 * MIB).policy


def test_a_page_file_that_is_cut_and_comes_back(cases, whole, tmp_path):
    folder = tmp_path / "tiny-moe"
    shutil.copytree(cases.checkpoint.folder, folder)
    executor = cases.executor(policy("ring", ON_DISK), folder=folder)
    file, content = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    assert greedy(executor, 1) == [tokens[:1] for tokens in whole]
    with file.open("r+b") as opened:
        opened.truncate(100_000)
    with pytest.raises(PageLost, match=r"model.safetensors: the page of layer \d, expert \d"):
        greedy(executor, 2)
    with file.open("r+b") as opened:
        opened.write(content)
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    file.unlink()  # what is open stays readable
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    executor.close()


def test_refused_pinning_is_said_and_nothing_else_changes(cases, whole):
    device = SimulatedDevice.of(64 * MIB, refusal="the limit of locked memory is 64 KiB")
    executor = cases.executor(policy("cgo"), device=device)
    assert greedy(executor, 1) == [tokens[:1] for tokens in whole]
    assert executor.notes == [
        "host memory stays pageable, copies are slower: the limit of locked memory is 64 KiB"
    ]
    assert ("note", executor.notes[0]) in executor.describe()
    executor.close()


def test_pages_are_copied_from_pinned_memory_wherever_they_come_from(cases):
    pinned = []

    class Pinning(SimulatedDevice):
        def register(self, buffer):
            pinned.append(buffer)
            return ""

    executor = cases.executor(policy("ring", ON_DISK), device=Pinning(Memory("cpu", 64 * MIB)))
    starts = [(buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes) for buffer in pinned]
    parts = executor._parts
    for pool in (parts.host_pool, parts.relay):
        for part in pool.tensors.values():
            assert any(a <= part.data_ptr() < b for a, b in starts)
    executor.close()


def test_cold_experts_go_to_the_cpu_by_what_was_taken(cases, whole):
    executor = cases.executor(policy("ring"))
    executor.options = replace(executor.options, adapt_every=1)
    heat = executor._parts.taken
    heat[0] = torch.tensor([9, 9, 9, 0, 9, 9, 9, 1]) * 1000  # those that the ring has between steps
    heat = heat.clone()
    assert greedy(executor) == whole
    taken = executor.popularity() - heat
    assert taken.sum() == 2 * 5 * (sum(map(len, PROMPT_LENGTHS)) + 4 * 5)
    assert executor._shape.cpu[0] == (3, 7) and executor._shape.ringed[0] == (4, 5, 6)
    assert any("colder experts" in note for note in executor.notes)
    executor.close()


PROMPT_LENGTHS = ("12345", "1", "123456789", "123", "1" * 11)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_narrow_pages_are_lossy_and_mean_what_their_numbers_are(format, cases):
    layers = MIXED if format == "int8" else tuple(
        replace(layer, homes=layer.homes.replace("c", "s")) for layer in MIXED
    )  # fmt: skip
    made = cases.offloading(replace(policy("ring", layers), page_format=format))
    executor = made.executor(made.kernels([]))
    prompt = step((range(40, 52), 0, [0]), ((7, 8), 0, [1]))
    found = executor.forward(prompt).clone()
    loaded = load_weights(Module((made.module.symbol("step"),)), tensor_source_of(cases))
    dense = {name: weight.dense() for name, weight in loaded.items()}
    if format == "int4":
        dense |= four_bits(made.module, cases)
    run = GraphRun(Module((made.module.symbol("step"),)), dense, slots=512)
    torch.testing.assert_close(found, run.step(by_name(prompt)), atol=1e-3, rtol=1e-3)
    assert any("lossy" in note for note in executor.notes)
    executor.close()


def test_pages_of_four_bits_pass_the_link_as_such(cases, monkeypatch):
    """What is copied up a page is half the bytes of one of int8, and its scales."""
    layers = tuple(replace(layer, homes=layer.homes.replace("c", "s")) for layer in MIXED)
    copied = {}
    for format in ("int8", "int4"):
        made = cases.offloading(replace(policy("ring", layers), page_format=format))
        executor = made.executor(made.kernels([]))
        sizes, real = [], executor.device.trickle

        def trickle(target, source, sizes=sizes, real=real):
            sizes.append(source.nbytes)
            real(target, source)

        executor.device.trickle = trickle
        executor.forward(step((range(40, 52), 0, [0])))
        executor.close()
        copied[format] = sum(sizes)
        assert executor.device.memory.peak <= executor.device.memory.cap
    scales = (2 * 192 + 256) * 4  # of gate, up and down rows
    data = 3 * 192 * 256
    assert copied["int8"] / copied["int4"] == (data + scales) / (data / 2 + scales)


def tensor_source_of(cases):
    return Checkpoint(cases.checkpoint.folder)


def four_bits(module, cases):
    """The numbers that experts' weights are in four bits."""
    dense = {}
    for op in module.walk():
        if op.name == "graph.weight" and dtype_of(op.result.type) == "i8":
            wide = op.__class__(op.name, (), op.attributes, (), (
                replace(op.result, type=tensor("f32", *shape_of(op.result.type))),))  # fmt: skip
            loaded = load_weights(Module((wide,)), tensor_source_of(cases))[op.result.name]
            packed, scale = pack_rows(loaded.data)
            dense[op.result.name] = unpack_rows(packed).float() * scale[..., None]
    return dense


def test_a_cap_below_the_librarys_own_is_shown_as_it_was_given(cases):
    made = cases.offloading(None, gpu_memory=20 * MIB, target="cuda", kv_memory=MIB)
    with pytest.raises(
        CapacityError, match=r"20\.0 MiB of GPU memory.*libraries 512\.0 M"
    ) as found:
        _ = made.policy
    least = int(re.search(r"at least (\d+)MiB", found.value.hint_text)[1])
    assert cases.offloading(None, gpu_memory=least * MIB, target="cuda", kv_memory=MIB).policy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_before_what_would_not_fit(cases):
    options = Options(**LIMITS).changed(target="cuda", gpu_memory=20 * MIB)
    program = "program p() -> int:\n    return 1\n"
    with pytest.raises(NoGpu, match="the target cuda needs an NVIDIA GPU"):
        _ = Compilation(program, "tiny-moe", options=options).executor


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_target_cuda_without_a_gpu_says_so(cases):
    made = cases.offloading(None, gpu_memory=4 << 30, target="cuda", kv_memory=MIB)
    assert made.policy.widest == 0
    with pytest.raises(NoGpu, match="the target cuda needs an NVIDIA GPU"):
        made.executor({}, delay=None)
