"""Log-probabilities of asked words: by position, in chunks, and again after a restart."""

from types import SimpleNamespace

import pytest
import torch
from weft.runtime.engine import Engine
from weft.runtime.schedule import flight, scoring
from weft.runtime.schedule.batch import Chunk
from weft.runtime.schedule.request import Request
from weft.runtime.schedule.scoring import Scores
from weft.runtime.simulator import ToyExecutor, toy_logits
from weft.tests.runtime.schedule.ahead import AheadExecutor, AheadSampler

IDS = [3, 1, 4, 1, 5, 9]
ASKED = [(1,), (), (5, 2, 7), (9,)]


def request_of(engine, start=2):
    sequence = engine.create((0,))
    sequence.append(IDS)
    return Request(sequence, "score", score_from=start, asked=ASKED)


def expected(start=2, ids=IDS):
    return [
        {word: float(torch.log_softmax(toy_logits(ids[: at + 1], 50), 0)[word]) for word in words}
        for at, words in zip(range(start, len(IDS)), ASKED, strict=True)
    ]


def test_an_engine_gives_each_position_the_words_that_it_was_asked_for():
    for tokens in (64, 3):  # in one step, and in chunks
        engine = Engine(ToyExecutor(50, max_tokens=tokens))
        request = request_of(engine)
        engine.submit(request)
        while engine:
            engine.step()
        assert request.scores == expected()


def test_the_tree_gets_what_a_step_computes_once(monkeypatch):
    """It takes a host as long as a walk does, and a stream that goes gives nothing more."""
    engine, given = Engine(ToyExecutor(50, max_tokens=3)), []
    insert = engine.tree.insert
    monkeypatch.setattr(engine.tree, "insert", lambda ids, *of: given.append(insert(ids, *of)))
    request = request_of(engine)
    engine.submit(request)
    while engine:
        engine.step()
    engine.free(request.sequence)
    assert len(given) == 2 and engine.tree.known(request.sequence.tokens[:6]) == 6


@pytest.mark.parametrize(("most", "steps"), [(None, 3), (12, 1), (7, 2)])
def test_a_step_has_as_many_rows_of_logits_as_its_executor_says(most, steps):
    """Three sequences ask for 12 positions; an executor of four sequences that says nothing of rows
    of logits has no more of them."""
    executor = ToyExecutor(50, max_batch=4)
    if most is not None:
        executor.max_logits = most
    engine = Engine(executor)
    requests = [request_of(engine) for _ in range(3)]
    for number, request in enumerate(requests):
        request.sequence.tokens[0] = number  # all are different
        engine.submit(request)
    while engine:
        engine.step()
    assert engine.steps == steps
    for number, request in enumerate(requests):
        assert request.scores == expected(ids=[number, *IDS[1:]])


def test_log_probabilities_are_taken_of_some_rows_at_a_time(monkeypatch):
    request = request_of(Engine(ToyExecutor(50)))
    logits = torch.stack([toy_logits(IDS[: at + 1], 50) for at in range(2, len(IDS))])
    sizes, whole = [], torch.log_softmax

    def counted(rows, dim):
        sizes.append(len(rows))
        return whole(rows, dim)

    monkeypatch.setattr(scoring, "ROWS", 3)
    monkeypatch.setattr(torch, "log_softmax", counted)
    Scores(logits, [Chunk(request, 0, 6)]).give()
    assert sizes == [3, 1]
    assert request.scores == expected()


def test_what_is_computed_again_takes_the_place_of_what_was():
    request = request_of(Engine(ToyExecutor(50)))
    logits = torch.stack([toy_logits(IDS[: at + 1], 50) for at in range(2, len(IDS))])
    Scores(torch.zeros(3, 50), [Chunk(request, 0, 5)]).give()
    for start, count, rows in ((0, 4, logits[:2]), (4, 2, logits[2:])):
        Scores(rows, [Chunk(request, start, count)]).give()
    assert request.scores == expected()


def test_positions_without_words_are_no_error():
    request = request_of(Engine(ToyExecutor(50)))
    request.asked = ()
    Scores(torch.zeros(4, 50), [Chunk(request, 0, 6)]).give()
    assert request.scores == [{}, {}, {}, {}]


class Slow(scoring.Found):
    """What is not there before it is waited for; `events` tells when that is."""

    events: list[str] = []
    fails = 0

    def ready(self):
        return False

    def wait(self):
        Slow.events.append("wait")
        Slow.fails -= 1
        if Slow.fails == 0:
            raise KeyboardInterrupt
        return super().wait()


