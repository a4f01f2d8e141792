"""Streams that nobody shares go on without a look for others, and get no less for it."""

from __future__ import annotations

import numpy as np
import pytest
from weft.runtime.memory.kv_cache import PagedKV
from weft.runtime.schedule.row_costs import EDGE_TOKENS, PromptLog
from weft.tests.runtime.schedule.test_turmoil import Turmoil


def stream(kv, ids, log, resident=None):
    """Return a sequence of tokens that are logged, with KV of all of them but the last."""
    sequence = kv.create((0,))
    sequence.append(ids)
    log.add(sequence.tokens[: len(ids)], sequence)
    sequence.resident = len(ids) - 1 if resident is None else resident
    return sequence


@pytest.fixture
def kv():
    return PagedKV(8, 4, 64, lambda source, target: None)


def test_a_stream_is_alone_behind_what_it_has_computed_and_nobody_else_asked_for(kv):
    log = PromptLog()
    sequence = kv.create((0,))
    assert not log.alone(sequence)  # nobody has looked for its tokens yet
    first = stream(kv, [1, 2, 3, 4], log)
    assert log.alone(first)
    second = stream(kv, [1, 2, 7, 8], log)
    assert not log.alone(first)  # its edge was cut: it looks once more
    for each in (first, second):
        each.append([9])
        log.add(each.tokens[: each.length], each)
        assert not log.alone(each)  # until it has computed what it shares
        each.resident = each.length - 1
        assert log.alone(each)
    second.resident = 1
    assert not log.alone(second)  # the first has a token that it has not


def test_a_stream_is_not_alone_with_a_twin_a_fork_or_after_it_has_lost_something(kv):
    log = PromptLog()
    first = stream(kv, [1, 2, 3, 4], log)
    stream(kv, [1, 2, 3, 4], log)
    assert not log.alone(first)
    parent = stream(kv, [5, 6, 7], log)
    child = kv.fork(parent, 3, (1,))
    assert log.alone(parent) and not log.alone(child)
    child.append([8])
    log.add(child.tokens[:4], child)
    assert not log.alone(parent)
    cut, dropped = stream(kv, [11, 12, 13, 14], log), stream(kv, [21, 22, 23, 24], log)
    cut.remembered = 4
    kv.truncate(cut, 3)
    kv.drop(dropped)
    assert not log.alone(cut) and not log.alone(dropped)


def test_a_log_that_was_begun_anew_does_not_know_who_is_alone(kv, monkeypatch):
    log = PromptLog()
    stream(kv, [1, 2, 3, 4], log)
    monkeypatch.setattr("weft.runtime.schedule.row_costs.MOST_TOKENS", 2)
    assert not log.alone(stream(kv, [1, 2, 3, 5], log))


def test_short_prompts_fill_a_log_by_what_their_edges_take(monkeypatch):
    monkeypatch.setattr("weft.runtime.schedule.row_costs.MOST_TOKENS", 3 * EDGE_TOKENS)
    log, prompts = PromptLog(), [np.array([number, 1], np.int32) for number in range(4)]
    assert [log.add(prompt) for prompt in (*prompts[:3], prompts[0])] == [0, 0, 0, 0]
    assert log.add(prompts[0]) == 2 and log.add(prompts[1]) == 0


def test_nothing_is_computed_twice_as_nobody_looked_for_it(monkeypatch):
    real, found = PromptLog.alone, []

    def looked(self, of):
        found.append(real(self, of))
        return found[-1]

    for seed in (0, 1, 4, 5, 7):  # the last two tell who takes all streams for such
        costs = []
        for alone in (looked, lambda self, of: False):
            monkeypatch.setattr(PromptLog, "alone", alone)
            turmoil = Turmoil(seed)
            turmoil.run()
            engine = turmoil.engine
            costs.append((engine.steps, engine.computed_tokens, engine.preemptions))
        assert costs[0] == costs[1]
    assert any(found) and not all(found)
