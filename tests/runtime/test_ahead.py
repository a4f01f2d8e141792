"""Steps launched ahead of the last draw give the tokens that steps one by one give."""

from __future__ import annotations

import pytest
from weft.runtime import batch

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
