"""Duplicate work is computed once, is told, and changes no token; different samples stay apart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.programs.events import PartialValue, TextPiece, ValueBound
from weft.runtime.schedule.duplicates import MOST_NUMBERS, Answer, Duplicates
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import toy_logits
from weft.tests.runtime.schedule.toy_engine import drain, engine, generate

DRAWS = """
program draws(arg: str) -> list[str]:
    "About {{arg}}: "
    fork {width} as words:
        gen word(max_tokens=12{options})
        yield word
    "{{words}} "
    gen last(max_tokens=4)
    return words
"""


def ask(engine, number, ids, count, same="x", **options):
    sequence = engine.create((number, 0))
    sequence.append(ids)
    request = Request(sequence, "gen", Sampling(count, **options), row=number, same=same)
    engine.submit(request)
    return request


def test_equal_greedy_forks_are_one_gen(toy):
    text = DRAWS.format(width=6, options="")
    executable = toy.compile(text, max_batch=16)
    rows = executable.run_rows([{"arg": "x"}])
    expected = toy.oracle(text)(0, arg="x")
    assert rows.values == [expected.value]
    length = rows.stats.deduplicated_tokens
    assert length and length == 5 * (length // 5)
    toy.assert_clean(executable)


def test_what_is_computed_in_any_case_has_no_key(monkeypatch):
    """Its prompt was hashed to be refused."""
    asked = []
    key = Duplicates.key
    monkeypatch.setattr(Duplicates, "key", lambda self, r: asked.append(r.row) or key(self, r))
    running = engine(max_batch=4)
    for number, same in enumerate((None, None, "x")):
        ask(running, number, [5, 6], 2, same=same, temperature=1.0, key=number)
    drain(running)
    assert set(asked) == {2}


@pytest.mark.parametrize("type", ["str", "Pair"])
def test_a_stream_computes_equal_gens_once_and_tells_the_text_of_each(toy, type):
    text = f"""
record Pair:
    first: choice["a", "b"]
    second: int(1..9)

program draws(arg: str) -> int:
    "About {{arg}}: "
    fork 6 as words:
        gen word(max_tokens=60, stop="q"): {type}
        yield word
    return len(words)
"""
    executable = toy.compile(text, max_batch=2)
    steps = executable.run_rows([{"arg": "x"}]).stats.steps
    before = executable.engine.steps
    events = list(executable.stream(arg="x"))
    assert executable.engine.steps - before == steps
    for branch in range(6):
        path = (("words", 0, branch),)
        told = [each for each in events if getattr(each, "path", None) == path]
        value = told.pop()
        assert isinstance(value, ValueBound) and value.name == "word"
        if type == "Pair":
            assert isinstance(told[-1], PartialValue) and told[-1].value == value.value
        pieces = "".join(each.text for each in told if isinstance(each, TextPiece))
        whole = json.dumps(value.value) if type == "Pair" else value.value
        assert pieces == whole
    toy.assert_clean(executable)


def test_different_samples_are_never_merged(toy):
    text = DRAWS.format(width=4, options=", temperature=1.5")
    executable = toy.compile(text, max_batch=16)
    rows = executable.run_rows([{"arg": "x"}, {"arg": "x"}])
    oracle = toy.oracle(text)
    assert rows.values == [oracle(number, arg="x").value for number in range(2)]
    assert len({word for words in rows.values for word in words}) > 1


def test_equal_rows_are_answered_together_and_a_new_run_computes_anew(toy):
    text = DRAWS.format(width=1, options="")
    executable = toy.compile(text, max_batch=16)
    one = executable.run_rows([{"arg": "x"}]).stats.steps
    many = executable.run_rows([{"arg": "x"}] * 40)
    assert many.values == [toy.oracle(text)(0, arg="x").value] * 40
    assert many.stats.steps <= 2 * one
    again = executable.run_rows([{"arg": "x"}])
    assert not again.stats.deduplicated_tokens and again.stats.steps == one
    toy.assert_clean(executable)


def test_scores_and_selects_of_equal_streams_are_computed_once(toy):
    text = """
program choose(arg: str) -> str:
    "{arg} is "
    fork 5 as picks:
        let value = score("hello the")
        select pick from ["the end", "hello", "a b"]
        yield "{pick} {value}"
    return picks[4]
"""
    executable = toy.compile(text, max_batch=16, max_tokens=128)
    result = executable.run(arg="x")
    assert result.value == toy.oracle(text)(0, arg="x").value
    single = toy.compile(text.replace("fork 5", "fork 1").replace("[4]", "[0]"), max_batch=16)
    single.run(arg="x")
    assert executable.engine.computed_tokens == single.engine.computed_tokens
    toy.assert_clean(executable)


def test_equals_of_a_gen_that_sent_nothing_send_nothing(toy):
    text = """
program forced(arg: str) -> str:
    "Say it: "
    gen said(max_tokens=8, stop="b"): regex "a*b|hello"
    return said
