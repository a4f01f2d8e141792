"""Loops of very many rounds: their texts are looked at, and Ctrl-C is heard between rounds."""

from __future__ import annotations

import pytest
from weft.ir.diagnostics import CapacityError
from weft.runtime.programs.frame import Handle
from weft.tests.runtime.test_interrupts import Pressed, steps, usual  # noqa: F401

ONE = """
program p(arg: str) -> str:
    "{arg}"
    let n = 0
    while n >= 0 up to 100000:
        "{n} and "
        n = n + 1
    gen word(max_tokens=4)
    return word
"""

NESTED = """
program p(arg: str) -> str:
    "{arg}"
    let n = 0
    for item in [arg, arg]:
        while n >= 0 up to 100000:
            for each in [item, item]:
                "{each} and "
            n = n + 1
    gen word(max_tokens=4)
    return word
"""

MISSING = """
program asked(arg: str) -> str:
    "{arg}"
    gen it(max_tokens=4)
    return it

program p(arg: str) -> str:
    let said = call asked(arg)
    "{said}"
    let n = 0
    while n >= 0 up to 100000:
        "{n} and "
        n = n + 1
    gen word(max_tokens=4)
    return word
"""

HOST = """
program p(arg: str) -> str:
    "{arg}"
    let n = 0
    while n < 3000 up to 100000:
        n = n + 1
    "{n}"
    gen word(max_tokens=4)
    return "{n}{word}"
"""


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("text", [ONE, NESTED, MISSING], ids=["one", "nested", "missing"])
def test_a_text_beyond_the_context_ends_its_row_with_its_place(toy, text, written):
    executable = toy.compile(text)
    if not written:
        executable.machine.code.clear()
    with pytest.raises(CapacityError, match=r"row 0: after (\d+) rounds of a loop") as error:
        executable.run(arg="x")
    assert error.value.fields["rounds"] <= 16_384
    assert error.value.span.line == 1 + text[: text.index("while")].count("\n")
    toy.assert_clean(executable)


def test_a_text_that_nothing_is_generated_behind_may_pass_the_context(toy):
    text = """
program p(arg: str) -> str:
    "{arg}"
    gen word(max_tokens=4)
    let n = 0
    while n < 600 up to 100000:
        "{n} and "
        n = n + 1
    return word
"""
    executable = toy.compile(text, context_length=300)
    assert executable.run(arg="x").value == toy.oracle(text)(0, arg="x").value
    toy.assert_clean(executable)


@pytest.mark.parametrize("written", [True, False])
def test_rounds_without_text_may_be_many(toy, written):
    executable = toy.compile(HOST)
    if not written:
        executable.machine.code.clear()
    assert executable.run(arg="x").value == toy.oracle(HOST)(0, arg="x").value
    toy.assert_clean(executable)


def test_a_text_that_just_fits_runs(toy):
    text = ONE.replace("n >= 0", "n < 256").replace("{n} and ", "ab")
    executable, wanted = toy.compile(text, context_length=280), toy.oracle(text)(0, arg="x")
    assert executable.run(arg="x").value == wanted.value


@pytest.mark.parametrize("text", [ONE, HOST], ids=["text", "host"])
def test_an_interrupt_does_not_wait_for_the_end_of_a_loop(toy, text):
    executable = toy.compile(text, context_length=1 << 17)
    pressed = Pressed(40, ("<rows of",))
    with pytest.raises(KeyboardInterrupt), pressed:
        executable.run(arg="x")
    assert -8 < pressed.left <= 0
    toy.assert_clean(executable)


@pytest.mark.parametrize("at", [30, 4000, 30_000])
def test_a_row_of_another_session_that_is_in_its_loop_goes_on(toy, at):
    text = HOST.replace("    let n", "    gen first(max_tokens=1)\n    let n")
    executable = toy.compile(text)
    other = steps(executable, ["o"], 0)
    found = dict(next(other))
    pressed = Pressed(at, ("<rows of",))
    with pytest.raises(KeyboardInterrupt), pressed:
        for _ in steps(executable, ["i"], 1):
            pass
    assert not found and -8 < pressed.left <= 0
    for ended in other:
        found |= dict(ended)
    assert found[0].value == toy.oracle(text)(0, arg="o").value
    toy.assert_clean(executable)


@pytest.mark.parametrize("written", [True, False])
def test_looks_in_inner_loops_read_no_text(toy, written, monkeypatch):
    """Each inner loop began its looks anew, and each look read all of the text."""
    text = NESTED.replace("n >= 0", "n < 60")
    executable = toy.compile(text, context_length=4096)
    if not written:
        executable.machine.code.clear()
    looks, read = [], Handle.newest
    monkeypatch.setattr(Handle, "newest", lambda handle: looks.append(1) or read(handle))
    assert executable.run(arg="x").value == toy.oracle(text)(0, arg="x").value
    assert len(looks) < 30
