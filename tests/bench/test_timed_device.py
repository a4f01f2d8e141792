"""The device that only takes time keeps its host as long as the real one does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from weft.bench import timed_device
from weft.bench.timed_device import LAUNCH, TimedDevice
from weft.runtime.step import StepInput


def a_step(*counts: int) -> StepInput:
    """Return a step of sequences that begin with so many tokens each, in pages of their own."""
    pages = -(-max(counts) // timed_device.PAGE)
    numbers = torch.arange(len(counts) * pages, dtype=torch.int32)
    lengths = torch.tensor(counts, dtype=torch.int32)
    starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0).int()
    tokens = torch.zeros(sum(counts), dtype=torch.int32)
    return StepInput(tokens, tokens, tokens, starts, lengths, numbers.view(-1, pages), starts[1:])


COPIES = torch.tensor([[1], [70]], dtype=torch.int32)


@pytest.mark.parametrize(
    ("step", "launched"),
    [(a_step(1, 1), False), (a_step(3, 1, 5), False), (a_step(200, 56), False),
     (a_step(200, 57), True), (replace(a_step(3, 5), copies=COPIES), True)],
)  # fmt: skip
def test_the_host_launches_what_no_recording_holds(monkeypatch, step, launched):
    """Steps with chunks of no more tokens than the largest batch are replayed, but for those that
    copy slots."""
    slept: list[float] = []
    monkeypatch.setattr(timed_device.time, "sleep", slept.append)
    device = TimedDevice(100, [1, 2, 3], batch=256)
    device.forward(step)
    assert slept == [LAUNCH] * launched
