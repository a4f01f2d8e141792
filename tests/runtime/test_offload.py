"""A model divided between a simulated GPU and the CPU: the tokens of the whole model, exactly."""

import contextlib
import random
import shutil
import time
from dataclasses import replace

import pytest
import torch
import weft
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_cases import LIMITS, MIB, MIXED, ON_DISK, Cases, greedy, policy, step
from weft.codegen.graph_reference import GraphRun
from weft.ir.core import Module
from weft.ir.diagnostics import CapacityError
from weft.ir.pipeline import Kind
from weft.ir.pipeline_schedules import SCHEDULES, PipelineShape, build_pipeline
from weft.ir.types import dtype_of, shape_of, tensor
from weft.loading import reference_executor
from weft.options import BadOption, Options
from weft.passes.graph.hazards import Hazard
from weft.runtime.device import NoGpu
from weft.runtime.executor import by_name
from weft.runtime.offload import executor as executor_module
from weft.runtime.offload.device import DeviceMemoryExceeded, Memory, SimulatedDevice
from weft.runtime.offload.narrow import unpack_rows
from weft.runtime.offload.pages import PageLost, pack_rows
from weft.runtime.offload.placing import colder
from weft.runtime.offload.queues import Queues
from weft.runtime.offload.split import split_rows
from weft.runtime.weights import Checkpoint, load_weights


@pytest.fixture(scope="module")
def cases(request):
    return Cases(request.config.cache.mkdir("weft-kernels"))


@pytest.fixture(scope="module")
def whole(cases):
    """The tokens of the model in one piece."""
    options = Options(**LIMITS)
    return greedy(reference_executor(cases.checkpoint, cases.checkpoint.graph, options))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tokens_equal_the_whole_models_under_every_schedule(schedule, cases, whole):
    executor = cases.executor(policy(schedule))
    assert greedy(executor) == whole
    assert executor.device.memory.peak <= executor.device.memory.cap
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


def test_a_dropped_wait_is_refused_and_would_give_other_tokens(cases, whole, monkeypatch):
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

    def slow_pages(task):
        if task.kind is Kind.PAGE:
            time.sleep(0.02)

    made.options = made.options.changed(prove=False)
    executor = made.executor(kernels, delay=slow_pages)
    assert greedy(executor, 2) != [tokens[:2] for tokens in whole]
    executor.close()


@pytest.mark.parametrize("gpu_memory", [17, 40])
def test_the_cap_holds(gpu_memory, cases, whole):
    executor = cases.executor(None, gpu_memory=gpu_memory * MIB, offload_cpu_experts=2)
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    memory = executor.device.memory
    assert memory.peak <= memory.cap and sum(memory.held.values()) == memory.used
    executor.close()


def test_a_policy_that_does_not_fit_is_refused_by_the_device(cases):
    with pytest.raises(DeviceMemoryExceeded, match=r"pages needs .* of 12\.00 MiB only"):
        cases.executor(policy("cgo"), gpu_memory=12 * MIB)
    with pytest.raises(CapacityError, match=r"MiB of GPU memory are [\d.]+ MiB too few"):
        cases.executor(None, gpu_memory=10 * MIB)
    memory = Memory("cpu", 1000)
    memory.allocate("a", (100,), torch.float32)
    with pytest.raises(DeviceMemoryExceeded, match="b needs"):
        memory.allocate("b", (200,), torch.float32)


def test_a_model_larger_than_host_memory_runs_from_disk(cases, whole):
    made = cases.offloading(None, gpu_memory=19 * MIB, offload_host_memory=6 * MIB)
    assert sum(len(layer.disk) for layer in made.policy.layers) > 20
    executor = made.executor(made.kernels([]))
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    executor.close()
    with pytest.raises(CapacityError, match=r"2\.00 MiB of host memory are [\d.]+ MiB too few"):
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


def test_cold_experts_go_to_the_cpu_by_what_was_taken(cases, whole):
    executor = cases.executor(policy("ring"))
    executor.options = replace(executor.options, adapt_every=2)
    assert greedy(executor) == whole
    taken = executor.popularity()
    assert taken.sum() == 2 * 5 * (sum(map(len, PROMPT_LENGTHS)) + 4 * 5)
    assert any("colder experts" in note for note in executor.notes)
    executor.close()


