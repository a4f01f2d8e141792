"""The clock of a host's processor: only the thread's own work and sleep move it."""

from __future__ import annotations

import time
from threading import Thread

import pytest
import weft.bench.gpu.timed_device as timed_device
import weft.runtime.schedule.pace as pace
from weft.bench.host_clock import HostClock, told_by
from weft.bench.measure import OwnClock


def compute(seconds: float) -> None:
    """Keep the processor busy for so long."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_own_work_counts_as_a_slower_host_would_take_for_it_and_sleep_as_it_is(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it slept in truth"))
    clock = HostClock(slower=10.0)
    began = clock.now()
    compute(0.02)
    assert 0.2 <= clock.now() - began < 1.0
    began = clock.now()
    clock.sleep(30.0)
    clock.sleep(-5.0)
    assert 30.0 <= clock.now() - began < 30.5


def test_what_others_do_does_not():
    clock = HostClock()
    began, other = clock.now(), Thread(target=compute, args=(0.3,))
    other.start()
    other.join()
    assert clock.now() - began < 0.1


def test_weft_tells_the_time_by_it_until_it_ends():
    clock = HostClock()
    with told_by(clock):
        assert pace.perf_counter == timed_device.time.perf_counter == clock.now
        before = timed_device.time.perf_counter()
        timed_device.time.sleep(9.0)
        assert 9.0 <= pace.perf_counter() - before < 9.5
        assert OwnClock().seconds() < 0.5  # a contest's runs ask it for the time, too
    assert pace.perf_counter is time.perf_counter and timed_device.time is time
