"""Two ranks on a GPU each: the values of one process, logits, and a rank that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import weft
from weft.tests.runtime.gpu.test_gpu_logits import FORMATS

HERE = Path(__file__).parent
RANK_WORKER = HERE.parent / "execution" / "rank_worker.py"
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
PROGRAM = """
program p(x: str) -> str:
    "Hello {x}. "
    gen a(max_tokens=12)
    fork side in ["left", "right"] as parts:
        "On the {side}: "
        gen b(max_tokens=8, temperature=0.8)
        yield b
    select c from ["yes", "no"]
    return "{a} {parts} {c}"
"""
ROWS = [{"x": "you"}, {"x": "there, and all who are with you here"}, {"x": "him"}, {"x": "all"}]


def launched(worker: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run two ranks as a user does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(worker), *arguments]  # fmt: skip
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def last_line(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.gpu
@TWO_GPUS
@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_values_are_those_of_the_reference(model: str, tmp_path: Path) -> None:
    settings = {"model": model, "target": "cuda", "weights": "f32", "kv": "f32", "prove": False,
                "kv_memory": 64 << 20, "cache": str(tmp_path)}  # fmt: skip
    found = last_line(launched(RANK_WORKER, PROGRAM, json.dumps(ROWS),
                               json.dumps(settings | {"tp": 2})))  # fmt: skip
    reference = weft.compile(PROGRAM, model, executor="reference", kv_memory=16 << 20)
    assert found == reference.run_rows(ROWS).values


@pytest.mark.gpu
@TWO_GPUS
@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_logits_are_within_the_tolerance_of_one_gpu(model: str, tmp_path: Path) -> None:
    found = last_line(launched(HERE / "ranks_worker.py", model, "2", str(tmp_path), "cuda"))
    print(f"{model}: off by {found['medians']}")
    assert max(found["medians"]) < FORMATS["bf16"][1][model]
    assert found["crossed"] > 0.5  # another's


@pytest.mark.gpu
@TWO_GPUS
def test_a_rank_that_dies_ends_the_run_and_the_journal_survives(tmp_path: Path) -> None:
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    rows = [{"x": f"you, number {number}"} for number in range(16)]
    settings = {"model": "tiny-dense", "target": "cuda", "prove": False, "kv_memory": 64 << 20,
                "max_batch": 2, "cache": str(tmp_path)}  # fmt: skip
    more = {"tp": 2, "out": str(out), "kill_after": 150}
    done = launched(RANK_WORKER, PROGRAM, json.dumps(rows), json.dumps(settings | more))
    assert done.returncode != 0
    assert "rank 0 of 2 lost rank 1" in done.stderr or "SIGKILL" in done.stderr, done.stderr
    assert 1 <= len(journal.read_text().splitlines()) < 17 and not out.exists()
    again = weft.compile(PROGRAM, **settings).run_rows(rows, out)  # on one GPU
    assert 1 <= again.resumed < 16 and len(out.read_text().splitlines()) == 16
