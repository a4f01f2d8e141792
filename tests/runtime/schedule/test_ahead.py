"""Steps launched ahead of the last draw give the tokens that steps one by one give."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from weft.runtime.engine import Engine
from weft.runtime.programs.tasks import TaskLoop
from weft.runtime.schedule import batch, held_rows, pace
from weft.runtime.schedule.flight import FOLLOWS, Flight
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import toy_logits
from weft.tests.runtime.schedule.ahead import AheadExecutor, AheadSampler

FREE = """program free(n: int, most: list[int]) -> str:
    "Row {n}:"
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
@pytest.mark.parametrize("first", [1, pace.FIRST])
def test_ahead_equals_one_by_one(toy, monkeypatch, text, pages, first):
    monkeypatch.setattr(pace.Pace, "enough", lambda self: first)
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


def test_what_is_ready_runs_where_a_step_cannot_begin():
    """Else neither would ever go on."""
    engine = SimpleNamespace(may_begin=True, steps=0, trace=None, step=list)
    loop, ended = TaskLoop(engine, ()), []

    def free():
        return 7
        yield

    loop.start(free(), lambda value, error: ended.append(value))
    loop.advance()
    assert not ended
    loop.step()
    assert ended == [7]


class Idle:
    """An engine that makes no step, and may begin one once `enough` is asked for."""

    steps, trace = 0, None

    def __init__(self):
        self.asked, self.enough = [], 8

    @property
    def may_begin(self):
        return len(self.asked) >= self.enough

    def submit(self, request):
        self.asked.append(request)

    def step(self):
        return []


def test_of_rows_that_end_together_only_as_many_go_on_as_a_step_begins_with():
    engine = Idle()
    loop = TaskLoop(engine, ())

    def row():
        for _ in range(2):
            yield Request(SimpleNamespace(length=1), "gen", Sampling(1))

    for _ in range(8):
        loop.start(row(), lambda value, error: None)
    loop.advance()
    ended, engine.asked, engine.enough = engine.asked, [], 3
    engine.step = lambda: ended
    loop.step()
    assert len(engine.asked) == 3
    engine.step = list  # it does not begin with these: what is ready may give room
    loop.step()
    assert len(engine.asked) == 8


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
    fills = replace(flight, draw=SimpleNamespace(ready=lambda: True))
    assert not kept.due(fills, 10)  # it gives nothing, and that is there at once
    assert kept.due(replace(fills, births=np.ones(1)), 10)
    assert kept.due(flight, 10_000)  # so many take long to schedule
    clock[0] = 10.41 - pace.LEAD
    assert kept.due(flight, 10) and kept.due(None, 0)
    assert kept.due(Flight(np.zeros(0), (), Draw(), 0), 0)  # a step of decoding leaves no time
    assert not kept.due(flight, 10, rest=pace.PATIENCE / 2)  # the last rows are soon there
    assert kept.due(flight, 10, rest=pace.PATIENCE) and kept.due(None, 0, rest=0.0)
    kept.landed(flight, None, 10.1, waited=False)  # it was there before anybody looked
    assert executor.pace == pytest.approx(1e-4)
    kept.landed(flight, None, 10.0 + 2 * 0.4096, waited=True)  # a slower step is half believed
    assert executor.pace == pytest.approx(1e-4 * (1 + pace.SLOWER))
    kept.landed(flight, None, 10.2048, waited=True)  # and a faster one at once
    assert executor.pace == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("tokens", "waited", "launched", "began"),
    [(1000, True, 10.0, 10.5), (1000, False, 10.0, 10.1), (1000, False, 10.3, 10.3),
     (9000, False, 10.0, 10.5), (0, False, 10.0, 10.5)],
)  # fmt: skip
def test_a_step_begins_when_the_one_before_it_ended(tokens, waited, launched, began):
    """Which was before the host looked, if the draw was there already."""
    kept = pace.Pace(SimpleNamespace(pace=1e-4))
    before = Flight(np.zeros(0), (), None, 0, tokens=tokens, began=10.0)  # type: ignore[arg-type]
    behind = Flight(np.zeros(0), (), None, 0, tokens=1, began=launched)  # type: ignore[arg-type]
    kept.landed(before, behind, 10.5, waited)
    assert behind.began == pytest.approx(began)


