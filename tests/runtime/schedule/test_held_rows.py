"""Masks and states on a device that runs ahead: what rows before left there touches none after."""

import numpy as np
import pytest
import torch
from weft.runtime.schedule import held_rows

THEN_FREE = """program p(n: int) -> str:
    "{n}:"
    gen a(max_tokens=6): regex "[a-d]{3,9}"
    "and"
    gen b(max_tokens=9)
    return "{a}{b}"
"""

JOINS = """program p(n: int) -> str:
    "Row {n}:"
    if n % 2 == 0:
        gen a(max_tokens=5): regex "[a-d]{4,9}"
    gen b(max_tokens=12)
    "so"
    gen c(max_tokens=6): regex "[e-h]{3,9}"
    return "{b}{c}"
"""
"""Odd rows come to their constraint while even ones are free again, and have been held before."""


@pytest.mark.parametrize("text", [THEN_FREE, JOINS])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_that_were_held_before_are_free(toy, text, count):
    rows, oracle = [{"n": n} for n in range(count)], toy.oracle(text)
    executable = toy.compile(text, ahead=True, max_batch=4, max_tokens=32)
    found = executable.run_rows(rows).values
    assert found == [oracle(row, **args).value for row, args in enumerate(rows)]
    assert executable.engine.executor.fed
    toy.assert_clean(executable)


@pytest.mark.parametrize("most", range(7, 12))
def test_constraints_come_to_their_ends_within_what_is_left(toy, most):
    text = f"""program p(n: int) -> str:
    "{{n}}:"
    gen a(max_tokens={most}): regex "[a-d]{{2,40}}xyz"
    return a
"""
    rows, oracle = [{"n": n} for n in range(5)], toy.oracle(text)
    executable = toy.compile(text, ahead=True, max_batch=4, max_tokens=32)
    found = executable.run_rows(rows).values
    assert found == [oracle(row, **args).value for row, args in enumerate(rows)]
    assert all(value.endswith("xyz") for value in found)


SAMPLED = """program p(n: int) -> str:
    "{n}:"
    gen a(max_tokens=8, temperature=1.0): regex "[a-d ]{3,9}"
    if n % 2 == 0:
        gen b(max_tokens=5, logprobs=true): regex "[x-z]{3,5}"
    gen c(max_tokens=6): regex "[0-9]{4,6}"
    return "{a}{c}"
"""

SCORED = """program p(n: int) -> str:
    "{n}:"
    if n % 2 == 0:
        gen a(max_tokens=9): regex "[a-d ]{6,9}"
        return a
    gen b(max_tokens=3): regex "[a-d]{2,3}"
    select c from ["xyz", "x1", "hello", "0123456"]
    return c
"""
"""Odd rows score beside even ones that are held."""


@pytest.mark.parametrize("text", [THEN_FREE, JOINS, SAMPLED, SCORED])
@pytest.mark.parametrize("count", [1, 5])
def test_constraints_of_all_rows_allow_all_that_is_drawn(toy, monkeypatch, text, count):
    """Where all rows are held, what their constraints allow in no state is never looked at."""
    rows, oracle, asked = [{"n": n} for n in range(count)], toy.oracle(text), []
    executable = toy.compile(text, ahead=True, max_batch=4, max_tokens=32)
    executor = executable.engine.executor
    forward = executor.forward

    def spoiled(step, source=None):
        only = executor.held.only(len(step.logits_rows))
        assert not executor.held.only(len(step.logits_rows))  # it is asked once
        logits = forward(step, source)
        asked.append(len(only))
        if only:
            words = np.bitwise_or.reduce([one.allowed for one in only]).view(np.uint8)
            allowed = np.unpackbits(words, bitorder="little")[: logits.shape[1]].astype(bool)
            assert 0 < allowed.sum() < len(allowed) // 2
            logits[:, torch.from_numpy(~allowed)] = 1e6
        return logits

    monkeypatch.setattr(executor, "forward", spoiled)
    found = executable.run_rows(rows).values
    assert found == [oracle(row, **args).value for row, args in enumerate(rows)]
    assert 1 in asked and (count == 1 or 0 in asked)


@pytest.mark.parametrize("mixed", [0.0, 99.0])
def test_the_log_probability_of_what_is_forced_is_zero(toy, monkeypatch, mixed):
    """Whether it is computed at once or could be drawn token by token."""
    monkeypatch.setattr(held_rows, "MIXED", mixed)
    text = """program p(n: int) -> list[float]:
    "{n}:"
    gen a(max_tokens=12, logprobs=true): regex "[a-d]{3}forced[e-h]{2}"
    return a.logprobs
"""
    rows, oracle = [{"n": n} for n in range(3)], toy.oracle(text)
    found = toy.compile(text, ahead=True, max_batch=4, max_tokens=32).run_rows(rows).values
    expected = [oracle(row, **args).value for row, args in enumerate(rows)]
    assert found == [pytest.approx(each, abs=1e-4) for each in expected]
    assert all(0.0 in each for each in found)


def test_constraints_beyond_the_devices_room_are_the_hosts(toy, monkeypatch):
    monkeypatch.setattr(held_rows, "MOST_BYTES", 0)
    text = 'program p(n: int) -> str:\n    "{n}:"\n    gen a(max_tokens=9): regex "[a-d ]{3,9}"\n'
    text += "    return a\n"
    executable, oracle = toy.compile(text, ahead=True), toy.oracle(text)
    assert executable.run(n=3).value == oracle(0, n=3).value
    assert executable.engine.executor.fed == 0


def test_constraints_of_a_new_program_take_the_place_of_old_ones(toy, monkeypatch):
    text = 'program p() -> str:\n    "x:"\n    gen a(max_tokens=9): regex "[a-d ]{{3,{}}}"\n'
    text += "    return a\n"
    held = toy.compile(text.format(9), ahead=True).engine.held
    one = held.tables.arrays["masks"].nbytes
    monkeypatch.setattr(held_rows, "MOST_BYTES", 2 * one)
    for most in range(10, 20):
        other = toy.compile(text.format(most))
        held.take(other.machine.constraints.matchers())
        assert all(held.tables.place(m) for m in other.machine.constraints.matchers())
        assert held.tables.arrays["masks"].nbytes <= 2 * one
