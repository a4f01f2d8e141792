"""Tools that are too slow, raise, or give something else: the run and the oracle say the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from weft.ir.values import ToolFailed

SLOW = """
tool parse(text: str) -> int timeout 0.2

program p(arg: str) -> str:
    "{arg}"
    match parse(arg):
        case error e:
            " {e.kind}: {e.message}"
            gen word(max_tokens=3)
            return "{e.kind} {word}"
        case value n:
            return str(n)
"""


PATIENT = SLOW.replace("timeout 0.2", "timeout 200")
"""For tools that answer: a busy machine may take longer than a fifth of a second for it."""

over = threading.Event()


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """Let slow tools return when their test is over."""
    over.clear()
    yield
    over.set()


def slow(text: str) -> object:
    if text == "slow":
        over.wait()
    if text == "gone":
        raise SystemExit("gone")
    return 1 if text == "fine" else "x"


async def slow_coroutine(text: str) -> object:
    if text == "slow":
        await asyncio.sleep(3600)
    return slow("" if text == "slow" else text)


@pytest.mark.parametrize("parse", [slow, slow_coroutine])
def test_timeouts_and_wrong_values_are_errors_too(toy, parse):
    for word, kind in (("fine", "1"), ("slow", "timeout "), ("wrong", "wrong value "),
                       ("gone", "SystemExit ")):  # fmt: skip
        text = SLOW if word == "slow" else PATIENT
        executable = toy.compile(text, {"parse": parse})
        result = executable.run(arg=word)
        assert result.value.startswith(kind)
        wanted = toy.oracle(text, {"parse": parse})(0, arg=word)
        assert result.value == wanted.value
        assert toy.tokenizer.decode(wanted.ids).startswith(result.text)
        toy.assert_clean(executable)


def test_a_tool_that_is_too_slow_ends_both_runs_with_one_error(toy):
    text = SLOW[: SLOW.index("    match")] + "    return str(parse(arg))\n"
    errors = []
    for run in (toy.compile(text, {"parse": slow}).run, toy.oracle(text, {"parse": slow})):
        with pytest.raises(ToolFailed) as caught:
            run(arg="slow")
        errors.append(caught.value.render())
    assert errors[0] == errors[1] and "tool parse did not answer in 0.2 s" in errors[0]