@pytest.mark.parametrize(
    ("known", "enough"), [(0.0, 1024), (2.4e-5, 1024), (1.2e-5, 2000), (1e-7, 4096)]
)
def test_a_step_of_prompts_lasts_while_the_host_launches_the_next_one(known, enough):
    """Of a device that is twice as fast twice as many tokens, or each step would be too short."""
    kept = pace.Pace(SimpleNamespace(pace=known))
    assert kept.enough() == enough


def a_batch(left, constrained=0):
    limit = np.array(left)
    ending = np.flatnonzero(limit <= 1)
    return SimpleNamespace(constrained=constrained, size=len(left), at_limit=lambda: ending)


def test_only_what_the_host_must_see_stops_the_next_step():
    flight = Flight(np.zeros(0), (), None, 0)  # type: ignore[arg-type]
    assert flight.may_be_followed(a_batch([1, 1, 9]))
    assert flight.may_be_followed(a_batch([1, 9, 9]), scarce=True)
    assert not flight.may_be_followed(a_batch([1, 1, 9]), scarce=True)
    assert not flight.may_be_followed(a_batch([9, 9], constrained=1))
    assert not flight.may_be_followed(a_batch([]))


def test_what_is_scored_is_followed_where_enough_waits_and_pages_are_not_scarce():
    scored = Flight(np.zeros(0), (), None, 0, scores=SimpleNamespace())  # type: ignore[arg-type]
    much, little = (SimpleNamespace(backlog=FOLLOWS - less) for less in (0, 1))
    assert scored.may_be_followed(a_batch([]), queue=much)
    assert not scored.may_be_followed(a_batch([]), queue=little)
    assert not scored.may_be_followed(a_batch([]), scarce=True, queue=much)


SIZES = """program sizes(n: int, many: int) -> str:
    "Row {n}:"
    gen said(max_tokens=MOST, temperature=1.0)
    return said
"""


def test_rows_at_their_limit_are_not_computed_again(toy):
    """Their last step is followed by one without them, whose tokens wait for nobody's end."""
    text = SIZES.replace("MOST", "9").replace("Row ", "{many}Row ")
    executable, oracle = toy.compile(text, ahead=True, max_batch=8, max_tokens=48), toy.oracle(text)
    engine, waited, landed = executable.engine, [], []
    land, settle = engine._land, engine._settle
    engine._land = lambda: (waited.append(engine._batch.size), land())
    engine._settle = lambda flight: (landed.append(len(flight.last)), settle(flight))
    rows = [{"n": n, "many": 10 ** (9 * (n % 3))} for n in range(8)]
    found = executable.run_rows(rows)
    assert found.values == [oracle(number, **row).value for number, row in enumerate(rows)]
    prompts = found.stats.prompt_tokens - found.stats.hits_measured
    assert engine.computed_tokens == prompts + 8 * 8  # the last of nine tokens is fed to nobody
    assert sum(landed) == 8 and max(landed) > 1
    assert not any(waited)  # no row that goes on has waited for a draw
    toy.assert_clean(executable)


