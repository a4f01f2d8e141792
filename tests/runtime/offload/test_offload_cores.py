"""Attention and the CPU's experts keep to cores of their own, with pools no larger than that."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.ir.offload.schedules import PipelineShape, build_pipeline
from weft.runtime.devices.streams import SimulatedDevice
from weft.runtime.offload.cores import divided
from weft.runtime.offload.executor import HOST_QUEUES
from weft.runtime.offload.queues import Queues


@given(st.integers(0, 40), st.lists(st.integers(0, 99), min_size=1, max_size=32, unique=True))
def test_shares_are_disjoint_and_no_more_than_asked_for(threads, cores):
    found = divided(threads, True, cores=cores)
    shares = {mine for mine in found.values()}
    every = [core for mine in shares for core in mine]
    computing = [core for queue in ("cpu", "cpu_experts") for core in found.get(queue, ())]
    assert len(every) == len(set(every)) and set(every) <= {*cores} and all(shares)
    most = min(threads or len(cores), len(cores) - len(cores) // 8)
    assert len(computing) == (most if most > 1 else 0) and bool(found) == (most > 1)
    assert ("gpu" in found) == (len(cores) >= 8 and bool(found))
    alone = divided(threads, False, cores=cores)
    assert bool(alone) == (most > 1 and len(cores) >= 8)
    if alone:
        assert len(alone["cpu"]) == most and alone["up"] == found["up"]
        assert not {*alone["cpu"]} & {*alone["up"]}


def test_with_one_micro_batch_attention_and_experts_take_turns():
    found = divided(30, True, 1, range(32))
    assert found["cpu"] == found["cpu_experts"] == tuple(range(28))
    assert found["up"] == (28, 29, 30, 31)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind")
def test_a_queue_keeps_to_its_cores_and_nobody_else_does():
    core = min(os.sched_getaffinity(0))
    everyone, seen = os.sched_getaffinity(0), {}
    pipeline = build_pipeline("cgo", PipelineShape(2, ringed=((0, 1),) * 2, ring=4))

    def work(task):
        seen[task.queue] = (os.sched_getaffinity(0), torch.get_num_threads())

    before = torch.get_num_threads()
    queues = Queues(SimulatedDevice.of(0), HOST_QUEUES, cores={"cpu": (core,)})
    queues.start(pipeline, work).finish()
    queues.close()
    queues.join()
    assert seen["cpu"] == ({core}, 1) and seen["gpu"][0] == everyone
    assert os.sched_getaffinity(0) == everyone and torch.get_num_threads() == before
