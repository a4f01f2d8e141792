"""Prefix hits of batches, forks and tries: predicted, measured and ideal are one number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.compiler import Compilation
from weft.options import Options
from weft.runtime.memory.kv_cache import PagedKV
from weft.runtime.programs.select import beginning
from weft.runtime.schedule.row_costs import PromptLog, ideal_hits
from weft.runtime.tracing.trace import CallRecord, Trace

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = [path.stem for path in sorted((EXAMPLES / "data").glob("*.jsonl"))]
QUICK = {"few_shot", "surprise", "pairwise"}
KNOWN = {"few_shot", "surprise", "pairwise", "extract"}
"""Examples whose calls read nothing that a model has said: the static count is exact."""

JUDGE = """program judge(essay: str, sides: list[str]) -> str:
    system "You judge."
    user "{essay}"
    fork side in sides as reviews:
        user "Judge only its {side}."
        assistant gen review(max_tokens=4)
        yield review
    user "Done."
    assistant select grade from ["hello A", "hello B", "he"]
    return grade
"""

OPINION = """program opinion(text: str) -> str:
    "{text} "
    select best(by="unconditional") from ["hello A", "hello B", "the end"]
    return best
"""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NAMES],
)
def test_an_example_hits_as_often_as_can_be(name):
    options = Options(kv_memory=32 << 20, threads=1, trace=True)
    executable = Compilation(EXAMPLES / f"{name}.weft", "tiny-dense", options=options).executable()
    lines = (EXAMPLES / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:4]]
    stats = executable.run_rows(rows).stats
    ideal = ideal_hits(executable.engine.trace.calls)
    assert stats.hits_predicted == stats.hits_measured == ideal.measured
    assert stats.sent_tokens == ideal.sent
    static = executable.prefix_tree(rows).counts
    if name in KNOWN:
        assert static.generated == static.maybe == 0
        assert (static.hits, static.sent) == (stats.hits_measured, stats.sent_tokens)
    else:
        assert static.hits <= stats.hits_measured and static.sent <= stats.sent_tokens


def run(toy, text, rows, **limits):
    trace = Trace()
    executable = toy.compile(text, trace=trace, num_pages=2000, **limits)
    stats = executable.run_rows(rows).stats
    ideal = ideal_hits(trace.calls)
    assert stats.hits_predicted == stats.hits_measured == ideal.measured
    return executable, stats, trace


def test_a_hit_that_is_measured_is_a_token_that_no_step_computes(toy):
    """Steps count their tokens themselves; what the cache has forgotten is predicted alone."""
    text = 'program p(t: str) -> str:\n    "{t}"\n    gen word(max_tokens=4)\n    return word\n'
    executable, found = toy.compile(text, num_pages=20), []
    for letters in ("ccccc", "ccccd", "ddddd", "ccccc"):
        before, stats = executable.engine.computed_tokens, executable.run(t=9 * letters).stats
        computed = executable.engine.computed_tokens - before
        assert computed == stats.sent_tokens - stats.hits_measured + stats.generated_tokens - 1
        found.append((stats.hits_predicted, stats.hits_measured))
    assert found[:3] == [(0, 0), (5, 5), (1, 1)], "the begin token, and what texts share"
    assert found[3][0] == 45 > found[3][1]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_branches_that_begin_alike_compute_it_once(toy, batch):
    rows = [{"essay": "a b c", "sides": ["hello", "the end"]}]
    executable, stats, trace = run(toy, JUDGE, rows, max_batch=batch)
    calls = [call for call in trace.calls if call.kind == "call"]
    one, two = (call.tokens[: call.prompt] for call in calls[:2])
    shared = int((one[: len(two)] != two[: len(one)]).argmax())
    assert toy.tokenizer.decode(one[:shared].tolist()).endswith("Judge only its")
    assert stats.hits_measured >= shared
    assert all(call.kind != "fill" for call in trace.calls)


def test_rows_that_start_together_wait_for_what_they_share(toy):
    rows = [{"essay": text, "sides": ["x"]} for text in ("a", "hello", "the", "a b")]
    executable, stats, trace = run(toy, JUDGE, rows)
    computed = sum(
        len(call.tokens[: call.prompt]) for call in trace.calls if call.kind == "call"
    ) - stats.hits_measured  # fmt: skip
    assert computed < len(rows) * len(trace.calls[0].tokens)
    assert executable.prefix_tree(rows).counts.hits <= stats.hits_measured


def test_the_unconditional_score_of_options_is_computed_for_one_row_only(toy):
    """It reads no prompt: all rows of a batch have the same."""
    rows = [{"text": text} for text in ("a", "hello", "the end", "a b", "Grade")]
    extra = []
    for some in (rows[:1], rows):
        computed = [
            run(toy, text, some)[0].engine.computed_tokens
            for text in (OPINION, OPINION.replace('(by="unconditional")', ""))
        ]
        extra.append(computed[0] - computed[1])
    assert extra[0] == extra[1] > 0


def test_options_known_only_at_run_time_are_a_trie_too(toy):
    text = OPINION.replace("(text: str)", "(text: str, options: list[str])").replace(
        '(by="unconditional") from ["hello A", "hello B", "the end"]', " from options"
    )
    options = ["abc d", "abc e", "abc"]
    _, stats, trace = run(toy, text, [{"text": "x", "options": options}])
    encoded = [toy.tokenizer.encode(" " + option) for option in options]
    nodes = {tuple(ids[: end + 1]) for ids in encoded for end in range(len(ids) - 1)}
    begun = len(beginning(encoded))
    assert begun and len(trace.calls) == 2, "what all options begin with is sent with the prompt"
    prompt = trace.calls[0].prompt - begun
    computed = stats.sent_tokens - stats.hits_measured
    assert computed == prompt + len(nodes)


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TOKENS, st.integers(0, 6), st.booleans()), min_size=1, max_size=10))
def test_the_ideal_is_what_is_sent_less_the_edges_of_the_tree(entries):
    """The sorted list, the radix tree of `PromptLog` and plain sets of prefixes agree."""
    known: set[tuple[int, ...]] = set()
    calls, log, edges, logged, sent = [], PromptLog(), 0, 0, 0
    for ids, first, says in entries:
        tokens, first = np.array(ids, np.int32), min(first, len(ids) - 1)
        ends = {tuple(ids[: end + 1]) for end in range(len(ids))}
        again = {tuple(ids[: end + 1]) for end in range(first, len(ids))}
        kind = "call" if says else "known"
        calls.append(CallRecord(kind, tokens, len(ids) if says else 0, first))
        shared = log.add(tokens)
        if says:
            edges += len((ends - known) | again)
            logged += min(shared, first)
            sent += len(ids)
        known |= ends
    ideal = ideal_hits(calls)
    assert ideal.measured == logged == sent - edges


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 9), TOKENS), max_size=24))
def test_a_log_goes_on_where_it_found_a_sequence(turns):
    """Sequences that grow, are cut back, and forked: as if each were looked for from the root."""
    kv = PagedKV(64, 4, 400, lambda source, target: None)
    marked, plain, streams = PromptLog(), PromptLog(), [kv.create((n,)) for n in range(4)]
    for number, cut, ids in turns:
        sequence = streams[number]
        if cut < 0:
            kv.truncate(sequence, sequence.length // -cut)
        if cut == 9:
            sequence = streams[number] = kv.fork(streams[0], streams[0].length // 2, (0,))
        sequence.append(ids)
        tokens = sequence.tokens[: sequence.length]
        assert marked.add(tokens, sequence) == plain.add(tokens)


def test_texts_of_arguments_inside_branches_are_forecast_too(toy):
    text = """program look(arg: str) -> str:
    fork 3 as parts:
        system "x{arg}"
        yield score("hello")
    join best(by=parts)
    return "done"
