"""Steps launched ahead of the last draw give the tokens that steps one by one give."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from weft.runtime import batch, pace
from weft.runtime.flight import Flight

FREE = """program free(n: int, most: list[int]) -> str:
    "Row {n}: "
    fork size in most as branches:
        "({size}"
        gen said(max_tokens=40)
        yield said
    "{branches}"
    gen last(max_tokens=9, temperature=1.0)
    return last
"""
STOPPED = FREE.replace("max_tokens=40", 'max_tokens=40, stop="a"')


def run(toy, text, ahead, **limits):
    executable = toy.compile(text, ahead=ahead, max_batch=8, max_tokens=32, **limits)
    rows = [{"n": n, "most": list(range(n % 3 + 1))} for n in range(7)]
    found = executable.run_rows(rows).values
    toy.assert_clean(executable)
    return found, executable.engine


@pytest.mark.parametrize("text", [FREE, STOPPED])
@pytest.mark.parametrize("pages", [600, 90])
def test_ahead_equals_one_by_one(toy, text, pages):
    expected, _ = run(toy, text, False, num_pages=pages)
    found, engine = run(toy, text, True, num_pages=pages)
    assert found == expected
    assert engine.executor.fed > 50  # most tokens were fed before the host knew them


def test_rows_that_end_by_themselves_are_found_out_a_step_late(toy):
    text = 'program p(n: int) -> str:\n    "{n}"\n    gen said(max_tokens=200)\n    return said\n'
    rows = [{"n": n} for n in range(30)]
    counts = []
    for ahead in (False, True):
        executable = toy.compile(text, ahead=ahead, max_batch=4, max_tokens=32)
        found = executable.run_rows(rows)
        counts.append((found.values, found.stats.generated_tokens))
        toy.assert_clean(executable)
    assert counts[0] == counts[1] and counts[0][1] < 30 * 200


def test_a_failure_with_a_step_on_its_way_loses_nothing(toy):
    text = 'program p(n: int) -> str:\n    "{n}"\n    gen said(max_tokens=30)\n    return said\n'
    expected = toy.compile(text).run(n=5).value
    executable = toy.compile(text, ahead=True)
    forward, calls = executable.engine.executor.forward, []

    def fails_once(step, source=None):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return forward(step, source)

    executable.engine.executor.forward = fails_once
    ticks = executable.session().steps(iter([(0, executable.check_row(0, {"n": 5}))]))
    outcome = None
    while outcome is None:
        try:
            for ended in ticks:
                for _, result in ended:
                    outcome = result
        except KeyboardInterrupt:
            ticks = executable.session().steps(iter([(0, executable.check_row(0, {"n": 5}))]))
    assert outcome.value == expected
    toy.assert_clean(executable)


LONG = """
program long(arg: str) -> str:
    "Write of {arg}: "
    gen first(max_tokens=9)
    "Then: "
    gen second(max_tokens=40, temperature=1.0)
    return "{first}{second}"
"""


@pytest.mark.parametrize("ahead", [False, True])
def test_rows_get_room_for_more_tokens_as_they_make_them(toy, monkeypatch, ahead):
    monkeypatch.setattr(batch, "COLUMNS", 4)
    executable, oracle = toy.compile(LONG, ahead=ahead, max_batch=3), toy.oracle(LONG)
    found = executable.run_rows([{"arg": f"n{row}"} for row in range(7)])
    assert found.values == [oracle(row, arg=f"n{row}").value for row in range(7)]
    toy.assert_clean(executable)
    assert executable.engine._batch.history.shape[1] >= 36


ALIKE = """
program alike(text: str, more: str) -> str:
    "{text}{more}"
    gen said(max_tokens=6)
    return said
"""


def test_a_device_begins_with_what_others_wait_for(toy, monkeypatch):
    """The shared prompt goes first and alone; what comes meanwhile is one step, not several."""
    monkeypatch.setattr("weft.runtime.engine.FIRST", 60)
    rows = [{"text": "A" * 100, "more": f" {number}."} for number in range(40)]
    executable = toy.compile(ALIKE, ahead=True, max_batch=64, max_tokens=400, num_pages=900)
    oracle, engine = toy.oracle(ALIKE), executable.engine
    prefills, pack = [], engine._batch.pack

    def packed(chunks):
        prefills.extend([sum(chunk.count for chunk in chunks)] if chunks else [])
        return pack(chunks)

    engine._batch.pack = packed
    busy = []

    def due(flight, waiting):
        busy.append(waiting)
        return flight is None or waiting > 30

    engine._pace.due = due
    found = executable.run_rows(rows)
    assert found.values == [oracle(number, **row).value for number, row in enumerate(rows)]
    assert prefills[0] < 110 and len(prefills) <= 4 and max(busy) > 30
    toy.assert_clean(executable)


def test_the_pace_of_prompts_says_when_the_next_step_is_due(monkeypatch):
    class Draw:
        def ready(self):
            return False

    clock = [10.0]
    monkeypatch.setattr(pace, "perf_counter", lambda: clock[0])
    executor = SimpleNamespace()
    flight = Flight(np.zeros(0), (), Draw(), 0, tokens=4096, began=10.0)
    kept = pace.Pace(executor)
    kept.landed(flight, None, 10.4096, waited=True)
    assert executor.pace == pytest.approx(1e-4)
    assert not kept.due(flight, 10)  # 0.4 s are left
    assert kept.due(flight, 10_000)  # so many take long to schedule
    clock[0] = 10.41 - pace.LEAD
    assert kept.due(flight, 10) and kept.due(None, 0)
    assert kept.due(Flight(np.zeros(0), (), Draw(), 0), 0)  # a step of decoding leaves no time
    kept.landed(flight, None, 10.1, waited=False)  # it was there before anybody looked
    assert executor.pace == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("left", "followed"), [([1, 9, 9], True), ([1, 1, 9], False), ([1], False)]
)
def test_few_rows_that_end_do_not_stop_the_next_step(left, followed):
    rows = SimpleNamespace(constrained=0, size=len(left), produced=np.zeros(len(left), int),
                           limit=np.array(left))  # fmt: skip
    assert Flight.may_be_followed(None, rows) is followed  # type: ignore[arg-type]
