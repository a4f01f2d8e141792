"""Samples of one prompt are one row until they differ: same tokens as alone, fewer computed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.engine import Engine
from weft.runtime.execution.sampler import sample_rows, uniforms
from weft.runtime.execution.sparse_decode import decode_rows
from weft.runtime.programs.events import TextPiece, ValueBound
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.schedule.shared_work import SharedWork
from weft.runtime.schedule.siblings import Siblings
from weft.runtime.simulator import ToyExecutor, toy_logits
from weft.runtime.tracing.trace import Trace
from weft.tests.runtime.schedule.toy_engine import VOCABULARY, drain, engine

END = 7


@cache
def drawn(ids: tuple[int, ...], heat: float, key: int, position: int) -> tuple[int, float, float]:
    """Return what one draw gives, its log-probability, and its margin."""
    u = torch.from_numpy(uniforms(np.array([key], np.uint64), np.array([position])))
    zero, one = torch.zeros(1), torch.ones(1)
    logits = toy_logits(ids, VOCABULARY)[None]
    found = sample_rows(logits, None, torch.tensor([heat]), zero.int(), one, zero, u)
    token, logprob, margin = (each.item() for each in found)
    return int(token), logprob, margin


def alone(ids: list[int], count: int, heat: float, key: int) -> tuple[list[int], list[float]]:
    """Return the tokens of a sample and their log-probabilities, one after the other."""
    new, logprobs = [], []
    for position in range(count):
        token, logprob, _ = drawn((*ids, *new), heat, key, position)
        if token == END:
            break
        new.append(token)
        logprobs.append(logprob)
    return new, logprobs


def ask(machine, number, ids, count, heat, key, same="x", logprobs=True):
    sequence = machine.create((number, 0))
    sequence.append(ids)
    sampling = Sampling(count, heat, ends=(END,), key=key)
    request = Request(sequence, "gen", sampling, row=number, same=same, logprobs=logprobs)
    machine.submit(request)
    return request


def rows_of(ids, keys, count, heat):
    """Return how many rows of logits the samples of one prompt need: one for equal beginnings."""
    found = set()
    for key in keys:
        new, _ = alone(ids, count, heat, key)
        found |= {tuple(new[:at]) for at in range(min(len(new) + 1, count))}
    return len(found)


@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupt_while_samples_part_loses_none(monkeypatch, at):
    ids, keys, count = [1, 2, 3], range(30), 6
    machine = engine(max_batch=64, max_tokens=128)
    requests = [ask(machine, key, ids, count, 1.0, key) for key in keys]
    left, give = [at], SharedWork._give

    def pressed(*given):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        give(*given)

    monkeypatch.setattr(SharedWork, "_give", pressed)
    with pytest.raises(KeyboardInterrupt):
        drain(machine)
    drain(machine)
    for key, request in zip(keys, requests, strict=True):
        assert request.generated().tolist() == alone(ids, count, 1.0, key)[0], key


@pytest.mark.parametrize("heat", [0.02, 0.3, 1.5])
def test_samples_have_one_row_until_they_differ(heat):
    ids, keys, count = [1, 2, 3], range(12), 9
    machine = engine(max_batch=32, max_tokens=64)
    requests = [ask(machine, key, ids, count, heat, key) for key in keys]
    drain(machine)
    for request, key in zip(requests, keys, strict=True):
        new, logprobs = alone(ids, count, heat, key)
        assert request.generated().tolist() == new
        assert request.token_logprobs == pytest.approx(logprobs)
        assert request.reason == ("length" if len(new) == count else "end")
        draws = [drawn((*ids, *new[:at]), heat, key, at) for at in range(min(len(new) + 1, count))]
        assert request.margin == min(margin for *_, margin in draws)
        assert machine.hits.take(key).sent == len(ids)
    rows = rows_of(ids, keys, count, heat)
    assert machine.computed_tokens == len(ids) - 1 + rows
    assert rows < sum(len(alone(ids, count, heat, key)[0]) for key in keys)


@pytest.mark.parametrize("what", ["same", "none", "tokens", "max_tokens", "heat", "begun"])
def test_what_asks_something_else_has_a_row_of_its_own(what):
    machine = engine()
    ask(machine, 0, [1, 2, 3], 4, 0.02, 1, logprobs=False)
    if what == "begun":
        machine.step()
    ids = [1, 2, 4] if what == "tokens" else [1, 2, 3]
    ask(machine, 1, ids, 5 if what == "max_tokens" else 4, 0.03 if what == "heat" else 0.02, 2,
        {"same": "y", "none": None}.get(what, "x"), logprobs=False)  # fmt: skip
    assert not machine._shared.siblings
    drain(machine)
    assert machine.computed_tokens >= 3 + 2 * 4 - 1


def test_those_who_leave_together_stay_together():
    heat, keys = 0.3, range(60)
    machine = engine(max_batch=64, max_tokens=64)
    for key in keys:
        ask(machine, key, [1, 2, 3], 6, heat, key)
    machine.step()
    siblings = machine._shared.siblings
    first = {alone([1, 2, 3], 1, heat, key)[0][0] for key in keys}
    assert 1 < len(first) < len(keys) / 2
    assert len(siblings._leaders) + len(first) == len(keys)
    drain(machine)
    assert not siblings and not siblings._leaders and not siblings._open and not siblings._keys


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("gone", [0, 1, 5])
def test_a_leader_or_a_sibling_that_is_cancelled_costs_no_other(steps, gone):
    ids, heat, count = [1, 2, 3], 0.3, 8
    machine = engine(max_batch=8)
    requests = [ask(machine, key, ids, count, heat, key) for key in range(6)]
    for _ in range(steps):
        assert not machine.step()
    machine.cancel(requests[gone])
    assert len(drain(machine)) == 5
    for key, request in enumerate(requests):
        if key != gone:
            assert request.generated().tolist() == alone(ids, count, heat, key)[0]
    assert not machine._shared.siblings


@given(
    asked=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 7), st.sampled_from([0.02, 0.3, 2.0]),
                  st.integers(0, 5), st.integers(0, 3)),
        min_size=1, max_size=14,
    ),
    pages=st.sampled_from([14, 60]), rows=st.sampled_from([1, 3, 8]), together=st.booleans(),
    cancelled=st.sets(st.integers(0, 13), max_size=3),
)  # fmt: skip
def test_random_samples_are_what_they_are_alone(asked, pages, rows, together, cancelled):
    """With preemptions, few places, equal keys, and prompts that share within a step."""
    executor = ToyExecutor(VOCABULARY, num_pages=pages, page_size=2, max_batch=rows, max_tokens=16)
    executor.copies_slots = together
    machine = Engine(executor)
    requests = []
    for number, (prompt, count, heat, key, steps) in enumerate(asked):
        ids = list(range(prompt, prompt + 5))
        requests.append((ask(machine, number, ids, count, heat, key), ids, count, heat, key))
        for _ in range(steps):
            machine.step()
        if number in cancelled and requests[-1][0].sequence.busy:
            machine.cancel(requests.pop()[0])
    drain(machine)
    for request, ids, *how in requests:
        new, logprobs = alone(ids, *how)
        assert request.sequence.ids() == ids + new
        assert request.token_logprobs == pytest.approx(logprobs)


SETTINGS = [
    {}, {"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.3}, {"temperature": 1e-38},
    {"temperature": 3.0},
]  # fmt: skip


@pytest.mark.parametrize("how", SETTINGS)
def test_who_is_sure_of_its_leaders_token_would_draw_it(how):
    """Of 100 siblings of a row some draw nothing, and the others what they draw alone."""
    generator = torch.Generator().manual_seed(7)
    sampling = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **how}
    logits = torch.randn(3, 64, generator=generator)
    logits[:, 5] += 3.0
    machine = engine(max_batch=4, max_tokens=64)
    batch, siblings = machine._batch, Siblings(100)
    leaders = [ask(machine, number, [number, 2], 4, 1.0, number) for number in range(3)]
    batch.requests, batch.size = leaders, 3
    for name, value in sampling.items():
        getattr(batch, name)[:3] = value
    names = ("temperature", "top_k", "top_p", "min_p")
    settings = [torch.from_numpy(getattr(batch, name))[:3] for name in names]
    others = {}
    for number, leader in enumerate(leaders):
        some = [Request(leader.sequence, sampling=Sampling(4, 1.0, key=1000 * number + key))
                for key in range(100 if number else 1)]  # fmt: skip
        siblings.follow(leader, some)
        others |= dict.fromkeys(some, number)
    zeros = np.zeros(3, np.int32)
    own = torch.from_numpy(uniforms(np.array([1, 2, 3], np.uint64), zeros))
    tokens = sample_rows(logits, None, *settings, own)[0]
    draws = siblings.draw(batch, logits, tokens, None, [*settings, own], sample_rows, None)
    told = {each.request: each.token for each in draws}
    for request, row in others.items():
        u = torch.from_numpy(uniforms(np.array([request.sampling.key], np.uint64), zeros[:1]))
        alone_it_draws = sample_rows(logits[[row]], None, *(each[[row]] for each in settings), u)[0]
        assert told.get(request, int(tokens[row])) == int(alone_it_draws)
    if {*how} <= {"temperature"}:
        assert 1 <= len(told) < len(others) * (0.999 if how else 0.9)
    else:
        assert len(told) == len(others)


def test_a_step_that_fails_draws_again():
    ids, heat, count = [1, 2, 3], 0.3, 6
    machine = engine(max_batch=8)
    requests = [ask(machine, key, ids, count, heat, key) for key in range(6)]
    forward, failing = machine.executor.forward, iter([0, 1, 0, 1, 1, *[0] * 99])

    def fails(step):
        logits = forward(step)
        if next(failing):
            raise RuntimeError
        return logits

    machine.executor.forward = fails
    while machine:
        try:
            machine.step()
        except RuntimeError:
            machine.check()
    for key, request in enumerate(requests):
        assert request.generated().tolist() == alone(ids, count, heat, key)[0]


class SparseExecutor(ToyExecutor):
    """Decode rows read the last three tokens, prompts all."""

    def all_logits(self, step):
        self.kv[step.slots.numpy()] = step.tokens.numpy()
        owner = np.repeat(np.arange(len(step.kv_lengths)), np.diff(step.query_starts.numpy()))
        found = []
        for row in step.logits_rows.tolist():
            at = np.arange(int(step.positions[row]) + 1)
            pages = step.page_table[owner[row]].numpy()[at // self.page_size]
            ids = self.kv[pages * self.page_size + at % self.page_size]
            few = owner[row] < decode_rows(step)
            found.append(toy_logits(ids[-3:] if few else ids, self.vocab_size))
        return torch.stack(found) if found else torch.empty(0, self.vocab_size)


def test_who_goes_on_by_itself_reads_as_before_behind_whatever_prompts():
    """A prompt's tokens read all keys, where those of rows that decode read some."""
    ids, keys = [1, 2, 3, 4, 5], range(6)

    def machine():
        return Engine(SparseExecutor(VOCABULARY, num_pages=200))

    single = []
    for key in keys:
        lone = machine()
        single.append(ask(lone, 0, ids, 8, 0.3, key))
        drain(lone)
    crowd, number = machine(), 0
    requests = [ask(crowd, 1000 + key, ids, 8, 0.3, key) for key in keys]
    while not all(request.reason for request in requests):
        ask(crowd, number, [20 + number, 9, 8], 2, 0.3, number)
        crowd.step()
        number += 1
    assert [r.generated().tolist() for r in requests] == [r.generated().tolist() for r in single]


