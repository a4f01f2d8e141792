"""The speed bench of sparse attention in a tiny setting: its kernels interpreted, and no time."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from weft.bench.sparse.offload import fetched_ahead
from weft.bench.sparse.steps import Setting
from weft.bench.sparse_speed import MODEL
from weft.frontend.models.presets import preset


def test_the_model_of_the_end_to_end_section_is_known() -> None:
    config = preset(MODEL)
    assert (config.heads, config.kv_heads, config.head_dim) == (32, 8, 128)


BENCH = """
from weft.tests.quick_interpreter import quicken
quicken()
from weft.bench.sparse_speed import main
main()
"""
"""The bench in a process whose interpreter is quick: the usual one takes five times as long."""


@pytest.mark.slow
def test_tiny() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-c", BENCH, "--tiny", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["operation_tiny"]["error"] < 1e-5
    assert figures["operation_tiny"]["bound"] > 1
    shared = figures["shared_prefix_tiny"]
    assert max(shared["grouped"]["error"], shared["apart"]["error"]) < 1e-5
    for name in ("ratio", "threshold", "top_p", "tail", "top_p_tail"):
        assert figures[f"policy_{name}_tiny"]["error"] < 1e-5
    offload = figures["offload_tiny"]
    assert offload["error"] < 1e-5 and offload["traffic"]["held"] > 0
    host = figures["host_model_tiny"]
    assert host["error"] < 1e-5 and host["held"] > 0  # logits are those of keys on the device
    assert figures["end_to_end_tiny"] == {"us": None, "dense_us": None}  # run, and not timed


def test_what_is_compared_with_streaming_is_what_an_executor_would_do():
    amounts = {"ratio": 1 / 16, "labels": "i4", "channels": 32}
    assert not fetched_ahead(Setting.of(1 << 18, 1, amounts, tiny=False))