@pytest.fixture
def ahead(monkeypatch):
    """An engine whose steps of 6 tokens are launched ahead, with six requests of as many."""
    Slow.events, Slow.fails = [], 0
    monkeypatch.setattr(scoring, "Found", Slow)
    monkeypatch.setattr(flight, "FOLLOWS", 1)
    executor = AheadExecutor(50, num_pages=200, max_batch=6, max_tokens=6)
    forward = executor.forward
    executor.forward = lambda *given: Slow.events.append("launch") or forward(*given)
    engine = Engine(executor, AheadSampler(executor))
    requests = [request_of(engine) for _ in range(6)]
    for number, request in enumerate(requests):
        request.sequence.append([number, 7, 5, 3])  # as long as it takes to share no step
        request.asked = (*ASKED, *[(number,)] * 4)
        engine.submit(request)
    return SimpleNamespace(engine=engine, requests=requests)


def wanted(request):
    ids = request.sequence.ids()
    return [
        {word: float(torch.log_softmax(toy_logits(ids[: at + 1], 50), 0)[word]) for word in words}
        for at, words in zip(range(2, len(ids)), request.asked, strict=True)
    ]


def finish(engine):
    done, broken = [], 0
    while engine:
        try:
            done += engine.step()
        except KeyboardInterrupt:
            broken += 1
        engine.check()
    return done, broken


def test_a_step_is_launched_before_the_scores_of_the_last_one_are_there(ahead):
    done, _ = finish(ahead.engine)
    assert set(done) == set(ahead.requests) and len(done) == 6
    assert all(request.scores == wanted(request) for request in done)
    assert Slow.events[:5] == ["launch", "launch", "wait", "launch", "wait"]


def test_nothing_is_launched_before_scores_where_too_little_waits(ahead, monkeypatch):
    monkeypatch.setattr(flight, "FOLLOWS", 1 << 20)
    done, _ = finish(ahead.engine)
    assert len(done) == 6
    assert Slow.events[::2] == ["launch"] * (len(Slow.events) // 2)


@pytest.mark.parametrize("fails", range(1, 8))
def test_scores_that_do_not_come_are_computed_again(ahead, fails):
    Slow.fails = fails
    done, broken = finish(ahead.engine)
    assert broken == 1 and set(done) == set(ahead.requests) and len(done) == 6
    assert all(request.scores == wanted(request) for request in done)


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_request_given_up_with_its_scores_on_their_way_is_not_answered(ahead, steps):
    engine, done = ahead.engine, []
    for _ in range(steps):
        done += engine.step()
    given_up = next(request for request in ahead.requests if request not in done)
    engine.cancel(given_up)
    assert not given_up.sequence.busy
    done += finish(engine)[0]
    assert set(done) == set(ahead.requests) - {given_up} and len(done) == 5
    assert all(request.scores == wanted(request) for request in done)


@pytest.mark.parametrize("by", ["token_normalized", "greedy", "unconditional"])
def test_an_option_that_is_listed_twice_counts_once(toy, by):
    text = """
program pick(words: list[str]) -> list[float]:
    "b:"
    select w(by="BY") from words
    return [w.probs["hello"], w.probs["a"]]
""".replace("BY", by)
    executable, oracle = toy.compile(text), toy.oracle(text)
    once = executable.run(words=["hello", "a"]).value
    twice = executable.run(words=["hello", "a", "hello"]).value
    assert sum(once) == pytest.approx(1.0)
    assert twice == pytest.approx(once, abs=1e-6)
    assert oracle(0, words=["hello", "a", "hello"]).value == pytest.approx(once, abs=1e-4)
    toy.assert_clean(executable)


@pytest.mark.parametrize("by", ["token_normalized", "greedy", "unconditional"])
@pytest.mark.parametrize(
    "words", [["xy a", "xy b", "xyz"], ["xy", "xy a", "xy ab"], ["xyz"], ["xy a", "b"]]
)
def test_options_that_begin_alike_are_scored_behind_their_beginning(toy, by, words):
    """It is sent with the prompt, and what each goes on with is scored behind both."""
    text = """
program pick(words: list[str]) -> list[float]:
    "b:"
    select w(by="BY") from words
    " "
    gen more(max_tokens=3)
    return [PROBS]
""".replace("BY", by).replace("PROBS", ", ".join(f'w.probs["{word}"]' for word in words))
    executable, oracle = toy.compile(text), toy.oracle(text)
    found, expected = executable.run(words=words), oracle(0, words=words)
    assert found.value == pytest.approx(expected.value, abs=1e-4)
    assert found.values["w"] == expected.values["w"] and found.values["more"]
    assert found.values["more"] == expected.values["more"]
    toy.assert_clean(executable)
