"""Streams, cancellation, and several runs at once: nothing is left behind, nobody is mixed up."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest
from weft.runtime.programs.events import Finished, TextPiece, ValueBound
from weft.runtime.programs.tools import LIMIT
from weft.runtime.results import Result, Stats

TEXT = """
program talk(arg: str) -> str:
    "About {arg}: "
    fork side in ["left", "right"] as views:
        "the {side} "
        gen view(max_tokens=9, stop="a")
        yield view
    "{views} "
    select grade from ["A", "B"]
    gen word(max_tokens=12, temperature=1.0)
    return word
"""


def test_a_stream_tells_every_piece_and_value(toy):
    executable = toy.compile(TEXT)
    whole = executable.run(arg="x")
    events = list(executable.stream(arg="x"))
    assert isinstance(events[-1], Finished) and events[-1].result.value == whole.value
    pieces: dict = {}
    for event in events:
        if isinstance(event, TextPiece):
            key = (event.name, event.path)
            pieces[key] = pieces.get(key, "") + event.text
    values = {(e.name, e.path): e.value for e in events if isinstance(e, ValueBound)}
    assert pieces == {key: value for key, value in values.items() if key[0] in {"view", "word"}}
    assert len(pieces) == 3 and values["grade", ()].probs.keys() == {"A", "B"}
    toy.assert_clean(executable)


@pytest.mark.parametrize("events", range(0, 30, 3))
def test_closing_a_stream_frees_all_and_leaves_the_engine_usable(toy, events):
    executable = toy.compile(TEXT)
    expected = toy.compile(TEXT).run(arg="y").value
    stream = executable.stream(arg="x")
    for _ in range(events):
        next(stream, None)
    stream.close()
    engine = executable.engine
    engine.check()
    assert engine.kv.live == 0 and not engine
    assert executable.run(arg="y").value == expected


def test_calls_of_tools_that_a_closed_run_waits_for_are_given_up(toy):
    gate = threading.Event()

    def look(number: int) -> int:
        return number if not number or gate.wait(30) else -1

    text = (
        "tool look(number: int) -> int\n\nprogram p(count: int) -> list[int]:\n"
        '    "a"\n    fork number in range(count) as found:\n'
        "        let one = look(number)\n        yield one\n    return found\n"
    )
    executable = toy.compile(text, {"look": look})
    steps = executable.session().steps(iter([(0, {"count": LIMIT + 8})]))
    while not executable._host.loop._tools:
        next(steps)  # the first call answers at once
    steps.close()
    toy.assert_clean(executable)
    gate.set()


@pytest.mark.parametrize("step", range(1, 14, 2))
def test_an_interrupt_anywhere_frees_all(toy, step):
    executable = toy.compile(TEXT)
    expected = toy.compile(TEXT).run_rows([{"arg": "y"}, {"arg": "z"}]).values
    forward, count = executable.engine.executor.forward, [0]

    def interrupted(*inputs):
        count[0] += 1
        if count[0] == step:
            raise KeyboardInterrupt
        return forward(*inputs)

    executable.engine.executor.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        executable.run_rows([{"arg": "y"}, {"arg": "z"}])
    executable.engine.check()
    assert executable.engine.kv.live == 0
    assert executable.run_rows([{"arg": "y"}, {"arg": "z"}]).values == expected
    toy.assert_clean(executable)


def test_a_run_inside_a_stream_and_threads_share_the_engine(toy):
    executable = toy.compile(TEXT)
    names = [f"n{i}" for i in range(6)]
    expected = {name: toy.compile(TEXT).run(arg=name).value for name in names}
    stream = executable.stream(arg="n0")
    next(stream)
    assert executable.run(arg="n1").value == expected["n1"]
    assert list(stream)[-1].result.value == expected["n0"]
    found: dict = {}

    def work(name):
        found[name] = executable.run(arg=name).value

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    toy.assert_clean(executable)


LONG = 200
"""Seconds that nothing here takes, however busy the machine: what hangs fails by them."""

ASKS = """
tool look(arg: str) -> str timeout 200
program asks(arg: str) -> str:
    let seen = look(arg)
    "{arg}: {seen} "
    gen word(max_tokens=9)
    return word
"""


def test_a_run_goes_on_while_another_waits_for_a_tool(toy):
    """Its tool answers when the other one has ended."""
    asked, over = threading.Event(), threading.Event()

    def look(arg):
        if arg == "first":
            asked.set()
            assert over.wait(LONG)
        return arg

    executable, found = toy.compile(ASKS, {"look": look}, num_pages=4000), {}

    def first():
        found["first"] = executable.run(arg="first").value

    thread = threading.Thread(target=first)
    thread.start()
    assert asked.wait(LONG)
    found["second"] = executable.run(arg="second").value
    over.set()
    thread.join()
    oracle = toy.oracle(ASKS, {"look": lambda arg: arg})
    assert found == {arg: oracle(0, arg=arg).value for arg in ("first", "second")}
    toy.assert_clean(executable)


def test_who_waits_for_a_tool_goes_on_when_another_run_has_taken_the_answer(toy):
    """All runs take what tools answer, whose row it may be for."""
    many, begun = threading.Barrier(6), []

    def look(arg):
        begun.append(arg)
        many.wait(LONG)
        return arg

    executable, found = toy.compile(ASKS, {"look": look}, num_pages=4000), {}

    def run(arg):
        found[arg] = executable.run(arg=arg).value

    for turn in range(5):
        names = [f"n{turn}{number}" for number in range(6)]
        threads = [threading.Thread(target=run, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
    oracle = toy.oracle(ASKS, {"look": lambda arg: arg})
    assert found == {arg: oracle(0, arg=arg).value for arg in begun} and len(begun) == 30
    toy.assert_clean(executable)


def test_async_runs_go_together(toy):
    executable = toy.compile(TEXT)
    expected = [toy.compile(TEXT).run(arg=f"n{i}").value for i in range(4)]

    async def main():
        results = await asyncio.gather(*(executable.arun(arg=f"n{i}") for i in range(4)))
        pieces = [e async for e in executable.astream(arg="n0") if isinstance(e, TextPiece)]
        return [result.value for result in results], pieces

    values, pieces = asyncio.run(main())
    assert values == expected and pieces
    toy.assert_clean(executable)


def test_cancelling_an_async_run_frees_all(toy):
    executable = toy.compile(TEXT)
    forward, steps = executable.engine.executor.forward, []
    reached, cancelled = threading.Event(), threading.Event()

    def held(*inputs):
        steps.append(1)
        if len(steps) == 3:
            reached.set()
            assert cancelled.wait(LONG)
        return forward(*inputs)

    executable.engine.executor.forward = held

    async def main():
        task = asyncio.create_task(executable.arun(arg="x"))
        assert await asyncio.to_thread(reached.wait, LONG)
        task.cancel()
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    executable.engine.check()
    assert executable.engine.kv.live == 0 and not executable.engine


def test_a_result_makes_its_text_when_it_is_asked_for_once():
    asked = []
    result = Result("v", {}, lambda: asked.append(1) or "seen", Stats(), 3)
    assert not asked
    assert result.text == result.text == "seen" and asked == [1]
    again = pickle.loads(pickle.dumps(result))
    assert (again.text, again.row) == ("seen", 3) and asked == [1]
