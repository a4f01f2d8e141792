"""Dataflow inside a program: independent work side by side, effects in order, the same values."""

from __future__ import annotations

import pytest
from weft.ir.diagnostics import WeftError
from weft.runtime.memory.sequence import Sequence
from weft.runtime.programs.events import ValueBound
from weft.runtime.programs.future_values import Later, Part, any_of, is_missing, present
from weft.runtime.schedule.policy import Policy
from weft.runtime.schedule.request import Request, Sampling

HELPER = """
program helper(text: str) -> str:
    "({text}"
    gen word(max_tokens=20, temperature=1.5)
    return word

"""

CALLS = (
    HELPER
    + """
program main(arg: str) -> list[str]:
    let one = call helper("{arg} one")
    let two = call helper("{arg} two")
    let three = call helper("{arg} three")
    return [one, two, three]
"""
)

LOOP = (
    HELPER
    + """
program main(arg: str) -> str:
    for side in ["p", "q", "r", "s"]:
        "{side}: {call helper(side)} "
    gen last(max_tokens=3)
    return last
"""
)

FEW_AHEAD = """
program helper(text: str) -> str:
    "({text}"
    gen word(max_tokens=20, temperature=1.5)
    return word

program short(text: str) -> str:
    "({text}"
    gen word(max_tokens=2, temperature=1.5)
    return word

program main(arg: str) -> list[str]:
    let words = [call helper("{arg} one")]
    for side in ["p", "q", "r", "s", "t"]:
        words += [call short(side)]
    return words
"""

FORK_AND_TRUNK = """
program main(arg: str) -> list[str]:
    "About {arg}: "
    fork side in ["left", "right"] as views:
        "the {side} "
        gen view(max_tokens=20, temperature=1.5)
        yield view
    "in short "
    gen short(max_tokens=20, temperature=1.5)
    "{views}"
    gen last(max_tokens=3)
    return views + [short, last]
"""


def steps_of(toy, text, **limits):
    executable = toy.compile(text, max_batch=16, max_tokens=128, **limits)
    rows = executable.run_rows([{"arg": "x"}])
    assert rows.values == [toy.oracle(text)(0, arg="x").value]
    toy.assert_clean(executable)
    return rows.stats


@pytest.mark.parametrize("text", [CALLS, LOOP, FORK_AND_TRUNK])
def test_independent_gens_take_the_steps_of_one(toy, text):
    stats = steps_of(toy, text)
    assert stats.steps <= 20 + 12 and stats.generated_tokens > 40


def test_with_little_memory_parts_go_one_after_another_and_values_stay(toy):
    wide = steps_of(toy, CALLS, page_size=4)
    narrow = steps_of(toy, CALLS, page_size=4, num_pages=24)
    assert narrow.steps > wide.steps and narrow.preemptions == 0
    assert narrow.peak_kv_pages < wide.peak_kv_pages


EFFECTS = """
tool note(text: str) -> str

program helper(text: str) -> str:
    "({text}"
    gen word(max_tokens=9)
    let noted = note("inside {text}")
    return noted

program main(arg: str) -> list[str]:
    let a = note("first")
    let b = call helper("one")
    let c = note("second")
    let d = call helper("two")
    "go"
    gen e(max_tokens=9)
    let f = note("third")
    return [a, b, c, d, f]
"""


REPLAYED = """
tool told(question: str, round: int) -> str

program main(arg: str) -> list[str]:
    "About {arg}: "
    let thoughts: list[str] = []
    for round in range(4):
        fork 1 as said:
            "Thought {round}:"
            gen thought(max_tokens=20, temperature=1.5)
            yield thought
        "{told(arg, round)}"
        thoughts += said
    return thoughts
"""


@pytest.mark.parametrize(("kind", "most"), [("pure tool", 20 + 12), ("tool", 4 * 20 + 12)])
def test_what_a_pure_tool_tells_is_read_beside_thoughts_that_nothing_needs(toy, kind, most):
    text = REPLAYED.replace("tool", kind, 1)
    tools = {"told": lambda question, round: f"the {question} of round {round}."}
    executable = toy.compile(text, tools=tools, max_batch=16, max_tokens=128)
    rows = executable.run_rows([{"arg": "x"}])
    assert rows.values == [toy.oracle(text, tools=tools)(0, arg="x").value]
    assert rows.stats.generated_tokens > 40
    assert (rows.stats.steps <= 20 + 12) == (kind == "pure tool") and rows.stats.steps <= most
    toy.assert_clean(executable)


def test_tools_are_called_in_the_order_of_the_program(toy):
    called: list[str] = []

    def note(text):
        called.append(text)
        return text.upper()

    executable = toy.compile(EFFECTS, tools={"note": note})
    value = executable.run(arg="x").value
    assert called == ["first", "inside one", "second", "inside two", "third"]
    called.clear()
    assert toy.oracle(EFFECTS, tools={"note": note})(0, arg="x").value == value
    toy.assert_clean(executable)