PROMPT_LENGTHS = ("12345", "1", "123456789", "123", "1" * 11)


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
    assert [part.tokens for part in parts] == [8, 7, 7]
    assert parts[0].step.kv_lengths.tolist() == [11] and parts[1].step.kv_lengths.tolist() == [18]
    assert parts[2].step.kv_lengths.tolist() == [23, 10, 5]
    assert parts[2].step.query_starts.tolist() == [0, 5, 6, 7]
    assert [part.wanted.tolist() for part in parts] == [[1], [], [0, 2]]
    uncut = split_rows(made, 3, whole=True)
    assert [part.tokens for part in uncut] == [20, 2]
    assert [len(part.step.kv_lengths) for part in uncut] == [1, 2]


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


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_four_bits_read_back_within_half_a_step(rows, pairs, seed):
    values = torch.randn(rows, 2 * pairs, generator=torch.Generator().manual_seed(seed))
    packed, scale = pack_rows(values)
    assert packed.shape == (rows, pairs)
    error = (unpack_rows(packed) * scale[:, None] - values).abs()
    assert (error <= scale[:, None] * 0.5001).all()


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


class Recorded:
    """A device whose streams note what they wait for: events as on a GPU."""

    name, place = "recorded", "cpu"

    def __init__(self):
        self.waits, self.synchronised = [], []

    def stream(self, queue):
        return RecordedStream(self, queue)


class RecordedStream:
    def __init__(self, device, queue):
        self._device, self._queue = device, queue
        self._done = 0

    def __call__(self):
        return contextlib.nullcontext()

    def wait(self, event):
        self._device.waits.append((self._queue, event.name))

    def record(self):
        self._done += 1
        return RecordedEvent(self._device, f"{self._queue}.{self._done}")


class RecordedEvent:
    def __init__(self, device, name):
        self._device, self.name = device, name

    def synchronize(self):
        self._device.synchronised.append(self.name)


def test_streams_wait_for_events_and_host_queues_synchronise_with_them():
    pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 2, ring=4))
    device, done = Recorded(), []
    queues = Queues(device, executor_module.HOST_QUEUES)
    queues.start(pipeline, lambda task: done.append(task.name)).finish()
    assert sorted(done) == sorted(task.name for task in pipeline.tasks)
    places = {t.name: f"{q}.{n}" for q, tasks in pipeline.queues.items()
              for n, t in enumerate(tasks, 1)}  # fmt: skip
    host = executor_module.HOST_QUEUES
    wanted = [(t.queue, places[w]) for t in pipeline.tasks for w in t.waits
              if t.queue not in host and pipeline.by_name[w].queue not in host]  # fmt: skip
    assert wanted and sorted(device.waits) == sorted(wanted)
    assert {places[w] for t in pipeline.tasks if t.queue in host for w in t.waits
            if pipeline.by_name[w].queue not in host} <= set(device.synchronised)  # fmt: skip
    queues.close()


def test_a_task_that_fails_wakes_every_queue_and_is_raised():
    pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 2, ring=4))

    def work(task):
        if task.name == "attend.0.1":
            raise OSError("gone")

    queues = Queues(SimulatedDevice.of(0), executor_module.HOST_QUEUES)
    with pytest.raises(OSError, match="gone"):
        queues.start(pipeline, work).finish()
    assert queues.start(pipeline, lambda task: None).finish() is None
    queues.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_target_cuda_without_a_gpu_says_so(cases):
    made = cases.offloading(None, gpu_memory=4 << 30, target="cuda", kv_memory=MIB)
    assert made.policy.widest == 0
    with pytest.raises(NoGpu, match="the target cuda needs an NVIDIA GPU"):
        made.executor({}, delay=None)


def test_options_that_do_not_go_with_it():
    with pytest.raises(BadOption, match="one process that runs compiled kernels"):
        Options(gpu_memory=1, tp=2)
    with pytest.raises(BadOption, match="attention is dense, over keys of f32"):
        Options(gpu_memory=1, kv="bf16")
    with pytest.raises(BadOption, match="offload_schedule must be one of ring, cgo"):
        Options().changed(offload_schedule="s9")
    with pytest.raises(BadOption, match="no offload option 'ring'"):
        type(Options().offload).parse({"ring": "3"})
    assert [layer.homes for layer in MIXED][2] == "rrrrrrrr"
