"""Interrupts from the keyboard at any line of the runtime: no row of another session notices."""

from __future__ import annotations

import _thread
import itertools
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import weft.runtime
from weft.tests.each_time import each_time

ROOM = str(Path(weft.runtime.__file__).parent)

TEXT = """
program talk(arg: str) -> str:
    "About {arg}: "
    fork side in ["left", "right"] as views:
        "the {side} "
        gen view(max_tokens=5, stop="a")
        yield view
    "{views} "
    gen kept(max_tokens=6): regex "[a-d ]{2,9}"
    select grade from ["A", "A b", "A c"]
    gen word(max_tokens=4, temperature=1.0)
    return "{kept}{grade}{word}"
"""


CLOSED = """
program p(arg: str) -> str:
    "{arg}"
    gen word(max_tokens=4)
    return word
"""


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Hear interrupts as a program of the foreground does: one of the background hears none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Pressed:
    """Presses Ctrl-C before line number `at` of those that the runtime runs inside `with`."""

    def __init__(self, at: int, files: tuple[str, ...] = (ROOM,)) -> None:
        self.left = at
        self._files = files

    def __enter__(self) -> Pressed:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._files) else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)
        return self._line


def steps(executable, names, first):
    """Return a session's steps over rows with these arguments, numbered from `first` on."""
    rows = [
        (row, executable.check_row(row, {"arg": name})) for row, name in enumerate(names, first)
    ]
    return executable.session().steps(iter(rows))


def interrupted(executable, at):
    """Run rows that are interrupted at a line; return whether they were, before they had ended."""
    try:
        with Pressed(at):
            for _ in steps(executable, ["i0", "i1", "i2"], 3):
                pass
    except KeyboardInterrupt:
        return True
    return False


@pytest.fixture(scope="module")
def expected(toy):
    oracle = toy.oracle(TEXT)
    return {row: oracle(row, arg=f"o{row}").value for row in range(3)}


@pytest.mark.parametrize(
    ("ahead", "together"),
    each_time([(False, False), (True, False), (True, True)], (False, False), (True, True)),
)
def test_rows_of_another_session_go_on(toy, expected, ahead, together):
    """What is interrupted has been cancelled; the others say what they do alone."""
    broken, lines = 0, random.Random(ahead + together).sample(range(60_000), 20)
    for at in lines:
        executable = toy.compile(TEXT, ahead=ahead, together=together, max_batch=4, max_tokens=24)
        other = steps(executable, ["o0", "o1", "o2"], 0)
        found = dict(next(other))
        broken += interrupted(executable, at)
        for ended in itertools.islice(other, 400):
            found |= dict(ended)
        assert {row: each.value for row, each in found.items()} == expected, at
        toy.assert_clean(executable)
    assert broken > len(lines) / 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("closed", [False, True])
def test_at_each_line_of_a_session_all_is_freed_and_the_next_request_runs(toy, closed):
    """Also before the lines that free it, and where a stream is closed before its end."""
    executable = toy.compile(CLOSED, ahead=True)
    wanted = toy.oracle(CLOSED)(0, arg="x").value
    files = tuple(f"{ROOM}/{name}.py" for name in ("session", "interrupts"))
    for at in itertools.count(1):
        pressed = Pressed(at, files)
        try:
            with pressed:
                stream = executable.stream(arg="x")
                for number, _ in enumerate(stream):
                    if closed and number == 2:
                        stream.close()
        except KeyboardInterrupt:
            pass
        stream = None
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, at
        toy.assert_clean(executable)
        if pressed.left > 0:
            break
        if at % 16 == 0:
            assert executable.run(arg="x").value == wanted
    assert at > 60 and executable.run(arg="x").value == wanted


def test_a_second_one_does_not_wait_for_the_end_of_a_step(toy):
    executable = toy.compile(TEXT)
    forward, reached = executable.engine.executor.forward, []

    def pressed_twice(step):
        if not reached:
            for _ in range(2):
                reached.append(1)
                signal.raise_signal(signal.SIGINT)
            reached.append("not here")
        return forward(step)

    executable.engine.executor.forward = pressed_twice
    with pytest.raises(KeyboardInterrupt):
        executable.run(arg="x")
    assert reached == [1, 1]
    assert executable.run(arg="x").value == toy.oracle(TEXT)(0, arg="x").value
    toy.assert_clean(executable)


def test_a_step_comes_to_its_end_and_another_programs_lock_is_no_matter(toy):
    """A stream of another executable is open, and was opened first."""
    first, second = toy.compile(TEXT), toy.compile(TEXT)
    stream = first.stream(arg="x")
    next(stream)
    forward, done = second.engine.executor.forward, []

    def pressed(step):
        if len(done) == 2:
            signal.raise_signal(signal.SIGINT)
        done.append(second.engine.steps)
        return forward(step)

    second.engine.executor.forward = pressed
    with pytest.raises(KeyboardInterrupt):
        second.run(arg="x")
    assert len(done) == 3 and second.engine.steps == done[-1] + 1
    toy.assert_clean(second)
    stream.close()
    toy.assert_clean(first)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _press():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.mark.parametrize("press", [_press, _thread.interrupt_main], ids=["key", "lost"])
def test_who_waits_for_a_tool_is_interrupted_before_it_answers(toy, press):
    """What comes between Python's look for signals and the wait does not end that ("lost")."""
    asked, over, answered = threading.Event(), threading.Event(), []

    def slow(arg):
        asked.set()
        answered.append(over.wait(25))
        return arg

    def pressed():
        assert asked.wait(25)
        press()

    text = "tool slow(arg: str) -> str\n" + TEXT.replace('"About', 'let x = slow(arg)\n    "{x}')
    executable = toy.compile(text, {"slow": slow})
    thread = threading.Thread(target=pressed)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        executable.run(arg="x")
    assert not answered
    over.set()
    thread.join()
    toy.assert_clean(executable)


def test_a_program_that_hears_interrupts_itself_hears_them(toy):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        executable = toy.compile(TEXT)
        forward = executable.engine.executor.forward
        executable.engine.executor.forward = lambda step: (
            signal.raise_signal(signal.SIGINT) or forward(step)
        )
        executable.run(arg="x")
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) > 5
