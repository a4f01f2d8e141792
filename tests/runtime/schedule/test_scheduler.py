"""What a step computes: chunks, joins, prefixes computed once, and who gives way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.engine import Engine
from weft.runtime.schedule.policy import Policy
from weft.runtime.schedule.pressure import Pressure
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import ToyExecutor
from weft.tests.each_time import examples
from weft.tests.runtime.schedule.ahead import AheadExecutor, AheadSampler
from weft.tests.runtime.schedule.toy_engine import VOCABULARY, drain, engine, generate


def submit(engine, number, ids, count):
    sequence = engine.create((number, 0))
    sequence.append(ids)
    request = Request(sequence, f"gen {number}", Sampling(count), row=number)
    engine.submit(request)
    return request


def test_a_long_prompt_is_prefilled_in_chunks_while_others_decode():
    machine = engine()
    short = submit(machine, 0, [1, 2, 3], 30)
    machine.step()
    long = submit(machine, 1, list(range(60)), 5)
    sizes = []
    while short.reason == "" and long.reason == "":
        before = machine.computed_tokens
        machine.step()
        sizes.append(machine.computed_tokens - before)
    assert sizes[:4] == [16, 16, 16, 16] and sizes[4] == 2
    drain(machine)
    assert short.sequence.ids() == generate([1, 2, 3], 30)
    assert long.sequence.ids() == generate(range(60), 5)


@pytest.mark.parametrize("together", [True, False])
def test_rows_that_arrive_together_compute_a_shared_prompt_once(together):
    machine = engine(max_batch=8, max_tokens=64)
    shared = list(range(40))
    requests = []
    for number in range(6):
        requests.append(submit(machine, number, [*shared, 50 + number], 1))
        if not together:
            drain(machine)
    drain(machine)
    assert machine.computed_tokens == 40 + 6
    assert [machine.take_prefix_hits(number) for number in range(6)] == [0, 40, 40, 40, 40, 40]
    for number, request in enumerate(requests):
        assert request.sequence.ids() == generate([*shared, 50 + number], 1)


def test_a_row_that_finds_no_page_takes_none_from_an_older_one():
    machine = engine(num_pages=7, max_batch=2, max_tokens=64)
    older = submit(machine, 0, range(14), 10)
    young = submit(machine, 1, range(20, 32), 4)  # its first new token begins a page
    assert drain(machine) == [older, young]
    assert machine.preemptions == 2  # of the younger, once it runs and once it waits
    assert older.sequence.ids() == generate(range(14), 10)
    assert young.sequence.ids() == generate(range(20, 32), 4)


def test_a_prompt_that_is_filled_before_its_call_is_a_part_of_that_and_no_hit():
    machine = engine(max_tokens=64)
    filled = machine.create((0, 0))
    filled.append(range(20))
    machine.submit(Request(filled, "fill"))
    drain(machine)
    call = machine.fork(filled, 20, (0, 1))
    call.append([20])
    machine.submit(Request(call, "gen", Sampling(1)))
    drain(machine)
    hits = machine.hits.take(0)
    assert (hits.sent, hits.predicted, hits.measured) == (21, 0, 0)
    assert machine.computed_tokens == 21


def test_equal_prompts_compute_only_their_last_token_again():
    machine = engine(max_tokens=64)
    for number in range(3):
        submit(machine, number, list(range(20)), 1)
    drain(machine)
    assert machine.computed_tokens == 20 + 1 + 1


@pytest.mark.parametrize("pages", [16, 20, 30])
@pytest.mark.parametrize("size", [1, 4])
def test_when_pages_run_out_the_oldest_goes_on_and_all_finish_unchanged(pages, size):
    machine = engine(num_pages=pages * 4 // size, page_size=size, max_batch=6)
    prompts = [[number, *range(10 + number)] for number in range(8)]
    requests = [submit(machine, n, prompt, 25) for n, prompt in enumerate(prompts)]
    order = [request.row for request in drain(machine)]
    for prompt, request in zip(prompts, requests, strict=True):
        assert request.sequence.ids() == generate(prompt, 25)
    if pages == 16:
        assert machine.preemptions and order[0] == 0


def test_idle_sequences_give_way_and_come_back():
    machine = engine(num_pages=16)
    idle = submit(machine, 0, list(range(30)), 1)
    drain(machine)
    submit(machine, 1, list(range(40, 60)), 25)
    drain(machine)
    assert idle.sequence.held == 0
    again = Request(idle.sequence, "again", Sampling(5), row=0)
    machine.submit(again)
    drain(machine)
    assert idle.sequence.ids() == generate(range(30), 6)


def test_who_waits_for_another_s_answer_gives_its_pages_back():
    """The older row's stream is filled; its gen waits for an equal one, which needs every page."""
    machine = engine(num_pages=9)
    older = machine.create((0,))
    older.append(list(range(30)))
    machine.submit(Request(older, "fill"))
    drain(machine)
    sampling = Sampling(5)
    leader = machine.create((1,))
    leader.append(list(range(30)))
    first = Request(leader, "gen", sampling, row=1, same="gen")
    twin = Request(older, "gen", sampling, row=0, same="gen")
    machine.submit(first)
    machine.submit(twin)
    drain(machine)
    assert first.error is None and twin.error is None and twin.duplicate
    assert leader.ids() == older.ids() == generate(range(30), 5)
    assert machine.preemptions


