"""How often Python looks for cycles of objects while rows run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS, YOUNG = 200_000, 50
"""Objects that are made between two looks at the young ones, and such looks between two at those
that have survived one. Steps make some thousands each that live as long as their rows, and hardly
any cycle: Python's own 700 and 10 took 7 to 10 % of the host's time of programs, 3 ms at once; with
50,000 in place of 200,000 a look took 13 of tree_of_thoughts' 519 ms."""

WAITING = 3_000
"""Objects for which a look is worth while the host waits for a device: it takes 0.6 ms of an AMD
core, where a step of an 8 B shape takes an H200 4 ms at least."""

TOO_MANY = 20_000
"""Objects that take longer than such a step: they are left until there are OBJECTS."""

_lock = threading.Lock()
_running = 0
_before: tuple[int, int, int] = (0, 0, 0)


def collect_meanwhile() -> None:
    """Look at the young objects, as the host has nothing else to do, if they are enough and not too
    many: the last look, when rows have ended, would keep their caller waiting for it.

    Those that have survived a look are left to Python, which looks at them when it next does."""
    first, second, _ = gc.get_threshold()
    young, looks, _ = gc.get_count()
    if _running and first and WAITING < young <= TOO_MANY and looks <= second:
        gc.collect(0)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let the collector look seldom while at least one caller is inside; it is off if it was."""
    global _running, _before
    with _lock:
        _running += 1
        if _running == 1:
            _before = gc.get_threshold()
            first, second, third = _before
            if first:
                gc.set_threshold(max(first, OBJECTS), max(second, YOUNG), third)
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                gc.set_threshold(*_before)
