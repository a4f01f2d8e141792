"""Tensor-parallel runs in processes of their own: values of one process, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import weft
from torch._C._distributed_c10d import TCPStore
from weft.ir.diagnostics import WeftError
from weft.runtime.execution import ranks
from weft.runtime.execution.step import StepInput

PROGRAM = """
program p(x: str) -> str:
    "Hello {x}. "
    gen a(max_tokens=6)
    fork side in ["left", "right"] as parts:
        "On the {side}: "
        gen b(max_tokens=4, temperature=0.8)
        yield b
    select c from ["yes", "no"]
    return "{a} {parts} {c}"
"""
ROWS = [{"x": "you"}, {"x": "there, and all who are with you here"}]
WORKER = Path(__file__).parent / "rank_worker.py"
DEVICE_WORKER = Path(__file__).parents[1] / "gpu" / "device_worker.py"


class Ranks:
    """Processes as torchrun starts them: they meet at a store of who starts them."""

    def __init__(self, count: int, *arguments: str, worker: Path = WORKER) -> None:
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {
            **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(count), "WEFT_THREADS": "1",
        }  # fmt: skip
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(worker), *arguments], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(count)
        ]  # fmt: skip

    def wait(self) -> list[tuple[int, str, str]]:
        """Return of each its exit status, output and errors."""
        found = []
        for process in self.processes:
            out, errors = process.communicate()
            found.append((process.returncode, out, errors))
        return found


def run(count: int, settings: dict, program: str = PROGRAM):
    ended = Ranks(count, program, json.dumps(ROWS), json.dumps(settings)).wait()
    for status, _, errors in ended:
        assert status == 0, errors
    assert all(out == "" for _, out, _ in ended[1:])  # only rank 0 has a result
    return json.loads(ended[0][1].splitlines()[-1])


def alone(settings: dict):
    plain = {name: value for name, value in settings.items() if name != "tp"}
    return weft.compile(PROGRAM, **plain).run_rows(ROWS).values


def test_two_processes_give_the_values_of_one():
    settings = {"model": "tiny-dense", "executor": "reference", "tp": 2, "kv_memory": 16 << 20}
    assert run(2, settings) == alone(settings)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_two_processes_with_compiled_kernels_give_the_values_of_one(model, request):
    cache = str(request.config.cache.mkdir("weft-kernels"))
    settings = {"model": model, "tp": 2, "kv_memory": 16 << 20, "cache": cache}
    assert run(2, settings) == alone(settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen", "mixtral"])
def test_two_processes_with_a_gpus_executor_give_the_tokens_of_the_meaning(name, tmp_path):
    pytest.importorskip("triton")
    ended = Ranks(2, name, str(tmp_path), worker=DEVICE_WORKER).wait()
    assert all(status == 0 for status, *_ in ended), ended
    found, expected, recordings = json.loads(ended[0][1].splitlines()[-1])
    assert found == expected
    assert recordings >= 1  # beside those that were made before the first step


def test_a_rank_that_dies_is_named_and_the_journal_survives(tmp_path):
    program = (
        'program p(x: str) -> str:\n    "Hello {x}. "\n    gen a(max_tokens=6)\n    return a\n'
    )
    out, rows = tmp_path / "out.jsonl", [{"x": name} for name in ("you", "him", "her", "all")]
    settings = {"model": "tiny-dense", "executor": "reference", "kv_memory": 16 << 20,
                "max_batch": 1}  # fmt: skip
    more = {"tp": 2, "out": str(out), "kill_after": 15}
    ended = Ranks(2, program, json.dumps(rows), json.dumps(settings | more)).wait()
    assert ended[1][0] == -signal.SIGKILL
    assert ended[0][0] == 1 and "rank 0 of 2 lost rank 1: " in ended[0][2], ended[0][2]
    again = weft.compile(program, **settings).run_rows(rows, out)
    assert 1 <= again.resumed < 4 and len(out.read_text().splitlines()) == 4


def test_a_run_that_was_not_launched_says_how():
    with pytest.raises(ranks.NotLaunched, match=r"tp = 2 needs 2 processes, and there is one") as e:
        weft.compile(PROGRAM, "tiny-dense", tp=2)
    assert "torchrun --nproc-per-node 2" in str(e.value)


def test_heads_that_ranks_cannot_share_are_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(WeftError, match="tp = 3 does not divide the heads of queries, 4"):
        weft.compile(PROGRAM, "tiny-dense", tp=3)


@pytest.fixture
def pipe(monkeypatch):
    """Broadcasts of one process that another thread of it receives."""
    sent: list[torch.Tensor] = []
    ready = threading.Semaphore(0)

    def broadcast(tensor, source):
        if threading.current_thread() is threading.main_thread():
            sent.append(tensor.clone())
            ready.release()
        else:
            assert ready.acquire(timeout=200)
            tensor.copy_(sent.pop(0))

    monkeypatch.setattr(ranks.distributed, "broadcast", broadcast)


def received(count: int):
    found: list = []

    def receive():
        channel = ranks.Channel()
        found.extend(channel.receive() for _ in range(count))

    thread = threading.Thread(target=receive)
    thread.start()
    return thread, found


@pytest.mark.parametrize("sizes", [(), (0,), (3, 0, 5), (4093,), (4094,), (4096,), (9000, 1)])
def test_messages_of_any_length_arrive(pipe, sizes):
    thread, found = received(2)
    arrays = [np.arange(size, dtype=np.int32) + at for at, size in enumerate(sizes)]
    channel = ranks.Channel()
    channel.send(ranks.STEP, *arrays)
    channel.send(ranks.COPY_PAGE, np.array([1, 2], np.int32))
    thread.join()
    (kind, first), (after, pages) = found
    assert (kind, after, pages[0].tolist()) == (ranks.STEP, ranks.COPY_PAGE, [1, 2])
    assert [a.tolist() for a in first] == [a.tolist() for a in arrays]


def test_a_step_arrives_with_the_pages_in_use_only(pipe):
    def ints(values):
        return torch.tensor(values, dtype=torch.int32)

    table = torch.arange(2 * 300, dtype=torch.int32).view(2, 300)
    step = StepInput(ints([1, 2]), ints([70, 5]), ints([9, 8]), ints([0, 1, 2]), ints([71, 6]),
                     table, ints([0, 1]))  # fmt: skip
    thread, found = received(1)
    ranks.Announcer(16).step(step, np.array([-1, 0], np.int32))
    thread.join()
    steps = ranks._Steps()
    again, source = steps.of(found[0][1])
    assert source is not None and source.tolist() == [-1, 0]
    assert torch.equal(again.page_table, table[:, :64]) and again.kv_lengths.tolist() == [71, 6]
    assert again.tokens.tolist() == [1, 2] and again.query_starts.tolist() == [0, 1, 2]
    assert steps.of(found[0][1])[0] is again


def test_copies_of_slots_arrive_with_the_step_that_makes_them(monkeypatch):
    def ints(*values):
        return torch.tensor(values, dtype=torch.int32)

    plain = StepInput(ints(1, 2), ints(3, 5), ints(9, 8), ints(0, 1, 2), ints(4, 6),
                      ints(0, 1).view(2, 1), ints(0, 1))  # fmt: skip
    sent: list[Any] = []
    monkeypatch.setattr(ranks, "Channel", lambda: SimpleNamespace(
        send=lambda kind, *arrays: sent.append((kind, [a.ravel().copy() for a in arrays])),
        receive=lambda: sent.pop(0)))  # fmt: skip
    monkeypatch.setattr(ranks, "leave", lambda: None)
    announcer = ranks.Announcer(16)
    announcer.step(replace(plain, copies=ints(9, 8, 7, 6).view(2, 2)), None)
    announcer.step(plain, None)
    sent.append((ranks.STOP, []))
    ran: list[StepInput] = []
    ranks.follow(SimpleNamespace(forward=ran.append))
    assert ran[0].copies is not None and ran[0].copies.tolist() == [[9, 8], [7, 6]]
    assert ran[0].tokens.tolist() == [1, 2] and ran[1].copies is None


def test_what_holds_communicators_ends_before_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(ranks, "_before_end", [])
    monkeypatch.setattr(ranks.distributed, "destroy_process_group", lambda: order.append("parted"))
    ranks.before_end(lambda: order.append("graphs"))
    ranks.leave()
    ranks.leave()
    assert order == ["graphs", "parted", "parted"]
