"""Tools in threads: threads are used again, one that hangs holds nothing up, and all end."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from weft.ir.core import Term
from weft.runtime.programs.tools import ToolCall, ToolPool


def call(function, *arguments, timeout=5.0):
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
    pool, together = ToolPool({}), threading.Barrier(8, timeout=5)
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
    asked = call(lambda: over.wait() and 1, timeout=60.0)
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
    assert woken.wait(10)
    over.set()


@pytest.mark.parametrize("fails", [False, True])
def test_threads_end_with_their_pool_and_keep_no_call(fails):
    before, gone = threading.active_count(), threading.Event()

    class Held:
        def __del__(self):
            gone.set()

        def __call__(self):
            return 1 // (not fails)

    pool = ToolPool({})
    pool.submit(call(Held()))
    assert (results(pool, 1)[0][2] is not None) == fails
    gc.collect()
    assert gone.wait(5)
    del pool
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.endswith("(_work)"):
            thread.join(5)
    assert threading.active_count() <= before


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
            await asyncio.sleep(60)
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
    assert cancelled.wait(5)


def test_a_tool_may_run_the_executable_that_calls_it(toy):
    text = """
tool again(text: str) -> str timeout 20

program p(arg: str) -> str:
    "{arg}"
    gen word(max_tokens=3)
    let more = again(arg)
    "{more}"
    gen last(max_tokens=2)
    return "{more}|{last}"
"""

    def again(text: str) -> str:
        return "end" if text == "inner" else executable.run(arg="inner").value

    executable = toy.compile(text, {"again": again}, num_pages=4000)  # room for both rows
    inner, last = executable.run(arg="outer").value.rsplit("|", 1)
    assert inner.startswith("end|") and last
    toy.assert_clean(executable)
