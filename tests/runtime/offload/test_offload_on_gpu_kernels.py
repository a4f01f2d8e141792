"""A partitioned model on the kernels of a GPU, interpreted: the tokens of the whole model."""

import json
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "offload_worker.py"


@pytest.mark.parametrize("schedule", ["s4", pytest.param("ring", marks=pytest.mark.slow)])
def test_tokens_equal_the_whole_models(schedule, tmp_path, interpreting):
    """Attention of `s4` runs over a work list that is planned for each micro-batch."""
    done = interpreting.run(WORKER, tmp_path, schedule)
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout.splitlines()[-1])
    assert found[schedule] == expected
