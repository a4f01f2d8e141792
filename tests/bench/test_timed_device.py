"""The device that only takes time keeps its host as long as the real one does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from weft.bench.gpu import timed_device
from weft.bench.gpu.timed_device import (
    BEGINS,
    LAUNCH,
    PROMPT,
    PROMPTS,
    REPLAY,
    TimedDevice,
    Wait,
    waits_text,
)
from weft.bench.host_clock import HostClock, told_by
from weft.runtime.execution.step import StepInput
from weft.runtime.gpu.prompt_rooms import TOKENS
from weft.runtime.gpu.recordings import COST


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
     (a_step(200, 57), True), (replace(a_step(60, 40), copies=COPIES), True)],
)  # fmt: skip
def test_the_host_launches_what_no_recording_holds(monkeypatch, step, launched):
    """Steps with chunks of no more tokens than the largest batch are replayed, but for those that
    copy slots: these are recorded as prompts are, when one comes for the second time; if not as
    others were at first."""
    slept: list[float] = []
    monkeypatch.setattr(timed_device.time, "sleep", slept.append)
    TimedDevice(100, [1, 2, 3], batch=256).forward(step)
    assert slept == [REPLAY]
    slept.clear()
    monkeypatch.setattr(timed_device.PromptRooms, "generous", lambda rooms: ())
    device = TimedDevice(100, [1, 2, 3], batch=256)
    for _ in range(3):
        device.forward(step)
    later = [COST, REPLAY, REPLAY]
    assert slept == ([LAUNCH, *later] if launched else [REPLAY] * 3)


def test_a_step_of_more_tokens_than_any_recording_is_launched(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(timed_device.time, "sleep", slept.append)
    monkeypatch.setattr(timed_device.PromptRooms, "generous", lambda rooms: ())
    device = TimedDevice(100, [1, 2, 3], batch=256)
    size = TOKENS - 256
    for tokens in (size, size, size - 31, size - 32, TOKENS, TOKENS + 1, TOKENS + 1):
        device.forward(a_step(tokens))
    # what has fewer of its last block takes it, and TOKENS has been there from the first on
    assert slept == [LAUNCH, COST, *[REPLAY] * 4, LAUNCH, LAUNCH]
    began = device.busy_until
    device.forward(a_step(size - 31))
    took = device.busy_until - began
    assert took == pytest.approx(PROMPTS + (size - 31) * PROMPT)


def test_the_device_begins_with_a_step_while_the_host_launches_the_rest():
    clock = HostClock()
    with told_by(clock):
        device, began = TimedDevice(100, [1, 2, 3], batch=256), clock.now()
        device._prompts.cost = math.inf  # nothing is recorded
        device.forward(a_step(4000))
        assert LAUNCH <= clock.now() - began < LAUNCH + 0.5
        launched = clock.now()
        seconds = PROMPTS + 4000 * PROMPT
        assert device.busy_until - began < launched - began - LAUNCH + BEGINS + seconds
        device.forward(a_step(300))  # waits for the one before
        ends = device.busy_until
        assert ends - launched > seconds - LAUNCH
        device.busy_until, began = 0.0, clock.now()
        device.forward(a_step(300))
        assert device.busy_until >= began + LAUNCH  # never done before all is launched


def test_what_a_device_waits_for_is_told_apart():
    waits = [
        Wait(0.0, 1.0, 1.1),  # the first step of all
        Wait(2.0, 2.0 - 1e-3, 2.0),  # launched ahead: no wait
        Wait(3.0, 3.012, 3.013),  # put together 10 ms after the last token
        Wait(4.0, 4.0005, 4.0015),  # put together before that, launched too late
    ]
    said = waits_text(waits, [0.9, 1.9, 3.010, 3.995])
    assert said == (
        "the device waited 14.5 ms: 10.0 for what follows last tokens, 2.5 for schedules, "
        "2.0 for attention lists and launches"
    )


def test_a_device_tells_when_it_waited():
    clock = HostClock()
    with told_by(clock):
        device = TimedDevice(100, [1, 2, 3], batch=256)
        device.forward(a_step(1, 1))
        clock.sleep(1.0)  # the step takes a few milliseconds
        idle = device.busy_until
        device.forward(a_step(1, 1))
    first, second = device.waits
    assert first.since == 0.0 and second.since == idle < second.asked <= second.begun
    taken = timed_device.STEP + 2 * timed_device.ROW
    assert second.begun + taken == pytest.approx(device.busy_until)


@pytest.mark.parametrize(
    ("rows", "milliseconds"), [(36, 4.3), (72, 5.2), (144, 5.8), (217, 7.2), (256, 8.5)]
)
def test_a_step_takes_about_as_long_as_on_an_h200(monkeypatch, rows, milliseconds):
    monkeypatch.setattr(timed_device.time, "sleep", lambda seconds: None)
    device = TimedDevice(100, [1, 2, 3], batch=256)
    device.forward(a_step(*[1] * rows))
    (wait,) = device.waits
    assert device.busy_until - wait.begun == pytest.approx(1e-3 * milliseconds, rel=0.07)
