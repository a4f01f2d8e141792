"""A text that its budget cuts short is no value, also where the start of it reads as one."""

from __future__ import annotations

import json

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.open import open_program
from weft.ir.values import UnreadableValue
from weft.runtime.constraints.matcher import BadConstraint
from weft.runtime.constraints.whole import fits
from weft.runtime.programs.model_calls import ProgramFailed

FILES = {
    "nested.lark": 'start: "(" /[ab]{2}/ ";" ")"\n',
    "number.json": json.dumps({"type": "integer", "minimum": 100000, "maximum": 999999}),
    "even.json": json.dumps({"type": "integer", "multipleOf": 2, "minimum": 1000, "maximum": 9999}),
}
KINDS = {name: "grammar" if name.endswith("lark") else "schema" for name in FILES}


def lowered(tmp_path, name, options):
    for file, content in FILES.items():
        (tmp_path / file).write_text(content)
    program = tmp_path / "p.weft"
    program.write_text(
        f'program p(n: int) -> str:\n    "{{n}}:"\n    gen a({options}): {KINDS[name]} "{name}"\n'
        '    return "{a}"\n'
    )
    return lower(open_program(program).file)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("stop", ["", ', stop="z"'])
def test_what_is_cut_short_fails_and_what_is_whole_does_not(toy, tmp_path, name, stop):
    module = lowered(tmp_path, name, f"max_tokens=2{stop}")
    executable, oracle = toy.compile(module), toy.oracle(module)
    what = f"text of its {KINDS[name]}: it ends before it is whole"
    with pytest.raises(ProgramFailed, match=rf"p.weft:3:5: .*gen 'a': .* is no {what}") as found:
        executable.run(n=1)
    assert "only when max_tokens or a stop cuts it short" in found.value.render()
    with pytest.raises(UnreadableValue, match=what):
        oracle(n=1)
    toy.assert_clean(executable)
    module = lowered(tmp_path, name, f"max_tokens=9{stop}")
    whole = toy.compile(module).run(n=1).value
    kind = "lark" if KINDS[name] == "grammar" else "json"
    assert fits(kind, FILES[name], whole) and not fits(kind, FILES[name], whole[:2])
    assert toy.oracle(module)(n=1).value == whole


def test_a_text_that_may_end_where_its_budget_does_is_whole(toy, tmp_path):
    (tmp_path / "many.lark").write_text("start: /[ab]+/\n")
    program = tmp_path / "p.weft"
    program.write_text(
        'program p() -> str:\n    "x"\n    gen a(max_tokens=3): grammar "many.lark"\n    return a\n'
    )
    module = lower(open_program(program).file)
    found = toy.compile(module).run().value
    assert found and set(found) <= set("ab")
    assert toy.oracle(module)().value == found


@pytest.mark.parametrize("ahead", [False, True])
def test_a_text_that_becomes_too_much_fails_alone(toy, tmp_path, ahead):
    """llguidance bounds its own work, and gives up in the midst of a text."""
    bounds = {"multipleOf": 111111, "minimum": 111111, "maximum": 333333}
    (tmp_path / "hard.json").write_text(json.dumps({"type": "integer", **bounds}))
    program = tmp_path / "p.weft"
    program.write_text(
        'program p(n: int) -> str:\n    "{n}: "\n    if n == 1:\n        fork 2 as xs:\n'
        '            gen a(max_tokens=12): schema "hard.json"\n            yield "{a}"\n'
        "        return xs[1]\n    gen b(max_tokens=6)\n    return b\n"
    )
    module = lower(open_program(program).file)
    executable, oracle = toy.compile(module, ahead=ahead), toy.oracle(module)
    rows = [{"n": n} for n in range(4)]
    outcome = executable.run_rows(rows, keep_going=True)
    assert outcome.values == [None if n == 1 else oracle(n, n=n).value for n in range(4)]
    (error,) = outcome.errors.values()
    assert "p.weft:5:13: run error: the schema cannot be followed: row 1, gen 'a': lexer" in error
    toy.assert_clean(executable)
    with pytest.raises(BadConstraint, match="too many expressions"):
        executable.run(n=1)
    with pytest.raises(BadConstraint, match="too many expressions"):
        oracle(1, n=1)


def test_a_pattern_that_looks_around_is_refused_in_words_of_the_program(toy):
    with pytest.raises(BadConstraint) as found:
        toy.compile('program p() -> str:\n    gen a: regex "\\bab\\b"\n    return a\n')
    problem, *_, hint = found.value.render().splitlines()
    assert problem.startswith("<text>:2:5: run error: the pattern cannot be followed: ")
    assert "start:" not in found.value.render() and hint.startswith("hint: ") and "\\b" in hint


@pytest.mark.parametrize(
    ("pattern", "says", "mend"),
    [("(a)\\1", "error: backreferences are not supported", "refers to a group"),
     ("(?P<x>a)(?P=x)", "error: unrecognized flag", "(?P=...)")],
)  # fmt: skip
def test_why_a_pattern_cannot_be_followed_is_said(toy, pattern, says, mend):
    with pytest.raises(BadConstraint, match=says) as found:
        toy.compile(f'program p() -> str:\n    gen a: regex "{pattern}"\n    return a\n')
    assert "start:" not in found.value.render() and mend in found.value.render().splitlines()[-1]
