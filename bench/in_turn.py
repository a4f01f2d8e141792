"""Runs side by side in one process, a step of each in turn: what slows the machine hits all alike.

Of runs that take seconds, one after another, each has a machine of its own pace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from weft.runtime.engine import Engine
from weft.runtime.execution.step import ModelExecutor

from .measure import OwnClock


def in_turn(runs: Mapping[str, Iterator[object]]) -> dict[str, float]:
    """Run all to their ends; return the own seconds of each. That which has had the least so far
    goes on, by what it does until it yields."""
    spent, left = dict.fromkeys(runs, 0.0), dict(runs)
    while left:
        name = min(left, key=spent.__getitem__)
        clock = OwnClock()
        try:
            next(left[name])
        except StopIteration:
            del left[name]
        spent[name] += clock.seconds()
    return spent


def share_pages(engines: Sequence[Engine], executor: ModelExecutor) -> None:
    """Let engines that hold nothing yet each take pages of its own of their executor."""
    first = 0
    for engine in engines:
        end = first + engine.kv.num_pages
        if end > executor.num_pages:
            raise ValueError(f"the executor has {executor.num_pages} pages, not {end}")
        engine.kv.place(first)
        first = end