def test_a_failed_step_leaves_every_request_able_to_go_on():
    machine = engine()
    requests = [submit(machine, n, [n, 5, 6], 12) for n in range(6)]
    forward = machine.executor.forward
    calls = [0]

    def failing(step):
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise RuntimeError("the device is gone")
        return forward(step)

    machine.executor.forward = failing
    while machine:
        try:
            machine.step()
        except RuntimeError:
            machine.check()
        if calls[0] > 10:
            machine.executor.forward = forward
    for number, request in enumerate(requests):
        assert request.sequence.ids() == generate([number, 5, 6], 12)


def test_who_is_cancelled_before_its_answer_is_handed_out_is_not_answered():
    machine = engine()
    submit(machine, 0, list(range(20)), 1)
    drain(machine)
    fill, asked = machine.create((1,)), submit(machine, 2, [7, 8, 9], 4)
    fill.append(list(range(20)))
    filled = Request(fill, "fill")  # the tree has all of it: it is done when it is looked at
    machine.submit(filled)

    def failing(step):
        raise RuntimeError("the device is gone")

    forward, machine.executor.forward = machine.executor.forward, failing
    with pytest.raises(RuntimeError):
        machine.step()
    assert machine._scheduler.done == [filled]
    machine.executor.forward = forward
    machine.cancel(filled)
    assert drain(machine) == [asked]
    assert asked.sequence.ids() == generate([7, 8, 9], 4)


def test_a_step_of_which_all_is_given_up_is_waited_for_at_once():
    """Nobody steps any more: what is on its way would be there for ever."""
    executor = AheadExecutor(64, num_pages=200, max_batch=4, max_tokens=16)
    engine = Engine(executor, AheadSampler(executor))  # type: ignore[arg-type]
    sequence = engine.create((0, 0))
    sequence.append([1, 7, 5])
    request = Request(sequence, "gen", Sampling(5))
    engine.submit(request)
    engine.step()
    assert engine
    engine.cancel(request)
    assert not engine
    engine.free(sequence, remember=False)
    engine.check()
    assert engine.kv.live == 0


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(
    criticals=st.lists(st.integers(0, 1000), min_size=12, max_size=30),
    pages=st.sampled_from([10, 40]),
    batch=st.sampled_from([1, 3]),
)
def test_nobody_starves_however_long_the_ways_of_younger_rows(criticals, pages, batch):
    """Younger rows arrive at every step with longer critical paths; the old one gets its turn."""
    machine = engine(num_pages=pages, max_batch=batch)
    waiting = submit(machine, 0, [1, 2, 3], 6)
    second = machine.create((0, 1))
    second.append([4, 5, 6])
    other = Request(second, "gen", Sampling(6), row=0, critical=0)
    machine.submit(other)
    done = []
    for number, critical in enumerate(criticals):
        sequence = machine.create((number + 1, 0))
        sequence.append([number + 7, 2])
        machine.submit(Request(sequence, "gen", Sampling(6), row=number + 1, critical=critical))
        done += machine.step()
        machine.check()
    done += drain(machine)
    assert len(done) == len(criticals) + 2
    # Whoever goes first though it started n steps later has a path that is longer by their weight.
    aged = [(row, row * Policy().aging) for row in range(1, len(criticals) + 1)]
    longer = [row for (row, age), critical in zip(aged, criticals, strict=True) if critical > age]
    before = [request.row for request in done[: done.index(waiting)] if request.row]
    slack = 2 * batch
    assert len([row for row in before if row not in longer]) <= slack
    assert machine.steps <= 8 * (len(criticals) + 2) * (2 if pages == 10 else 1)


