"""Draws that a recorded step has made are not made again, and others are."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from weft.runtime.gpu.device_sampler import DeviceSampler
from weft.runtime.gpu.drawn import Drawn

ROWS, WORDS = 8, 96


@pytest.mark.parametrize(
    ("recorded", "wanted", "draws"),
    [(0, 3, 1), (2, 3, 1), (3, 3, 0), (5, 3, 0)],  # of 5 rows two are only scored
)
def test_rows_that_a_recorded_step_has_drawn_are_fetched(recorded, wanted, draws):
    drawn, made = Drawn(ROWS, torch.device("cpu")), []
    executor: Any = SimpleNamespace(
        greedy=lambda rows, *rest: made.append(rows), drawn=drawn, vocab_size=WORDS,
        device=torch.device("cpu"), everything=torch.full((ROWS, 3), -1, dtype=torch.int32),
    )  # fmt: skip
    sampler = DeviceSampler(executor, defaultdict(lambda: SimpleNamespace(launch=None)))
    drawn.token[:] = torch.arange(40, 40 + ROWS)
    drawn.greedy = recorded
    greedy = [torch.zeros(wanted), *(torch.zeros(wanted) for _ in range(4))]
    found = sampler.start(torch.zeros(wanted, WORDS), None, *greedy).wait()
    assert made == [wanted] * draws
    assert found[0].tolist() == [40 + row for row in range(wanted)]
    assert drawn.greedy == 0  # what comes next is another step's