def test_no_effect_comes_before_a_failure_that_stands_above_it(toy):
    text = (
        HELPER
        + """
tool send(text: str) -> str

program main(arg: str) -> str:
    "{arg}"
    gen number(max_tokens=1): int(1000..2000)
    let sent = send("never")
    return sent
"""
    )
    called: list[str] = []
    executable = toy.compile(text, tools={"send": lambda text: called.append(text) or text})
    with pytest.raises(WeftError):
        executable.run(arg="x")
    assert called == []
    toy.assert_clean(executable)


def test_a_failure_of_work_whose_value_nobody_needs_is_told(toy):
    text = """
program bad(x: str) -> str:
    "{x}"
    gen number(max_tokens=1): int(1000..2000)
    return "{number}"

program main(arg: str) -> str:
    let unused = call bad(arg)
    "hello"
    gen word(max_tokens=2)
    return "{word}{len(unused)}"
"""
    executable = toy.compile(text)
    with pytest.raises(WeftError):
        executable.run(arg="x")
    toy.assert_clean(executable)


def test_of_equal_names_the_last_in_the_text_is_told(toy):
    text = (
        HELPER
        + """
program main(arg: str) -> list[str]:
    let found: list[str] = []
    for width in [20, 1, 9]:
        fork side in ["a", "b"] as views:
            "{arg}{side}{width}"
            gen view(max_tokens=20, temperature=1.5)
            yield view
        found += views
    return found
"""
    )
    executable = toy.compile(text, max_batch=16)
    result = executable.run(arg="x")
    expected = toy.oracle(text)(0, arg="x")
    assert result.value == expected.value and result.values == expected.values
    toy.assert_clean(executable)


def test_the_longest_path_goes_first_and_age_catches_up():
    def request(row, spawned, critical, arrived=0):
        sequence = Sequence(8, 4, (row, spawned))
        return Request(sequence, sampling=Sampling(1), critical=critical, arrived=arrived)

    key = Policy().key
    assert key(request(1, 9, 40)) < key(request(1, 2, 7)) < key(request(1, 3, 7))
    assert key(request(2, 0, 900)) < key(request(1, 5, 3))
    assert key(request(9, 5, 3, arrived=1)) < key(request(1, 0, 900, arrived=3600))
    # Equally long ways: by turns. With scarce pages the oldest row first, however short its way.
    assert key(request(9, 0, 7, arrived=1)) < key(request(1, 0, 7, arrived=2))
    assert key(request(1, 5, 3, arrived=9), pressed=True) < key(request(2, 0, 900), pressed=True)


def test_what_yields_tokens_goes_before_what_only_fills_but_not_for_ever():
    fill = Request(Sequence(8, 4, (1, 0)), critical=900, arrived=0)
    gen = Request(Sequence(8, 4, (2, 0)), sampling=Sampling(1), critical=3, arrived=0)
    key = Policy().key
    assert key(gen) < key(fill)
    gen.arrived = 16
    assert key(fill) < key(gen)


def test_parts_of_a_later_are_missing_until_it_is_settled():
    later = Later()
    outer = Later()
    woken: list[int] = []
    later.waiting.append(lambda: woken.append(1))
    part = Part(later, 1)
    assert is_missing(part) and present(part) is part
    later.settle((1, outer))
    assert woken == [1] and is_missing(part) and present(part) is outer
    outer.settle("x")
    assert present(part) == "x" and not is_missing(part)


def test_what_has_to_wait_for_room_goes_on_when_any_part_has_ended(toy, monkeypatch):
    """Two parts may go side by side; the short ones pass by beside the long one."""
    together = steps_of(toy, FEW_AHEAD).steps
    monkeypatch.setattr("weft.runtime.schedule.forecast.AHEAD", (2,))
    assert together <= steps_of(toy, FEW_AHEAD).steps <= together + 1


def test_any_of_is_there_with_the_first_of_them():
    one, two = Later(), Later()
    either = any_of([one, two])
    assert not either.ready
    two.settle()
    assert either.ready
    one.settle()
    assert any_of([one, Later()]).ready


def test_a_join_does_not_wait_for_what_nothing_needs(toy):
    text = """
program p(arg: str) -> str:
    "About {arg}: "
    fork 3 as words:
        gen word(max_tokens=3, temperature=1.0)
        "More: "
        gen more(max_tokens=60, temperature=1.0)
        yield word
    "{words} "
    gen last(max_tokens=3)
    return last
"""
    events = toy.compile(text, max_batch=16).stream(arg="x")
    told = [event.name for event in events if isinstance(event, ValueBound)]
    assert told.count("more") == 3 and told.index("words") < told.index("more")
    assert told.index("last") < len(told) - 1 and told[-1] == "more"  # the longest ends last


LONG = """
program main(arg: str, items: list[str]) -> str:
    "{arg}"
    gen word(max_tokens=2)
    for item in items:
        "- {item} "
    gen last(max_tokens=2)
    return last
"""


def test_texts_behind_a_missing_value_are_gathered_however_many_they_are(toy):
    """Each comes of the one before as soon as that is there: no recursion as deep as all of them.

    The stream is what it is where each text is asked for by itself.
    """
    items = ["a", "b", "the"] * 200
    result = toy.compile(LONG, context_length=8192, num_pages=4000).run(arg="hello", items=items)
    word = result.values["word"]
    text = "".join(f"- {item} " for item in items)
    assert result.text == f"hello{word}{text}{result.value}"
