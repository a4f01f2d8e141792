"""Admission by claims: rows never give pages back, and none ever holds more than its claim."""

from __future__ import annotations

from itertools import islice
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weft.ir.budget import Limits
from weft.ir.diagnostics import WeftError
from weft.runtime.schedule.admission import Admission, Claim
from weft.runtime.schedule.limits import KVTooSmall
from weft.runtime.schedule.row_order import in_prefix_order
from weft.runtime.session import Host, Session
from weft.tests.each_time import examples
from weft.tests.runtime.programs import test_random_programs as random_programs


def watch_claims(executable):
    """Check after every step that no row holds more pages than it claims by now, and that what rows
    claim together is there.

    Every row's claim is cut back after every step, and not only when another waits for room.
    """
    engine, host = executable.engine, executable._host
    start, starting, rows = host.admission.open, [], {}

    def opened(ticket, claim):
        if ticket not in host.admission.claims:
            starting.append(claim)
        start(ticket, claim)

    def begun(coroutine, done):
        instance = coroutine.gi_frame.f_locals["self"]
        rows[instance.ticket] = instance
        return begin(coroutine, done)

    host.admission.open = opened
    begin, host.loop.start = host.loop.start, begun
    step = engine.step

    def checked():
        done = step()
        held = {}
        for sequence in engine._scheduler.sequences:
            pages = set(sequence.pages[: sequence.held].tolist())
            held.setdefault(sequence.order[0], set()).update(pages)
        for ticket, pages in held.items():
            claim = host.admission.claims[ticket]
            assert not claim.proven or len(pages) <= claim.pages, (ticket, len(pages), claim)
        claims = host.admission.claims.values()
        claimed = sum(claim.pages for claim in claims if claim.proven)
        assert len(claims) <= 1 or claimed <= engine.kv.num_pages
        for ticket in host.admission.claims:
            host.admission.spare(ticket, rows[ticket].spared)
            rows[ticket].spared = 0
        return done

    engine.step = checked
    return starting


