"""Timing on a noisy machine: interleaved rounds, medians, ratios of medians with a spread, and a
clock that stands while other processes have the core."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from weft.runtime.schedule.garbage import seldom_collected


@dataclass(frozen=True)
class Summary:
    """A figure's median with the first and third quartile, over `rounds` rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> Summary:
        """Return the summary of the values of some rounds."""
        if len(values) < 2:
            return Summary(values[0], values[0], values[0], len(values))
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return Summary(statistics.median(values), low, high, len(values))

    def json(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return asdict(self)


def seconds(run: Callable[[], object]) -> float:
    """Return the wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class OwnClock:
    """The seconds since it was made, without those that others took from the thread that made it.

    Linux counts how long a thread that could run waited for a core. What this process's own other
    threads computed meanwhile is no such loss. Elsewhere it is the wall's clock.
    """

    def __init__(self) -> None:
        self._start = _moment()

    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._read()[0]

    def lost(self) -> float:
        """Return the seconds so far that it does not count."""
        return self._read()[1]

    def _read(self) -> tuple[float, float]:
        wall, late, others = (now - then for now, then in zip(_moment(), self._start, strict=True))
        lost = max(0.0, late - others)
        return wall - lost, lost


SCHEDULED = "/proc/{}/schedstat"
"""Nanoseconds that a thread ran, and that it waited for a core (Linux, with CONFIG_SCHEDSTATS)."""


def ran_and_waited(thread: str | int = "thread-self") -> tuple[float, float]:
    """Return for how many seconds this thread, or a process's first, has had a core, and has
    waited for one (Linux; else 0)."""
    path = SCHEDULED.format(thread)
    if not os.path.exists(path):
        return 0.0, 0.0
    with open(path, encoding="ascii") as file:
        ran, waited, _ = file.read().split()
    return 1e-9 * int(ran), 1e-9 * int(waited)


def _moment() -> tuple[float, float, float]:
    """Return seconds: of the wall, that this thread has waited, that all others have computed."""
    waited = ran_and_waited()[1]
    return time.perf_counter(), waited, time.process_time() - time.thread_time()


def gaps(times: Sequence[float]) -> list[float]:
    """Return the differences of successive times."""
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int, idle: float = 0.0
) -> dict[str, list[float]]:
    """Call every contender once a round, in turning order; return what each returned.

    All see the same disturbances, so that a ratio of their medians is fair on a shared machine.
    Before each round it waits, at most `idle` s, until the machine's load is low.
    """
    names = list(contenders)
    results: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        wait_for_idle(idle)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            results[name].append(contenders[name]())
    return results


def ratio(of: Sequence[float], to: Sequence[float]) -> Summary:
    """Return median(of) / median(to), with the quartiles of the rounds' own ratios."""
    paired = Summary.of([a / b for a, b in zip(of, to, strict=True)])
    middle = statistics.median(of) / statistics.median(to)
    return Summary(middle, min(paired.low, middle), max(paired.high, middle), len(of))


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.geometric_mean(known) if known else None


@contextmanager
def as_a_server_does() -> Iterator[None]:
    """Let Python's collections look at what is made inside, not at all there was, and seldom.

    What was made lately is looked at first; to look at everything takes .15 s of an H200's host.
    """
    gc.collect(1)
    gc.freeze()
    try:
        with seldom_collected():
            yield
    finally:
        gc.unfreeze()


def wait_for_idle(limit: float, busy: float = 0.25) -> None:
    """Wait until other processes use less than `busy` of the cores, at most `limit` s."""
    end = time.monotonic() + limit
    while time.monotonic() < end and _busy_share() > busy:
        time.sleep(0.2)


def _busy_share(span: float = 0.1) -> float:
    """Return the share of core time that is not idle over the next `span` s (Linux; else 0)."""
    before = _cpu_times()
    time.sleep(span)
    after = _cpu_times()
    total = sum(after) - sum(before)
    idle = (after[3] + after[4]) - (before[3] + before[4]) if total else 0
    return 1.0 - idle / total if total else 0.0


def _cpu_times() -> list[int]:
    """Return the kernel's counters: user, nice, system, idle, iowait, ..."""
    if not os.path.exists("/proc/stat"):
        return [0] * 8
    with open("/proc/stat", encoding="ascii") as file:
        return [int(word) for word in file.readline().split()[1:9]]
