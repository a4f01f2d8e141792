"""Options that are asked for with their prompt, in one step: the same scores, no hit is lost."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.ir.diagnostics import RunError
from weft.runtime.memory.sequence import Sequence
from weft.runtime.programs.select import Scorer, beginning
from weft.runtime.programs.tasks import Branches, TaskLoop, Together
from weft.runtime.programs.tools import ToolPool
from weft.runtime.schedule.limits import ContextTooLong
from weft.runtime.schedule.request import Request
from weft.runtime.schedule.row_costs import ideal_hits
from weft.runtime.schedule.same_step import SameStep
from weft.runtime.tracing.trace import Trace

CHOOSE = """program choose(text: str, options: list[str]) -> str:
    "{text} "
    select first from options
    " and "
    select second(by="unconditional") from options
    let points = score(" the end")
    return "{first} {second} {points}"
"""

OPTIONS = ["abc d", "abc e f", "abc", "hello A b", "hello A c", "the end of all"]
ROWS = [{"text": text, "options": OPTIONS[: 2 + number]}
        for number, text in enumerate(("one", "two", "one", "a b c d e"))]  # fmt: skip


def outcome(toy, rows, **limits):
    trace = Trace()
    executable = toy.compile(CHOOSE, trace=trace, **{"num_pages": 2000, **limits})
    found = executable.run_rows(rows)
    executable.engine.check()
    assert executable.engine.kv.live == 0, "every fork was given back"
    return found, ideal_hits(trace.calls), executable.engine


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("limits", [{}, {"page_size": 1}, {"max_tokens": 7, "max_batch": 3}])
def test_one_step_scores_what_several_did(toy, ahead, limits):
    later, ideal, by_steps = outcome(toy, ROWS, ahead=ahead, **limits)
    at_once, same, engine = outcome(toy, ROWS, ahead=ahead, together=True, **limits)
    assert at_once.values == later.values
    assert at_once.stats.hits_predicted == at_once.stats.hits_measured == same.measured
    assert (same.sent, same.measured) == (ideal.sent, ideal.measured)
    assert engine.steps < by_steps.steps or limits and engine.steps == by_steps.steps


def test_options_behind_a_prompt_go_where_it_goes(toy):
    """One prompt and its options: a single step, whatever the options branch into, without a look
    for who else begins as they do."""
    text = CHOOSE[: CHOOSE.index('    " and')] + "    return first\n"
    executable = toy.compile(text, together=True)
    with patch.object(SameStep, "leaders", autospec=True, side_effect=SameStep.leaders) as looked:
        executable.run_rows(ROWS[3:])
    assert executable.engine.steps == 1
    assert [call.args[1].behind for call in looked.call_args_list] == [None]


def test_few_pages_delay_options_and_change_nothing(toy):
    plenty, _, _ = outcome(toy, ROWS, together=True)
    few, _, engine = outcome(toy, ROWS, together=True, num_pages=14, page_size=4, max_batch=4)
    assert few.values == plenty.values and engine.kv.peak <= 14


def test_what_another_row_has_scored_is_not_computed_again(toy):
    """The second row has the first one's prompt, and an option that goes on as one of its own."""
    rows = [{"text": "one", "options": ["hello A b", "he"]},
            {"text": "one", "options": ["hello A c", "x"]}]  # fmt: skip
    found, ideal, _ = outcome(toy, rows, together=True)
    assert found.stats.hits_predicted == found.stats.hits_measured == ideal.measured


@pytest.mark.parametrize("together", [False, True])
def test_an_option_that_a_context_has_no_room_for_is_told(toy, together):
    """Whether it is asked for by itself or with all others, which are given up."""
    executable = toy.compile(CHOOSE, together=together, context_length=48)
    with pytest.raises(ContextTooLong):
        executable.run(text="one", options=["abc d", "hello A " + "b c " * 30, "abc e"])
    toy.assert_clean(executable)


class Answers:
    """An engine that answers a request a step, in order; those in `broken` with that error."""

    trace, may_begin = None, False

    def __init__(self, broken):
        self.asked, self.steps, self.broken = [], 0, broken

    def __bool__(self):
        return bool(self.asked)

    def submit(self, request):
        self.asked.append(request)

    def step(self):
        self.steps += 1
        request = self.asked.pop(0)
        request.error = self.broken.get(self.steps - 1)
        return [request]


@pytest.mark.parametrize("broken", [[], [0], [2], [0, 1], [0, 1, 2]])
def test_the_first_error_of_several_requests_is_raised_once_all_have_ended(broken):
    """No answer that comes later hides it; `done` hears of good answers only."""
    errors = {number: RunError(message=f"number {number}") for number in broken}
    engine, heard, ended = Answers(errors), [], []
    requests = [Request(Sequence(4, 4), str(number)) for number in range(3)]

    def work():
        yield Together(requests, lambda request: heard.append(int(request.name)))
        return "fine"

    loop = TaskLoop(engine, ToolPool({}))
    loop.start(work(), lambda *end: ended.append((engine.steps, *end)))
    while loop:
        loop.step()
    assert heard == [number for number in range(3) if number not in broken]
    assert ended == [(3, None, errors[broken[0]]) if broken else (3, "fine", None)]


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(IDS, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_each_option_gets_the_score_of_each_of_its_tokens(options, begins, at_once):
    """A model whose log-probabilities all differ: no token's score is taken for another's."""

    class Tokens:
        def __init__(self, ids):
            self.ids = list(ids)

        @property
        def length(self):
            return len(self.ids)

        def append(self, ids):
            self.ids += ids

    asked, freed = [], []

    def answer(request):
        prefixes = range(request.score_from + 1, request.sequence.length + 1)
        assert len(prefixes) == len(request.asked)
        for size, words in zip(prefixes, request.asked, strict=True):
            before = tuple(request.sequence.ids[:size])
            asked.append(before)
            request.scores.append({word: hash((before, word)) for word in words})

    def drive(coroutine):
        wish = None
        while True:
            try:
                wish = coroutine.send(None)
            except StopIteration as stop:
                return stop.value
            if isinstance(wish, Branches):
                for inner in wish.coroutines:
                    drive(inner)
                continue
            several = isinstance(wish, Together)
            for request in wish.requests if several else [wish]:
                answer(request)
                if several:
                    wish.done(request)

    def call(sequence, what):
        yield what

    forked = []

    def fork(sequence):
        forked.append(Tokens(sequence.ids))
        return forked[-1]

    begun = beginning(options) if begins else []
    scorer = Scorer(options, fork, freed.append, call, "x", 0, at_once=at_once)
    found = drive(scorer.run(Tokens([9, 9]), begun))
    assert found == [
        [hash(((9, 9, *ids[:at]), id)) for at, id in enumerate(ids)] for ids in options
    ]
    assert len(asked) == len(set(asked)), "no position is computed twice"
    assert sorted(map(id, freed)) == sorted(map(id, forked))