def test_who_takes_pages_from_one_that_goes_before_it_is_queued_no_more():
    """The oldest took pages, its victim came before it in the queue, and so it stayed there."""
    machine = engine(num_pages=12, max_batch=4, max_tokens=64)
    arrivals = {1: (2, 23, 11), 3: (1, 33, 6), 6: (0, 11, 19)}
    requests = {}
    for step in range(200):
        if step in arrivals:
            number, length, count = arrivals[step]
            ids = [(number * 7 + k) % VOCABULARY for k in range(length)]
            requests[number] = submit(machine, number, ids, count), ids, count
        machine.step()
        scheduler = machine._scheduler
        waiting = [entry[2] for entry in scheduler._waiting]
        working = [*scheduler._prefilling, *machine._batch.requests]
        assert len({*waiting, *working}) == len(waiting) + len(working)
        machine.check()
    assert machine.preemptions > 0 and not machine
    for request, ids, count in requests.values():
        assert request.sequence.ids() == generate(ids, count)


@pytest.mark.parametrize(("critical", "high"), [(4, False), (40, True)])
def test_pages_are_scarce_where_rows_will_not_fit_at_their_ends(critical, high):
    """The same pages are in use; how far the rows still have to go decides."""
    machine = engine(num_pages=20, max_batch=2, page_size=4)
    for number in range(4):
        sequence = machine.create((number, 0))
        sequence.append([number, *range(13)])
        machine.submit(Request(sequence, "gen", Sampling(2), row=number, critical=critical))
    while machine.kv.live <= 14:  # ended ones keep what they have
        machine.step()
    scheduler = machine._scheduler
    pressure = Pressure(machine._batch, machine.kv, machine.tree, Policy())
    assert pressure.is_high(0, scheduler._outside()) == high
    drain(machine)
    assert not pressure.is_high(8, ())


def test_pages_are_scarce_for_a_while_after_an_open_rows_prompt_was_forgotten():
    machine = engine()
    pressure = Pressure(machine._batch, machine.kv, machine.tree, Policy())
    assert not pressure.is_high(4, ())
    machine.tree.missed += 1
    assert [pressure.is_high(clock, ()) for clock in range(5, 15)] == [True] * 8 + [False] * 2
    machine.tree.missed += 1
    assert pressure.is_high(15, ())


@pytest.mark.parametrize(
    ("waiting", "path", "pages", "high"),
    [(1, 40, 50, False), (1, 0, 50, True), (2, 40, 50, True), (1, 40, 20, True)],
)
def test_forgotten_prompts_are_no_matter_where_all_that_is_left_has_room(
    waiting, path, pages, high
):
    """Not where a path is not known, as many wait as run, or their pages will not be there."""
    machine = engine(max_batch=2, num_pages=pages)
    for number in range(2 + waiting):
        sequence = machine.create((number, 0))
        sequence.append([number, 1, 2])
        machine.submit(Request(sequence, "gen", Sampling(40), critical=path))
    machine.step()
    scheduler = machine._scheduler
    pressure = Pressure(machine._batch, machine.kv, machine.tree, Policy())
    machine.tree.missed += 1
    assert pressure.is_high(1, scheduler._outside()) == high


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=2, max_size=12),
    pages=st.integers(13, 30),
    batch=st.integers(1, 4),
)
def test_all_finish_though_the_farthest_go_first_while_pages_are_scarce(rows, pages, batch):
    toy = ToyExecutor(VOCABULARY, num_pages=pages, max_batch=batch, max_tokens=16, page_size=4)
    machine = Engine(toy, policy=Policy(nearly=100.0))
    requests = []
    for number, (length, count) in enumerate(rows):
        sequence = machine.create((number, 0))
        sequence.append([(number * 7 + at) % VOCABULARY for at in range(length)])
        request = Request(sequence, "gen", Sampling(count), row=number, critical=100 - count)
        machine.submit(request)
        requests.append((request, sequence.ids(), count))
    steps = 0
    while machine:
        machine.step()
        machine.check()
        steps += 1
        assert steps < 4000, "rows take each other's pages for ever"
    for request, ids, count in requests:
        assert request.sequence.ids() == generate(ids, count)