"""
    assert run(toy, text, [{"arg": "hello"}, {"arg": "a b"}])[1].rows == 2


def test_a_fill_counts_as_far_as_a_later_call_sends_its_tokens():
    def entry(kind, ids, first):
        prompt = len(ids) if kind == "call" else 0
        return CallRecord(kind, np.array(ids, np.int32), prompt, first)

    call, short = entry("call", [1, 2, 3], 2), entry("call", [1], 0)
    assert ideal_hits([call]).measured == 0
    assert ideal_hits([entry("fill", [1, 2], 2), call]).measured == 0  # -2 and +2
    assert ideal_hits([entry("fill", [1, 2, 9, 9], 4), call]).measured == 0  # measured: -4 and +2
    assert ideal_hits([entry("fill", [1, 2], 2), short, call]).measured == 0  # 1 is computed twice
    assert ideal_hits([short, call]).measured == 1


@pytest.mark.parametrize(
    ("options", "begun"),
    [
        ([[1, 2, 3], [1, 2, 4]], [1, 2]),
        ([[1, 2], [1, 2, 4]], [1, 2]),
        ([[1, 2], [3]], []),
        ([[1, 2]], [1]),
        ([[1], [1]], []),
    ],
)
def test_what_all_options_begin_with(options, begun):
    """Behind it at least one goes on: nothing is scored after an option's last token."""
    assert beginning(options) == begun