"""
    executable = toy.compile(text, max_batch=1)
    rows = executable.run_rows([{"arg": "x"}] * 4)
    assert rows.values == ["hello"] * 4 and rows.stats.deduplicated_tokens
    stats = rows.stats
    assert (stats.sent_tokens, stats.hits_predicted, stats.hits_measured) == (0, 0, 0)
    toy.assert_clean(executable)


@pytest.mark.parametrize("lost", [False, True])
def test_a_twin_has_the_pages_of_who_computed_its_answer(lost, monkeypatch):
    """Without a walk through the tree, which only who comes later, or finds them gone, needs."""
    machine, walks = engine(), []
    first, *twins = [ask(machine, number, [1, 2, 3], 20) for number in range(4)]
    match = machine.tree.match
    monkeypatch.setattr(machine.tree, "match", lambda ids, of: walks.append(of) or match(ids, of))
    if lost:
        monkeypatch.setattr(machine._shared.duplicates, "finished", _drops(machine, first, twins))
    assert len(drain(machine)) == 4 and {twin.sequence.resident for twin in twins} == {22}
    assert all(twin.sequence.ids() == generate([1, 2, 3], 20) for twin in twins)
    assert {*walks} - {first.sequence} == ({twin.sequence for twin in twins} if lost else set())
    assert [machine.take_prefix_hits(number) for number in range(4)] == [0, 2, 2, 2]


def _drops(machine, first, twins):
    """Return what gives `first` to nobody before it has lost its pages."""

    def finished(request):
        machine.kv.drop(first.sequence)
        return twins if request is first else []

    return finished


def test_a_cancelled_leader_leaves_its_work_to_a_twin():
    machine = engine()
    requests = [ask(machine, number, [1, 2, 3], 9) for number in range(4)]
    machine.step()
    machine.step()
    machine.cancel(requests[0])
    machine.cancel(requests[2])
    drain(machine)
    for number in (1, 3):
        assert requests[number].sequence.ids() == generate([1, 2, 3], 9)
    assert requests[3].duplicate and not requests[1].duplicate
    assert requests[0].sequence.ids() != requests[1].sequence.ids()


def test_a_cancelled_twin_is_not_answered():
    machine = engine()
    leader, twin, other = (ask(machine, number, [1, 2, 3], 9) for number in range(3))
    machine.step()
    machine.cancel(twin)
    assert drain(machine) == [leader, other]
    assert twin.sequence.ids() == [1, 2, 3] and not twin.duplicate


def test_a_twin_that_is_cancelled_before_its_answer_is_handed_out_is_not_answered():
    machine = engine()
    leader = ask(machine, 0, [1, 2, 3], 9)
    assert drain(machine) == [leader]
    twin = ask(machine, 1, [1, 2, 3], 9)
    assert twin.duplicate
    machine.cancel(twin)
    assert drain(machine) == [] and not machine


@pytest.mark.parametrize("what", ["max_tokens", "same", "none", "tokens", "key", "logprobs"])
def test_what_differs_is_computed(what):
    machine = engine()
    first = ask(machine, 0, [1, 2, 3], 5, temperature=1.0, key=7)
    given = {"temperature": 1.0, "key": 8 if what == "key" else 7}
    ids = [1, 2, 4] if what == "tokens" else [1, 2, 3]
    same = {"same": "y", "none": None}.get(what, "x")
    count = 6 if what == "max_tokens" else 5
    sequence = machine.create((1, 0))
    sequence.append(ids)
    second = Request(sequence, "gen", Sampling(count, **given), same=same,
                     logprobs=what == "logprobs")  # fmt: skip
    machine.submit(second)
    drain(machine)
    assert not first.duplicate and not second.duplicate


def test_answers_are_bounded():
    duplicates = Duplicates()
    machine = engine()
    for number in range(50):
        sequence = machine.create((number, 0))
        sequence.append([number])
        request = Request(sequence, same="x", score_from=0)
        assert not duplicates.joins(request)
        request.scores = [toy_logits([1], MOST_NUMBERS // 10)]
        duplicates.finished(request)
    assert len(duplicates._answers) <= 10
    assert sum(answer.size for answer in duplicates._answers.values()) <= MOST_NUMBERS
    assert isinstance(next(iter(duplicates._answers.values())), Answer)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    asked=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=12
    ),
    pages=st.sampled_from([12, 40]),
    cancelled=st.sets(st.integers(0, 11)),
)
def test_random_duplicates_give_what_they_would_alone(asked, pages, cancelled):
    machine = engine(num_pages=pages)
    requests = []
    for number, (prompt, count, steps) in enumerate(asked):
        ids = list(range(prompt, prompt + 6))
        requests.append((ask(machine, number, ids, count), ids, count))
        for _ in range(steps):
            machine.step()
        if number in cancelled and requests[-1][0].sequence.busy:
            machine.cancel(requests[-1][0])
            requests[-1] = (requests[-1][0], None, 0)
    drain(machine)
    for request, ids, count in requests:
        if ids is not None:
            assert request.sequence.ids() == generate(ids, count)


def test_a_gen_that_says_nothing_again_keeps_the_keys_of_its_prompt(toy):
    text = """
program p(arg: str) -> str:
    "{arg}"
    for i in range(2):
        gen nothing(max_tokens=4)
    "more"
    gen last(max_tokens=3)
    return last
"""
    executable = toy.compile(text)
    found = executable.run_rows([{"arg": "w428"}])
    assert found.values == [toy.oracle(text)(0, arg="w428").value]
    stats = found.stats
    assert stats.generated_tokens == 3 and stats.hits_measured == stats.hits_predicted
    toy.assert_clean(executable)