@pytest.mark.parametrize("where", ["wait", "forward"])
@pytest.mark.parametrize("fails", range(1, 9))
def test_a_failure_while_rows_end_loses_none(where, fails):
    """Those that had left the batch before their last token was there are computed again."""
    executor = AheadExecutor(64, num_pages=200, max_batch=4, max_tokens=16)
    engine = Engine(executor, AheadSampler(executor))  # type: ignore[arg-type]
    requests, calls = [], []
    for number, count in enumerate([3, 5, 3, 4, 3, 6]):
        sequence = engine.create((number, 0))
        sequence.append([number, 7, 5])
        requests.append(Request(sequence, "gen", Sampling(count), row=number))
        engine.submit(requests[-1])
    whole, done = (engine._sample.start, executor.forward), []  # type: ignore[attr-defined]

    def breaks(*_):
        raise KeyboardInterrupt

    def start(*settings):
        calls.append(1)
        drawn = whole[0](*settings)
        if len(calls) == fails:
            return SimpleNamespace(ready=lambda: True, wait=breaks)
        return drawn

    def forward(step, source=None):
        calls.append(1)
        return breaks() if len(calls) == fails else whole[1](step, source)

    if where == "wait":
        engine._sample.start = start  # type: ignore[attr-defined]
    else:
        executor.forward = forward  # type: ignore[method-assign]
    broken = 0
    while engine:
        try:
            done += engine.step()
        except KeyboardInterrupt:
            broken += 1
        engine.check()
    assert broken == 1 and len(done) == len(set(done)) == len(requests)
    for number, request in enumerate(requests):
        ids = [number, 7, 5]
        for _ in range(request.sampling.max_tokens):
            ids.append(int(toy_logits(ids, 64).argmax()))
        assert request.sequence.ids() == ids


HELD = """record Order:
    name: str(max_tokens=6)
    count: int(1..20)
    kind: choice["hello", "ing", "the end"]

program held(n: int) -> str:
    "Row {n}:"
    fork 2 as branches:
        gen said(max_tokens=9)
        "so"
        gen letters(max_tokens=12): regex "[a-hA-H]{2,40}"
        yield letters
    "{branches}"
    gen order(max_tokens=40): Order
    gen last(max_tokens=7, temperature=1.0): regex "[a-z ]{1,30}"
    return "{order.name} {last}"
"""


def test_constrained_rows_run_ahead_too(toy, monkeypatch):
    """Whether the device or the host moves their automata, tokens are the same."""
    rows, oracle, fed = [{"n": n} for n in range(9)], toy.oracle(HELD), []
    expected = [oracle(row, **args).value for row, args in enumerate(rows)]
    for vain in (-1.0, 0.15, 2.0):  # never, where few are in vain, always
        monkeypatch.setattr(held_rows, "VAIN", vain)
        executable = toy.compile(HELD, ahead=True, max_batch=8, max_tokens=48)
        assert executable.run_rows(rows).values == expected
        toy.assert_clean(executable)
        fed.append(executable.engine.executor.fed)
    assert fed[0] + 20 < fed[1] < fed[2]


def test_a_constraint_without_a_table_is_worked_out_on_the_host(toy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nested.lark").write_text('start: /[ab]{1,3}/ "(" /[cd]{0,2}/ ")" | "x"\n')
    text = """program p(n: int) -> str:
    "{n}:"
    gen a(max_tokens=9): grammar "nested.lark"
    "and"
    gen b(max_tokens=9): regex "[a-d ]{3,9}"
    return "{a}{b}"
"""
    rows, oracle = [{"n": n} for n in range(5)], toy.oracle(text)
    executable = toy.compile(text, ahead=True, max_batch=4, max_tokens=32)
    found = executable.run_rows(rows).values
    assert found == [oracle(row, **args).value for row, args in enumerate(rows)]
    toy.assert_clean(executable)


def test_rows_of_a_wide_batch_draw_what_is_forced(toy, monkeypatch):
    """They leave the batch for longer runs only, and say the same."""
    rows, oracle, leaves = [{"n": n} for n in range(9)], toy.oracle(HELD), []
    expected = [oracle(row, **args).value for row, args in enumerate(rows)]
    for mixed in (0.0, 0.5, 99.0):
        monkeypatch.setattr(held_rows, "MIXED", mixed)
        executable = toy.compile(HELD, ahead=True, max_batch=8, max_tokens=48)
        assert executable.run_rows(rows).values == expected
        toy.assert_clean(executable)
        leaves.append(executable.engine._batch.leaves)
    assert leaves[0] >= leaves[1] >= leaves[2] < leaves[0], leaves
