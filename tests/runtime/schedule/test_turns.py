"""Rows that take turns: all end together in full steps, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.engine import Engine
from weft.runtime.schedule.policy import Policy
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import ToyExecutor
from weft.tests.each_time import examples
from weft.tests.runtime.schedule.ahead import AheadExecutor, AheadSampler
from weft.tests.runtime.schedule.toy_engine import VOCABULARY, drain, generate

NEVER = Policy(turn=1 << 20)


def engine(policy=None, ahead=False, **limits):
    limits = {"num_pages": 400, "max_batch": 4, "max_tokens": 32, **limits}
    if not ahead:
        return Engine(ToyExecutor(VOCABULARY, **limits), policy=policy)
    executor = AheadExecutor(VOCABULARY, **limits)
    return Engine(executor, AheadSampler(executor), policy)


def submit(machine, number, count, path, budget=None):
    sequence = machine.create((number, 0))
    sequence.append([1, 2, number % VOCABULARY, number // VOCABULARY])
    request = Request(sequence, f"gen {number}", Sampling(budget or count), critical=path)
    machine.submit(request)
    return request


def expected(number, count):
    return generate([1, 2, number % VOCABULARY, number // VOCABULARY], count)


def run(count, policy=None, ahead=False, path=40, **limits):
    machine = engine(policy, ahead, **limits)
    requests = [submit(machine, number, 40, path) for number in range(count)]
    drain(machine)
    for number, request in enumerate(requests):
        assert request.sequence.ids() == expected(number, 40)
    return machine


@pytest.mark.parametrize("ahead", [False, True])
def test_the_last_wave_is_spread_over_full_steps(ahead):
    turns, waves = run(6, ahead=ahead), run(6, NEVER, ahead)
    assert waves.steps >= 80 and not waves._scheduler.turns.taken
    assert turns.steps <= 6 * 40 // 4 + 8 + 3 * ahead * turns._scheduler.turns.taken
    assert turns._scheduler.turns.taken >= 4


@pytest.mark.parametrize(
    ("waiting", "ahead", "taken"), [(1, False, 0), (2, False, 1), (2, True, 0)]
)
def test_gens_behind_those_that_free_places_are_for_get_turns(waiting, ahead, taken):
    """Where steps run ahead of the host only a full batch takes them."""
    machine = engine(ahead=ahead)
    counts = [20, 30, 30, 30]
    requests = [submit(machine, number, count, 30) for number, count in enumerate(counts)]
    while not machine.step():
        pass
    assert machine._batch.size == 3
    counts += [40] * waiting
    requests += [submit(machine, number, 40, 40) for number in range(4, len(counts))]
    machine.step()
    assert machine._scheduler.turns.taken == taken
    drain(machine)
    for number, (request, count) in enumerate(zip(requests, counts, strict=True)):
        assert request.sequence.ids() == expected(number, count)


def test_requests_whose_paths_nobody_knows_take_no_turns():
    assert not run(6, path=0)._scheduler.turns.taken


def test_rows_with_other_prompts_to_come_take_no_turns():
    assert not run(6, path=81)._scheduler.turns.taken


def test_where_one_row_runs_at_a_time_it_runs_to_its_end():
    machine = engine(max_batch=1)
    requests = [submit(machine, number, 40, 40) for number in range(3)]
    ended = [request for _ in range(150) for request in machine.step()]
    assert ended == requests and not machine._scheduler.turns.taken


def test_while_many_wait_rows_run_on():
    machine = engine()
    for number in range(20):
        submit(machine, number, 40, 40)
    for _ in range(30):
        machine.step()
    assert not machine._scheduler.turns.taken


def test_where_memory_has_no_room_for_all_rows_run_on():
    scarce = run(6, num_pages=50)  # six rows of eleven pages
    assert not scarce._scheduler.turns.taken


def test_a_long_gen_that_comes_late_goes_before_short_ones_that_have_waited():
    """Behind them it would run alone at the end: 40 full steps, and then 12 of one row."""
    machine = engine(max_batch=2)
    counts = [2] * 40
    requests = [submit(machine, number, 2, 2) for number in range(40)]
    for _ in range(25):
        machine.step()
    counts.append(12)
    requests.append(submit(machine, 40, 12, 12))
    drain(machine)
    assert machine.steps <= (2 * 40 + 12) // 2 + 2
    for number, (request, count) in enumerate(zip(requests, counts, strict=True)):
        assert request.sequence.ids() == expected(number, count)


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=12),
    st.integers(2, 5), st.integers(1, 9), st.integers(20, 200), st.booleans(),
)  # fmt: skip
def test_turns_change_no_token(rows, batch, turn, pages, ahead):
    machine = engine(Policy(turn=turn), ahead, max_batch=batch, num_pages=pages)
    requests = [
        submit(machine, number, count, count + after) for number, (count, after) in enumerate(rows)
    ]
    drain(machine)
    for number, (request, (count, _)) in enumerate(zip(requests, rows, strict=True)):
        assert request.sequence.ids() == expected(number, count)
