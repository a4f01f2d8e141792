"""What stands before a fork: its first branch computes it for all, and the stream holds it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.engine import Engine
from weft.runtime.schedule.policy import Policy
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import ToyExecutor
from weft.tests.runtime.schedule.toy_engine import VOCABULARY, drain, generate

PREFIX = [7, 3, 9, 4, 1, 8]


def machine(least_gain=1, **limits):
    limits = {"num_pages": 200, "max_batch": 8, "max_tokens": 32, **limits}
    return Engine(ToyExecutor(VOCABULARY, **limits), policy=Policy(least_gain=least_gain))


def stream(engine, ids):
    sequence = engine.create((0, 0))
    sequence.append(ids)
    return sequence


def branch(engine, parent, number, ids, count=3):
    child = engine.fork(parent, parent.length, (0, number), gives=True)
    child.append(ids)
    request = Request(child, f"gen {number}", Sampling(count))
    engine.submit(request)
    return request


@pytest.mark.parametrize("least_gain", [1, 100])
def test_the_first_branch_computes_the_prefix_for_all(least_gain):
    engine = machine(least_gain)
    parent = stream(engine, PREFIX)
    requests = [branch(engine, parent, number, [number, 2]) for number in (1, 2, 3)]
    engine.step()
    assert parent.resident == len(PREFIX)
    assert engine.computed_tokens == len(PREFIX) + 2
    drain(engine)
    for number, request in enumerate(requests, 1):
        assert request.sequence.ids() == generate([*PREFIX, number, 2], 3)


def test_the_stream_holds_the_prefix_when_all_branches_are_gone():
    engine = machine(num_pages=24)
    parent = stream(engine, PREFIX)
    for request in [branch(engine, parent, number, [number]) for number in (1, 2)]:
        drain(engine)
        engine.free(request.sequence, remember=False)
    engine.tree.evict(24)
    engine.check()
    assert engine.kv.live == 2 and parent.resident == len(PREFIX)
    before = engine.computed_tokens
    again = branch(engine, parent, 3, [5], 1)
    drain(engine)
    assert engine.computed_tokens == before + 1
    assert again.sequence.ids() == generate([*PREFIX, 5], 1)


def test_a_fork_of_a_fork_gives_both_streams_what_they_begin_with():
    engine = machine()
    parent = stream(engine, PREFIX)
    child = engine.fork(parent, parent.length, (0, 1), gives=True)
    child.append([2, 2])
    branch(engine, child, 2, [5])
    engine.step()
    assert (parent.resident, child.resident) == (len(PREFIX), len(PREFIX) + 2)
    drain(engine)


def test_a_stream_that_has_gone_on_gets_only_what_its_branch_shares():
    engine = machine()
    parent = stream(engine, PREFIX)
    branch(engine, parent, 1, [2])
    parent.append([6, 6, 6])
    drain(engine)
    assert parent.resident == len(PREFIX)
    request = Request(parent, "gen", Sampling(2))
    engine.submit(request)
    drain(engine)
    assert parent.ids() == generate([*PREFIX, 6, 6, 6], 2)


def test_a_freed_or_busy_stream_is_given_nothing():
    engine = machine()
    freed, busy = stream(engine, PREFIX), stream(engine, PREFIX[:3])
    requests = [branch(engine, freed, 1, [2]), branch(engine, busy, 2, [2])]
    engine.free(freed)
    engine.submit(Request(busy, "gen", Sampling(2)))
    drain(engine)
    assert not freed.held and busy.ids() == generate(PREFIX[:3], 2)
    assert requests[0].sequence.ids() == generate([*PREFIX, 2], 3)
    assert requests[1].sequence.ids() == generate([*PREFIX[:3], 2], 3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    prefix=st.lists(st.integers(0, 63), min_size=1, max_size=14),
    own=st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5),
    pages=st.integers(14, 60),
    tokens=st.sampled_from([8, 12, 32]),
)
def test_branches_say_the_same_in_any_memory(prefix, own, pages, tokens):
    engine = machine(num_pages=pages, max_tokens=tokens)
    parent = stream(engine, prefix)
    requests = [branch(engine, parent, number, ids) for number, ids in enumerate(own, 1)]
    drain(engine)
    for ids, request in zip(own, requests, strict=True):
        assert request.sequence.ids() == generate([*prefix, *ids], 3)
    if not engine.preemptions:
        assert parent.resident == len(prefix)


def test_branches_do_not_wait_for_another_streams_begin_token():
    engine = machine(least_gain=100)
    first, second = stream(engine, PREFIX), stream(engine, [PREFIX[0], 2, 2, 2, 2])
    for number, parent in enumerate([first, first, second, second]):
        branch(engine, parent, number, [number])
    assert engine._scheduler.backlog == len(PREFIX) + 1 + 5 + 1
    engine.step()
    assert (first.resident, second.resident) == (len(PREFIX), 5)
    drain(engine)
