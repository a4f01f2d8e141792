"""Queues of an offloading executor: what they wait for, how they end, who takes turns."""

import contextlib
import gc
import subprocess
import sys
from threading import Event, Thread
from time import sleep

import pytest
from weft.ir.offload.pipeline import Kind
from weft.ir.offload.schedules import PipelineShape, build_pipeline
from weft.runtime.devices.streams import SimulatedDevice
from weft.runtime.offload import queues as queues_module
from weft.runtime.offload.executor import HOST_QUEUES
from weft.runtime.offload.queues import Queues
from weft.tests.runtime.offload.offload_cases import greedy, policy


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
    queues = Queues(device, HOST_QUEUES)
    queues.start(pipeline, lambda task: done.append(task.name)).finish()
    assert sorted(done) == sorted(task.name for task in pipeline.tasks)
    places = {t.name: f"{q}.{n}" for q, tasks in pipeline.queues.items()
              for n, t in enumerate(tasks, 1)}  # fmt: skip
    host = HOST_QUEUES
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

    queues = Queues(SimulatedDevice.of(0), HOST_QUEUES)
    with pytest.raises(OSError, match="gone"):
        queues.start(pipeline, work).finish()
    assert queues.start(pipeline, lambda task: None).finish() is None
    queues.close()


def test_a_queue_that_cannot_begin_is_an_error_of_the_run():
    """And is tried anew by the next."""
    pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 2, ring=4))
    device, lost = SimulatedDevice.of(0), [True]
    device.stream, make = lambda queue: make(queue) if not lost else gone(), device.stream

    def gone():
        raise OSError("the device is lost")

    queues = Queues(device, HOST_QUEUES)
    with pytest.raises(OSError, match="the device is lost"):
        queues.start(pipeline, lambda task: None).finish()
    lost.clear()
    assert queues.start(pipeline, lambda task: None).finish() is None
    queues.close()


def test_a_run_that_is_stopped_does_no_more_than_what_is_under_way():
    pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 2, ring=4))
    begun, go_on, done = Event(), Event(), []

    def work(task):
        done.append(task.name)
        begun.set()
        go_on.wait(60)

    queues = Queues(SimulatedDevice.of(0), HOST_QUEUES)
    run = queues.start(pipeline, work)
    assert begun.wait(60)
    stopping = Thread(target=queues.stop)
    stopping.start()
    while run.error is None:
        sleep(1e-3)
    go_on.set()
    stopping.join(60)
    assert not stopping.is_alive() and len(done) < len(pipeline.tasks) / 2


ENDS_IN_MID_STEP = """
import torch
from weft.ir.offload.schedules import PipelineShape, build_pipeline
from weft.runtime.devices.streams import SimulatedDevice
from weft.runtime.offload.queues import Queues

pages = torch.zeros(2, 16 << 20, dtype=torch.uint8)
pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 40, ring=4))
run = Queues(SimulatedDevice.of(0), ("cpu",)).start(pipeline, lambda task: pages[0].copy_(pages[1]))
"""


def test_a_process_that_ends_in_mid_step_ends_well():
    """A thread that copies while the interpreter ends would abort the process."""
    command = [sys.executable, "-c", ENDS_IN_MID_STEP]
    found = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.fixture
def usual_turns():
    """Python's own time between threads' turns, be what it may around the test."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield 0.005
    sys.setswitchinterval(before)


def test_threads_take_short_turns_while_any_queues_live(monkeypatch, usual_turns):
    gc.collect()  # executors that earlier tests let go of end their threads, and leave
    monkeypatch.setattr(queues_module, "_TURNS", queues_module._Turns())  # others may still live
    sys.setswitchinterval(usual_turns)
    pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 2, ring=4))
    turns, every = [], [Queues(SimulatedDevice.of(0), HOST_QUEUES) for _ in "ab"]
    for queues in every:  # the second begins among short turns, and stays behind the first
        queues.start(pipeline, lambda task: turns.append(sys.getswitchinterval())).finish()
    for queues in every:
        turns.append(sys.getswitchinterval())
        queues.close()
        queues.join()
    assert max(turns) < usual_turns == pytest.approx(sys.getswitchinterval())


def test_a_run_is_abandoned_when_no_queue_is_at_a_task_of_it():
    pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 2, ring=4))
    begun, go_on, done, ended = Event(), Event(), [], []

    def work(task):
        begun.set()
        go_on.wait(60)
        done.append(task.name)

    queues = Queues(SimulatedDevice.of(0), HOST_QUEUES)
    run = queues.start(pipeline, work)
    assert begun.wait(60)
    abandoning = Thread(target=lambda: (run.abandon(), ended.append(list(done))))
    abandoning.start()
    while run.error is None:
        sleep(1e-3)
    assert not ended
    go_on.set()
    abandoning.join(60)
    assert ended == [done] and 0 < len(done) < len(pipeline.tasks) / 2
    assert queues.start(pipeline, lambda task: None).finish() is None
    queues.close()


def test_behind_a_step_that_failed_at_its_end_all_pages_are_copied_anew(cases, whole):
    """What the first layer's were copied to has been written again by then."""
    broken = []

    def fails(task):
        if broken and task.kind is Kind.HEAD:
            broken.clear()
            raise OSError("gone")

    executor = cases.executor(policy("ring"), delay=fails)
    assert greedy(executor, 1) == [tokens[:1] for tokens in whole]
    broken.append(True)
    with pytest.raises(OSError, match="gone"):
        greedy(executor, 1)
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    executor.close()