@settings(
    max_examples=examples(150), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    text=random_programs.programs(),
    pages=st.sampled_from([40, 100, 250, 600, 1500]),
    page_size=st.sampled_from([1, 2, 4, 7, 16]),
    batch=st.sampled_from([1, 3, 8]),
    rows=st.lists(st.sampled_from(["hello", "he", "a b", "", "long text " * 4]), min_size=1,
                  max_size=6),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_with_a_proof_nothing_is_ever_given_back(toy, text, pages, page_size, batch, rows, seed):
    arguments = [{"arg": row} for row in rows]
    executable = toy.compile(
        text, seed=seed, num_pages=pages, page_size=page_size, max_batch=batch,
        max_tokens=max(16, batch), context_length=400,
    )  # fmt: skip
    forecast = executable._host.forecast
    proven = all(forecast.claim(executable.check_row(0, row)).proven for row in arguments)
    started = watch_claims(executable)
    oracle = toy.oracle(text, seed=seed)
    try:
        expected = [oracle(number, **row).values for number, row in enumerate(arguments)]
    except WeftError:
        return  # a constraint cut short by max_tokens: no value to compare
    try:
        found = dict(random_programs.in_steps(executable, arguments))
    except KVTooSmall:
        assert not proven
        return
    assert [found[number].values for number in range(len(arguments))] == expected
    assert len(started) == len(arguments)
    if proven:
        assert executable.engine.preemptions == 0
    toy.assert_clean(executable)


def test_a_number_longer_than_budgets_count_has_no_proof(toy):
    """A row may bring 4,300 digits; the plan counts 32 bytes."""
    text = 'program p(n: int) -> str:\n    "{n}"\n    gen word(max_tokens=2)\n    return word\n'
    executable = toy.compile(text, num_pages=400, page_size=4, max_batch=2)
    claim = executable._host.forecast.claim
    assert claim({"n": 10**31 - 1}).proven and claim({"n": -(10**31) + 1}).proven
    long = -(10**31), 10**300
    assert not any(claim({"n": number}).proven for number in long)
    assert claim({"n": long[1]}).guess > claim({"n": long[0]}).guess
    oracle = toy.oracle(text)
    found = executable.run_rows([{"n": number} for number in long])
    assert found.values == [oracle(row, n=number).value for row, number in enumerate(long)]


WIDE = """
program wide(arg: str, sides: list[str]) -> list[str]:
    "About {arg}: "
    fork side in sides as views:
        "the {side} "
        gen view(max_tokens=20)
        yield view
    return views
"""


@pytest.mark.parametrize("pages", [60, 120, 480])
def test_a_row_with_more_branches_claims_more_and_fewer_rows_are_open(toy, pages):
    executable = toy.compile(WIDE, num_pages=pages, page_size=4, max_batch=8)
    forecast = executable._host.forecast
    claims = [
        forecast.claim(executable.check_row(0, {"arg": "x", "sides": ["a"] * count}), 1)
        for count in range(1, 5)
    ]
    sizes = [claim.pages for claim in claims]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    rows = [{"arg": "x", "sides": [f"{n}{i}" for i in range(n % 4 + 1)]} for n in range(12)]
    result = executable.run_rows(rows)
    oracle = toy.oracle(WIDE)
    assert result.values == [oracle(n, **row).value for n, row in enumerate(rows)]
    worst = forecast.claim(executable.check_row(0, rows[3]), len(rows))
    assert worst.proven == (pages == 480)
    if worst.proven:
        assert result.stats.preemptions == 0
    toy.assert_clean(executable)


class Memory:
    num_pages, live = 100, 0


def test_claims_are_counted_and_unproven_rows_wait_for_proven_ones():
    admission = Admission(Memory(), Limits(16, 512), rows=2)
    sixty, forty, unproven = Claim(60, 1), Claim(40, 1), Claim(100, 1, proven=False)
    admission.open(0, sixty)
    assert admission.may_open(forty) and not admission.may_open(Claim(41, 1))
    assert not admission.may_open(unproven)
    admission.close(0)
    admission.open(1, unproven)
    assert admission.may_open(unproven) and not admission.may_open(Claim(1, 1))
    admission.close(1)
    assert admission.may_open(Claim(100, 1))


def test_more_unproven_rows_than_a_step_takes_start_where_rows_like_those_that_ended_fit():
    admission, unproven = Admission(Memory(), Limits(16, 512), rows=2), Claim(100, 1, proven=False)
    for ticket in range(2):
        assert admission.may_open(unproven)
        admission.open(ticket, unproven)
    assert not admission.may_open(unproven)  # nobody knows yet what a row takes
    admission.close(0, tokens=24 * 16)
    for ticket in range(2, 6):  # five may take 120 pages: they end one after another
        assert admission.may_open(unproven)
        admission.open(ticket, unproven)
    assert not admission.may_open(unproven)  # six rows of 24 pages
    admission.close(1)  # one that failed says nothing
    assert admission.may_open(unproven)
    admission.close(2, tokens=104 * 16)  # 44 pages by now: two fit, and as many a step takes
    for ticket in 3, 4:
        assert not admission.may_open(unproven)
        admission.close(ticket)
    assert admission.may_open(unproven)


@pytest.mark.parametrize("rows", [None, 2])
def test_the_last_rows_start_in_a_full_memory_only_where_tokens_are_dear(rows):
    memory, unproven = Memory(), Claim(100, 1, proven=False)
    admission = Admission(memory, Limits(16, 512), rows=rows)
    admission.open(0, unproven)
    for memory.live in (69, 99):
        assert admission.may_open(unproven) is (memory.live == 69)
        assert admission.may_open(unproven, last=True) is (memory.live == 69 or rows == 2)
    memory.live = 100
    assert not admission.may_open(unproven, last=True)


def test_before_a_row_without_a_proof_has_ended_it_is_guessed_what_one_takes():
    admission = Admission(Memory(), Limits(16, 512), rows=2)
    guessed = Claim(100, 1, proven=False, guess=33)
    for ticket in range(3):
        assert admission.may_open(guessed)
        admission.open(ticket, guessed)
    assert not admission.may_open(guessed)  # four rows of 33 pages
    admission.close(0, tokens=25 * 16)  # now it is known
    admission.open(3, guessed)
    assert admission.may_open(guessed)


def test_a_row_is_guessed_by_its_arguments_or_by_what_its_stream_may_get(toy):
    """One whose length nothing bounds reads its arguments and writes as much; others less than
    their bound."""
    endless = 'program p(text: str) -> str:\n    user "{text}"\n    while true up to 99:\n'
    endless += "        gen a(max_tokens=99)\n    return text\n"
    bounded = 'program p(text: str) -> str:\n    user "{text}"\n    gen a(max_tokens=90)\n'
    bounded += "    return a\n"
    found = []
    for text in (endless, bounded):
        executable = toy.compile(text, num_pages=12, page_size=4)
        for size in (8, 80):
            row = executable.check_row(0, {"text": "x" * size})
            claim = executable._host.forecast.claim(row)
            assert not claim.proven
            found.append(claim.guess)
    assert found[:2] == [2 * 8 / 4 / 4, 2 * 80 / 4 / 4]
    assert found[2] > 0.75 * 90 / 4 and found[3] > found[2] + 0.75 * 70 / 4


@pytest.mark.parametrize("dear", [False, True])
def test_where_tokens_are_dear_no_more_rows_start_than_a_step_takes_until_one_has_ended(toy, dear):
    executable = toy.compile(WIDE, num_pages=39, page_size=4, max_batch=2)
    host = executable._host
    assert host.admission._rows is None  # the toy does not say that they are
    executable.engine.executor.tokens_are_dear = dear
    host = executable._host = Host(host.machine, executable.engine)
    host.forecast._guess = lambda arguments: inf
    rows = [{"arg": "x", "sides": ["a", "b"]} for _ in range(6)]
    assert not host.forecast.claim(executable.check_row(0, rows[0])).proven
    close, open_before_an_end = host.admission.close, []

    def closed(ticket, tokens=None):
        open_before_an_end.append(len(host.admission.claims))
        assert tokens is not None and tokens > 0
        close(ticket, tokens)

    host.admission.close = closed
    oracle = toy.oracle(WIDE)
    values = executable.run_rows(rows).values
    assert values == [oracle(number, **row).value for number, row in enumerate(rows)]
    assert len(open_before_an_end) == len(rows)
    assert open_before_an_end[0] == (2 if dear else len(rows))
    toy.assert_clean(executable)


def test_where_tokens_are_dear_the_last_row_starts_however_much_of_the_memory_is_in_use(toy):
    text = 'program p(text: str, turns: int) -> str:\n    user "{text}"\n    let done = 0\n'
    text += "    while done < turns up to 99:\n        assistant gen a(max_tokens=3)\n"
    text += "        done += 1\n    return text\n"
    executable = toy.compile(text, num_pages=22, page_size=4, max_batch=2)
    executable.engine.executor.tokens_are_dear = True
    host = executable._host = Host(executable._host.machine, executable.engine)
    rows = [{"text": "x", "turns": 1}, {"text": "y" * 60, "turns": 4}, {"text": "z", "turns": 1}]
    started, may_open = [], host.admission.may_open

    def asked(claim, last=False):
        found, kv = may_open(claim, last), executable.engine.kv
        if found:
            started.append((len(host.admission.claims), kv.live >= 0.7 * kv.num_pages, last))
        return found

    host.admission.may_open = asked
    oracle = toy.oracle(text)
    values = executable.run_rows(rows).values
    assert values == [oracle(number, **row).value for number, row in enumerate(rows)]
    # The third row starts beside the second one's long stream.
    assert started == [(0, False, False), (1, False, False), (1, True, True)]
    toy.assert_clean(executable)


@pytest.mark.parametrize("given", [iter, list])
def test_how_many_rows_are_left_is_known_where_none_come_behind_those_looked_at(
    toy, monkeypatch, given
):
    monkeypatch.setattr("weft.runtime.session.LOOK_AHEAD", 1)  # two rows at a time
    asked, may_open = [], Session._may_open
    monkeypatch.setattr(Session, "_may_open", lambda self, claim, left: (
        asked.append(left) or may_open(self, claim, left)))  # fmt: skip
    text = 'program p(text: str) -> str:\n    user "{text}"\n    assistant gen a(max_tokens=3)\n'
    executable = toy.compile(text + "    return a\n", num_pages=64, page_size=4, max_batch=2)
    executable.run_rows(given([{"text": str(row)} for row in range(5)]))
    assert asked == ([None] * 4 + [1] if given is iter else [5, 4, 3, 2, 1])
    toy.assert_clean(executable)


def test_what_gens_leave_of_their_budgets_is_claimed_no_longer():
    admission = Admission(Memory(), Limits(16, 512), rows=2)
    admission.open(0, Claim(60, 1, tokens=320))  # 20 pages of its own, 40 of its parts
    admission.spare(0, 15)
    assert admission.claims[0].pages == 60 and not admission.may_open(Claim(41, 1))
    admission.spare(0, 1)
    assert admission.claims[0].pages == 59 and admission.may_open(Claim(41, 1))
    admission.spare(0, 1000)
    assert admission.claims[0].pages == 40 and not admission.may_open(Claim(61, 1))
    admission.open(1, Claim(60, 1))
    admission.close(0)
    admission.close(1)
    assert admission.may_open(Claim(100, 1))


def test_beyond_the_context_nothing_is_spared():
    """A stream that the context bounds may still fill it."""
    claim = Claim(40, 1, tokens=2000)
    assert claim.less(1400, Limits(16, 512)).pages == 40
    assert claim.less(1504, Limits(16, 512)).pages == 39


LOOP = """
program talk(messages: list[str]) -> list[str]:
    let replies: list[str] = []
    for message in messages:
        user "{message}"
        assistant gen reply(max_tokens=8)
        replies += [reply]
    return replies
"""


def test_elements_of_a_list_are_counted_in_tokens(toy):
    executable = toy.compile(LOOP, num_pages=400, page_size=4, max_batch=4)

    def claim(*messages):
        row = executable.check_row(0, {"messages": list(messages)})
        return executable._host.forecast.claim(row, 1)

    assert "tokens " in str(executable.plan.symbol("talk")["budget"])
    one, four = claim("hello"), claim("hello", "hello", "", "hello")
    other = claim("xyzzy")  # five tokens, of as many bytes
    assert one.tokens < other.tokens and one.tokens < four.tokens
    rows = [{"messages": ["hello" * (n % 5), "a b", "the hello"]} for n in range(9)]
    starting = watch_claims(executable)
    found = executable.run_rows(rows)
    assert len(starting) == 9 and found.stats.preemptions == 0
    oracle = toy.oracle(LOOP)
    assert found.values == [oracle(n, **row).value for n, row in enumerate(rows)]


@given(
    texts=st.lists(st.text("ab", max_size=6), max_size=40), window=st.integers(1, 50)
)  # fmt: skip
def test_prefix_order_is_a_walk_over_each_window_and_loses_no_job(texts, window):
    class Texts:
        def prepare(self, rows, most):
            taken = list(islice(rows, 3))
            prepared.extend(taken)
            return len(taken)

        def beginning(self, arguments):
            return (arguments,)

    jobs, prepared = list(enumerate(texts)), []
    ordered = list(in_prefix_order(iter(jobs), Texts(), window, shared=1))
    assert sorted(ordered) == jobs
    assert sorted(prepared) == sorted(texts)  # each row's prompt is encoded once, with others
    for start in range(0, len(jobs), window):
        given_out = ordered[start : start + window]
        assert sorted(given_out) == jobs[start : start + window]
        for length in range(1, 4):  # jobs that share a beginning follow each other
            beginnings = [text[:length] for _, text in given_out]
            runs = [b for i, b in enumerate(beginnings) if i == 0 or beginnings[i - 1] != b]
            assert len(runs) == len(set(runs))


def test_jobs_that_share_little_keep_their_order():
    class Texts:
        def prepare(self, rows, most):
            return len(list(rows))

        def beginning(self, arguments):
            return ("a" * arguments, "b")

    jobs = list(enumerate([70, 3, 2, 80, 1, 3, 75]))
    given_out = [length for _, length in in_prefix_order(iter(jobs), Texts(), 10, shared=64)]
    assert given_out == [70, 75, 80, 3, 3, 2, 1]
