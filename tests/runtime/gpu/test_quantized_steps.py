"""Steps of several rows with fp8 weights: logits by the executor, and by the graph's meaning."""

from __future__ import annotations

import json
from pathlib import Path

WORKER = Path(__file__).parent / "quantized_worker.py"


def test_logits_are_near_the_graphs_meaning(tmp_path, interpreting):
    """Rounded activations have 3 bits of mantissa: within 15 % of two layers of random weights;
    widened weights with bf16 activations are within 4 %."""
    done = interpreting.run(WORKER, tmp_path)
    assert done.returncode == 0, done.stderr
    rounded, widened = json.loads(done.stdout.splitlines()[-1])
    assert all(1e-3 < error < 0.15 for error in rounded), rounded
    assert all(1e-3 < error < 0.04 for error in widened), widened
