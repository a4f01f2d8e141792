"""Tools in threads: threads are used again, one that hangs holds nothing up, and all end."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from weft.ir.core import Term
from weft.ir.values import ToolFailed
from weft.runtime.programs.tools import ToolCall, ToolPool

LONG = 200.0
"""Seconds that nothing here takes, however busy the machine: what hangs fails by them."""


def call(function, *arguments, timeout=LONG):
    return ToolCall("t", function, arguments, Term("int"), timeout, row=0, span=None)


def results(pool, count):
    found = []
    while len(found) < count:
        pool.pause().wait()
        found += pool.poll()
    return found


def test_calls_one_after_another_share_a_thread():
    pool, seen = ToolPool({}), set()

    def note(number):
        seen.add(threading.get_ident())
        return number

    for number in range(50):
        pool.submit(call(note, number))
        ((_, value, error),) = results(pool, 1)
        assert (value, error) == (number, None)
    assert len(seen) == 1


def test_calls_side_by_side_have_a_thread_each():
    pool, together = ToolPool({}), threading.Barrier(8, timeout=LONG)
    for _ in range(2):
        for number in range(8):
            pool.submit(call(lambda n: together.wait() and 0 or n, number))
        assert sorted(value for _, value, _ in results(pool, 8)) == list(range(8))


def test_one_that_hangs_holds_up_nothing_else():
    pool, release = ToolPool({}), threading.Event()
    pool.submit(call(lambda: release.wait() and 1, timeout=0.05))
    ((_, _, error),) = results(pool, 1)
    assert "did not answer in 0.05 s" in str(error)
    for number in range(5):
        pool.submit(call(lambda n: n, number))
        ((_, value, _),) = results(pool, 1)
        assert value == number
    release.set()
    assert not pool  # what it says at last is nobody's
    assert pool.poll() == []


@pytest.mark.parametrize("what", ["answer", "taken", "cancelled"])
def test_who_waits_hears_of_any_news(what):
    """Of an answer that another one takes, too, and of a call that is given up."""
    pool, over, woken = ToolPool({}), threading.Event(), threading.Event()
    asked = call(lambda: over.wait() and 1, timeout=LONG)
    pool.submit(asked)
    assert pool.poll() == []
    pause = pool.pause()
    thread = threading.Thread(target=lambda: (pause.wait(), woken.set()), daemon=True)
    if what != "taken":
        thread.start()
        assert not woken.wait(0.05)
    if what == "cancelled":
        pool.cancel(asked)
    else:
        over.set()
    if what == "taken":
        assert len(results(pool, 1)) == 1
        thread.start()
    assert woken.wait(LONG)
    over.set()


@pytest.mark.parametrize("fails", [False, True])
def test_threads_end_with_their_pool_and_keep_no_call(fails):
    before, gone = {*threading.enumerate()}, threading.Event()

    class Held:
        def __del__(self):
            gone.set()

        def __call__(self):
            return 1 // (not fails)

    pool = ToolPool({})
    pool.submit(call(Held()))
    assert (results(pool, 1)[0][2] is not None) == fails
    gc.collect()
    assert gone.wait(LONG)
    (made,) = {*threading.enumerate()} - before
    del pool
    gc.collect()
    made.join(LONG)
    assert not made.is_alive()


def test_a_coroutine_is_awaited_and_cancelled_when_nobody_listens(monkeypatch):
    monkeypatch.setattr("weft.runtime.programs.tools.CANCELLED_AFTER", 0.05)
    pool, cancelled = ToolPool({}), threading.Event()

    async def twice(number):
        await asyncio.sleep(0.001)
        return 2 * number

    async def broken(number):
        raise KeyError(number)

    async def hangs(number):
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    for number in range(5):
        pool.submit(call(twice, number))
    assert sorted(value for _, value, _ in results(pool, 5)) == [0, 2, 4, 6, 8]
    pool.submit(call(broken, 3))
    assert results(pool, 1)[0][2].value["kind"] == "KeyError"
    pool.submit(call(hangs, 1, timeout=0.05))
    assert "did not answer in 0.05 s" in str(results(pool, 1)[0][2])
    assert cancelled.wait(LONG)


CALLS_ITSELF = """
tool again(text: str) -> str timeout 200

program p(arg: str) -> str:
    "{arg}"
    gen word(max_tokens=3)
    let more = again(arg)
    "{more}"
    gen last(max_tokens=2)
    return "{more}|{last}"
"""

DEPTH = 3


def calls_itself(toy, num_pages, asynchronous=False, **limits):
    """Return an executable whose tool runs it, so many times inside itself."""

    def again(text: str) -> str:
        inner = int(text[-1]) + 1
        return "end" if inner == DEPTH else executable.run(arg=f"{text[:-1]}{inner}").value

    async def again_later(text: str) -> str:
        inner = int(text[-1]) + 1
        return "end" if inner == DEPTH else (await executable.arun(arg=f"{text[:-1]}{inner}")).value

    tools = {"again": again_later if asynchronous else again}
    executable = toy.compile(CALLS_ITSELF, tools, num_pages=num_pages, **limits)
    return executable


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tool_may_run_the_executable_that_calls_it(toy, asynchronous):
    executable = calls_itself(toy, 4000, asynchronous)  # room for all rows
    value = executable.run(arg="outer 0").value
    assert value.startswith("end|") and value.count("|") >= DEPTH
    assert executable.engine.preemptions == 0
    toy.assert_clean(executable)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_a_tool_runs_goes_before_the_row_that_waits_for_it(toy, asynchronous):
    """Without room for one row more it would wait for the tool's own time to be over, and fail."""
    wanted = calls_itself(toy, 4000).run(arg="outer 0").value
    tight = calls_itself(toy, 12, asynchronous, context_length=48)
    assert tight.run(arg="outer 0").value == wanted
    toy.assert_clean(tight)


def test_rows_of_a_batch_whose_tools_run_it_all_end(toy):
    arguments = [{"arg": f"row {row} 0"} for row in range(5)]
    wanted = calls_itself(toy, 8000).run_rows(arguments).values
    tight = calls_itself(toy, 14, context_length=48)
    assert tight.run_rows(arguments).values == wanted
    toy.assert_clean(tight)


def test_what_a_tool_runs_and_never_fits_fails_at_once(toy):
    def again(text: str) -> str:
        return executable.run(arg="long " * 30).value

    executable = toy.compile(CALLS_ITSELF, {"again": again}, num_pages=12, context_length=200)
    with pytest.raises(ToolFailed, match="raised KVTooSmall"):
        executable.run(arg="outer")
    toy.assert_clean(executable)
