"""Tools on a virtual clock: their answers come when they are said to, and steps are the same."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from weft.ir.core import Term
from weft.ir.values import ToolFailed
from weft.runtime.executable import Executable
from weft.runtime.programs.timed_tools import TimedTools
from weft.runtime.programs.tools import ToolCall
from weft.runtime.session import NoTurn
from weft.runtime.simulator import SimulatedExecutor, ToyExecutor
from weft.tests.each_time import each_time


class Clock:
    now = 10.0


def call(tool, function=lambda: 1, timeout=5.0):
    return ToolCall(tool, function, (), Term("int"), timeout, row=0, span=None)


def test_answers_come_in_the_order_of_their_times():
    clock, seconds = Clock(), {"slow": 3.0, "quick": 1.0, "late": 9.0}
    tools = TimedTools({}, clock, seconds.__getitem__)
    slow, quick, late = (call(name) for name in seconds)
    for one in (slow, late, quick):
        tools.submit(one)
    assert tools and not tools.poll()
    tools.pause().wait()
    assert clock.now == 11.0 and [one for one, *_ in tools.poll()] == [quick]
    clock.now = 20.0
    (first, value, _), (second, _, error) = tools.poll()
    assert (first, value, second) == (slow, 1, late) and "did not answer in 5 s" in str(error)
    assert not tools and not tools.poll()


def test_who_waits_for_a_place_begins_when_one_is_free_and_who_is_cancelled_never_answers():
    clock = Clock()
    tools = TimedTools({}, clock, lambda tool: 2.0, limit=1)
    first, second, third = call("t"), call("t"), call("t")
    for one in (first, second, third):
        tools.submit(one)
    tools.cancel(second)
    clock.now = 14.0  # the first from 10 to 12, the third from 12 to 14
    assert [one for one, *_ in tools.poll()] == [first, third] and not tools


def test_a_coroutine_may_take_longer_in_truth_than_it_is_said_to(monkeypatch):
    monkeypatch.setattr("weft.runtime.programs.tools.CANCELLED_AFTER", 0.0)
    tools = TimedTools({}, Clock(), lambda tool: 0.0)

    async def slow():
        await asyncio.sleep(0.05)
        return 1

    tools.submit(call("t", slow, timeout=0.01))
    ((_, value, error),) = tools.poll()
    assert (value, error) == (1, None)


TEXT = """
tool look(text: str) -> int timeout 4

program p(arg: str) -> str:
    let found = 0
    for turn in range(3):
        "{arg} {turn}: "
        gen word(max_tokens=5)
        let n = look(word)
        match n:
            case error e:
                " {e.kind} "
            case value v:
                found += v
                " {v} "
    gen last(max_tokens=4)
    return "{found} {last}"
"""

ROWS = [{"arg": f"row {number}"} for number in range(9)]


def simulated(toy, look, seconds, price=lambda fed, seen, rows: 1.0):
    module = toy.lowered(TEXT)
    executor = SimulatedExecutor(
        ToyExecutor(toy.tokenizer.size, num_pages=600, context_length=2048, max_batch=4),
        price, lambda tool: seconds,
    )  # fmt: skip
    return Executable(toy.plan(module), "p", executor, toy.tokenizer, tools={"look": look})


def uneven(text: str) -> int:
    time.sleep(random.random() / 200)
    return len(text)


async def uneven_later(text: str) -> int:
    await asyncio.sleep(random.random() / 200)
    return len(text)


@pytest.mark.parametrize("seconds", each_time([0.0, 2.5, 40.0], 2.5, 40.0))
@pytest.mark.parametrize("look", [uneven, uneven_later])
def test_steps_do_not_depend_on_when_functions_return(toy, look, seconds):
    values = toy.compile(TEXT, {"look": look}).run_rows(ROWS).values
    counts = set()
    for _ in range(3):
        executable = simulated(toy, look, seconds)
        found = executable.run_rows(ROWS).values
        assert (found == values) == (seconds < 4)  # behind its timeout a call has failed
        counts.add((executable.engine.steps, executable.engine.executor.now))
        toy.assert_clean(executable)
    ((steps, now),) = counts
    assert now >= steps


def test_a_tool_that_takes_longer_takes_the_run_longer(toy):
    ended = []
    for seconds in (0.0, 1.0, 3.0):
        executable = simulated(toy, len, seconds)
        executable.run(**ROWS[0])
        ended.append(executable.engine.executor.now)
    first, second, third = ended
    assert third - second == pytest.approx(3 * 2.0) and second > first


def test_a_simulated_tool_that_runs_programs_is_refused_at_once(toy):
    def again(text: str) -> int:
        return len(executable.run(arg=text).value)

    executable = simulated(toy, again, 1.0)
    assert executable.run(**ROWS[0]).value.startswith("0 ")
    raised = []

    def told(text: str) -> int:
        try:
            return again(text)
        except NoTurn as error:
            raised.append(error)
            raise

    executable = simulated(toy, told, 1.0)
    executable.run(**ROWS[0])
    assert len(raised) == 3 and "cannot run programs" in str(raised[0])
    text = TEXT[: TEXT.index("        match")] + "        found += n\n    return str(found)\n"
    module = toy.lowered(text)
    bare = Executable(
        toy.plan(module), "p", executable.engine.executor, toy.tokenizer, tools={"look": again}
    )
    with pytest.raises(ToolFailed, match="raised NoTurn"):
        bare.run(**ROWS[0])
