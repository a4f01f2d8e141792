"""Traces in the Chrome format: they keep its rules, tell what happened, and each fault is found."""

import copy
import json

import pytest
from weft.runtime.tracing.perfetto import DEVICE, HOST, PROGRAM, chrome_trace
from weft.runtime.tracing.trace import Trace
from weft.tests.runtime.tracing.chrome_trace_rules import problems

TEXT = """
tool shout(text: str) -> str

program judge(essay: str, sides: list[str] = ["hello", "the end"]) -> str:
    system "You judge."
    user "Essay: {essay} {shout(essay)}"
    fork side in sides as reviews:
        user "Judge only its {side}."
        assistant gen review(max_tokens=6)
        yield review
    user "Reviews: {reviews}"
    assistant select grade from ["A", "B", "ab"]
    return grade
"""
ROWS = [{"essay": text} for text in ("a b", "hello", "the ing", "Grade A B")]


def traced(toy, ahead=False, **limits):
    trace = Trace()
    executable = toy.compile(TEXT, {"shout": str.upper}, trace=trace, ahead=ahead, **limits)
    return trace, executable.run_rows(ROWS)


@pytest.fixture(scope="module", params=[False, True], ids=["waits", "ahead"])
def run(request, toy):
    trace, rows = traced(toy, request.param)
    return trace, rows, json.loads(chrome_trace(trace))


def of(document, phase, process=None):
    events = (event for event in document["traceEvents"] if event["ph"] == phase)
    return [event for event in events if process is None or event["pid"] == process]


def test_a_trace_keeps_the_rules_of_its_format(run):
    assert problems(run[2]) == []


def test_a_trace_tells_what_happened(run):
    trace, rows, document = run
    assert len(of(document, "X", DEVICE)) == len(trace.steps) > 10
    names = [event["name"] for event in of(document, "X", PROGRAM)]
    assert names.count("gen 'review'") == 2 * len(ROWS)
    assert names.count("tool shout") == len(ROWS)
    assert {f"row {row}" for row in range(len(ROWS))} <= set(names)
    counted = [event["args"] for event in of(document, "C", HOST) if event["name"] == "prefix hits"]
    assert counted[-1]["measured"] == rows.stats.hits_measured == trace.hits_measured > 0
    live = [
        event["args"]["live"] for event in of(document, "C", HOST) if event["name"] == "KV pages"
    ]
    assert 0 < max(live) <= rows.stats.peak_kv_pages
    generated = sum(wait.new_tokens for wait in trace.waits if wait.kind == "gen")
    assert generated == rows.stats.generated_tokens


def test_each_instance_has_one_flow_from_its_statements_to_the_steps_for_it(run):
    trace, _, document = run
    flows = {event["id"] for event in of(document, "s")}
    assert flows == {one.instance + 1 for one in trace.instances} and len(flows) == len(ROWS)
    for flow in flows:
        stops = [e for phase in "stf" for e in of(document, phase) if e["id"] == flow]
        assert {stop["pid"] for stop in stops} == {PROGRAM, DEVICE}
    statements = {event["args"]["statement"] for event in of(document, "X", PROGRAM)
                  if event["name"] == "gen 'review'"}  # fmt: skip
    assert [place.split(":")[-2] for place in statements] == ["9"]


def test_every_fault_in_a_trace_is_found(toy):
    document = json.loads(chrome_trace(traced(toy)[0]))

    def planted(change):
        spoiled = copy.deepcopy(document)
        change(spoiled["traceEvents"])
        return problems(spoiled)

    def first(events, phase, name=""):
        return next(e for e in events if e["ph"] == phase and e["name"].startswith(name))

    def lengthened(event):
        event["dur"] += 1e9

    faults = {
        "nesting": lambda events: lengthened(first(events, "X", "draw")),
        "shape": lambda events: first(events, "M").update(ph="Z"),
        "flow": lambda events: first(events, "s").update(ts=1e12),
        "counter": lambda events: first(events, "C").update(ts=1e12),
    }
    assert problems(document) == []
    for kind, change in faults.items():
        assert any(problem.startswith(kind) for problem in planted(change)), kind
    lost = copy.deepcopy(document)
    lost["traceEvents"].remove(first(lost["traceEvents"], "f"))
    assert any("flow" in problem for problem in problems(lost))


def test_nothing_is_recorded_of_a_run_that_was_given_up(toy):
    trace = Trace()
    executable = toy.compile(TEXT, {"shout": str.upper}, trace=trace)
    events = executable.stream(essay="a b")
    next(event for event in events if event)
    events.close()
    document = json.loads(chrome_trace(trace))
    assert problems(document) == []
    toy.assert_clean(executable)


def test_a_trace_shows_itself(run):
    trace = run[0]
    html = trace._repr_html_()
    assert html.count("<svg") == 2 and "gen &#x27;review&#x27;" in html
    assert "who worked when" in html and "KV memory" in html


def test_a_long_run_times_its_first_launches_only(monkeypatch):
    monkeypatch.setattr("weft.runtime.tracing.trace.MOST_LAUNCHES", 3)
    trace, ran = Trace(), []
    for number in range(4):
        trace.launch([("k", "graph.add")] * 2, [(ran.append, (number,))] * 2)
    assert len(trace._launches) == 2 and ran == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_empty_trace_is_one():
    assert problems(json.loads(chrome_trace(Trace()))) == []
    Trace()._repr_html_()
