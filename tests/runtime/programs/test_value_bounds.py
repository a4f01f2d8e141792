"""Values have bounds: what would fill the memory, or cannot be written, is an error there."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest
from weft.ir.evaluate import ValueFailed
from weft.runtime.programs.arguments import BadArguments, Written
from weft.runtime.programs.tools import ToolFailed

DIGITS = "a whole number of more than 4300 digits"
ELEMENTS = "elements is more than 10000000"


@pytest.mark.parametrize(
    ("first", "grown", "problem"),
    [
        ("n", "x * x", DIGITS),
        ("-n", "0 - x * x", DIGITS),
        ("n", "sum([x, x]) * x", DIGITS),
        ("str(n)", '"{x}, {x}"', ELEMENTS),
        ("[str(n)]", "x + x", ELEMENTS),
        ("str(n)", '"".join([x, x, x])', ELEMENTS),
        ("str(n)", "str([x, x])", ELEMENTS),
    ],
)
def test_what_grows_without_end_is_stopped(toy, first, grown, problem):
    text = (
        f"program p(n: int) -> int:\n    let x = {first}\n"
        f"    while true up to 200:\n        x = {grown}\n    return len(str(x))\n"
    )
    executable = toy.compile(text)
    with pytest.raises(ValueFailed, match=f"<text>:4:.* row 0: .*{problem}"):
        executable.run(n=12345)
    toy.assert_clean(executable)
    with pytest.raises(ValueFailed, match=problem):
        toy.oracle(text)(n=12345)


def test_a_list_of_long_texts_is_measured_before_it_is_written(toy):
    text = (
        'program p(n: int) -> int:\n    let xs: list[str] = []\n    let long = "a" * n\n'
        '    for i in range(20):\n        xs += [long]\n    return len("{xs}")\n'
    )
    executable = toy.compile(text)
    assert executable.run(n=1).value == len(str(["a"] * 20))
    with pytest.raises(ValueFailed, match=f"a value of 20000000 {ELEMENTS}"):
        executable.run(n=1_000_000)


def test_the_largest_number_is_written(toy):
    executable = toy.compile("program p(n: int) -> str:\n    return str(n)\n")
    largest = 2**14_284 - 1
    assert executable.run(n=largest).value == str(largest)
    with pytest.raises(BadArguments, match="'n': it has more than 4300 digits"):
        executable.run(n=largest + 1)
    with pytest.raises(BadArguments, match="'n': a whole number of more than 4300 digits"):
        executable.run(n=Written("9" * 5000))


def test_numbers_of_thousands_of_digits_for_other_types(toy):
    executable = toy.compile('program p(s: str = "", f: float = 0.0):\n    "{s}{f}"\n')
    with pytest.raises(BadArguments, match="'f': it is larger than any float"):
        executable.run(f=10**400)
    with pytest.raises(BadArguments, match="'s': it is int, not str"):
        executable.run(s=10**5000)


ECHO = "program echo(self: str, n: int = 1) -> str:\n    return self * n\n"


def test_arguments_go_by_name(toy):
    executable = toy.compile(ECHO)
    assert executable.run(self="a", n=2).value == "aa"
    with pytest.raises(BadArguments, match="go by name") as found:
        executable.run("a")
    assert found.value.hint_text == "write run(self=...)"
    with pytest.raises(BadArguments, match="go by name") as found:
        executable.run({"self": "a"})
    assert found.value.hint_text == "a row is given as run(**row)"
    with pytest.raises(BadArguments, match="go by name"):
        next(executable.stream("a"))
    with pytest.raises(BadArguments, match="go by name"):
        asyncio.run(executable.arun("a"))
    assert asyncio.run(executable.arun(self="b")).value == "b"


def test_a_written_record_names_each_key_once(toy):
    text = "record R:\n    a: int\n\nprogram p(r: R) -> int:\n    return r.a\n"
    executable = toy.compile(text)
    assert executable.run(r=Written('{"a": 1}')).value == 1
    with pytest.raises(BadArguments, match="'r': the key 'a' stands twice"):
        executable.run(r=Written('{"a": 1, "a": 2}'))


@dataclass
class Mute(Exception):
    """An exception whose text cannot be had, as those of some libraries."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_cannot_say_what_it_is(toy):
    def look(text: str) -> str:
        raise Mute

    declared = "tool look(text: str) -> str\n\n"
    caught = (
        "program p(t: str) -> str:\n    match look(t):\n        case error e:\n"
        '            return "{e.kind}: {e}"\n        case value v:\n            return v\n'
    )
    executable = toy.compile(declared + caught, tools={"look": look})
    assert executable.run(t="x").value == "Mute: its text cannot be had: RuntimeError"
    used = declared + "program p(t: str) -> str:\n    return look(t)\n"
    executable = toy.compile(used, tools={"look": look})
    with pytest.raises(ToolFailed, match="tool look raised Mute: its text cannot be had"):
        executable.run(t="x")
    toy.assert_clean(executable)


@dataclass
class Review:
    score: object


class Broken(dict):
    """A value whose class fails where it is looked at."""

    def __getitem__(self, name):
        raise RuntimeError("not there")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Review, "returned a wrong value: <class .*Review'> is type, not Review"),
        (Review(threading.Lock()), "returned a wrong value: field 'score': <.*lock.* not int"),
        (Broken(score=1), "raised RuntimeError: not there"),
    ],
)
def test_a_value_of_a_tool_that_is_no_record_fails_its_row_alone(toy, given, says):
    text = (
        "record Review:\n    score: int\n\ntool look(text: str) -> Review\n\n"
        "program p(t: str) -> int:\n    let found = look(t)\n    return found.score\n"
    )
    executable = toy.compile(text, {"look": lambda t: Review(3) if t == "fine" else given})
    with pytest.raises(ToolFailed, match=says):
        executable.run(t="other")
    found = executable.run_rows([{"t": "other"}, {"t": "fine"}], keep_going=True)
    assert found.values == [None, 3]
    toy.assert_clean(executable)


def test_a_class_is_no_record_as_an_argument(toy):
    text = "record Review:\n    score: int\n\nprogram p(r: Review) -> int:\n    return r.score\n"
    with pytest.raises(BadArguments, match="'r': <class .*Review'> is type, not Review"):
        toy.compile(text).run(r=Review)