TYPES = {
    "str": "str", "stop": 'str(stop="e")', "choice": 'choice["alpha", "alpine", "beta"]',
    "int": "int(1..400)", "record": "Pair",
}  # fmt: skip

PROGRAM = """
record Pair:
    first: choice["a", "b"]
    second: int(1..90)

program draws(arg: str) -> str:
    "About {{arg}}: "
    fork 8 as words:
        gen word({options}temperature={heat}): {type}
        yield word
    return "{{words}}"
"""


def text(type: str, heat: float) -> str:
    name, _, options = TYPES[type].partition("(")
    if type != "stop":
        name, options = TYPES[type], ""
    options = options.rstrip(")") + ", " if options else ""
    return PROGRAM.format(options="max_tokens=24, " * (name in {"str", "Pair"}) + options,
                          heat=heat, type=name)  # fmt: skip


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("heat", [0.1, 4.0])
def test_types_stops_and_listeners_hold_for_each_sample(toy, type, heat, monkeypatch):
    monkeypatch.setattr(ToyExecutor, "takes_words", True, raising=False)
    program = text(type, heat)
    trace = Trace(kernels=False)
    executable = toy.compile(program, max_batch=3, max_tokens=32, trace=trace)
    rows = executable.run_rows([{"arg": "x"}, {"arg": "y"}])
    oracle = [toy.oracle(program)(number, arg=arg) for number, arg in enumerate("xy")]
    assert rows.values == [each.value for each in oracle]
    assert trace.hits_measured == trace.hits_predicted
    assert rows.stats.deduplicated_tokens > 0
    events = list(executable.stream(arg="x"))
    for branch in range(8):
        path = (("words", 0, branch),)
        told = [each for each in events if getattr(each, "path", None) == path]
        (value,) = (each.value for each in told if isinstance(each, ValueBound))
        assert value == oracle[0].values["words"][branch]
        if name_is_text(type):
            assert "".join(e.text for e in told if isinstance(e, TextPiece)) == value
    toy.assert_clean(executable)


def name_is_text(type: str) -> bool:
    return type in {"str", "stop", "choice"}
