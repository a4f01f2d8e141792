"""Rows as Python written from their plans: which programs have it, what it says, what it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weft.compiler import Compilation
from weft.compiler.stages import stage_text
from weft.ir.diagnostics import WeftError
from weft.runtime.programs.beside_writer import BesideWriter
from weft.runtime.programs.code_writer import Writer
from weft.runtime.programs.events import Finished
from weft.runtime.programs.in_turn import CALLS as NESTED
from weft.runtime.programs.in_turn import InTurn
from weft.tests.each_time import examples
from weft.tests.runtime.programs.test_dataflow import CALLS, FORK_AND_TRUNK, LOOP
from weft.tests.runtime.programs.test_random_programs import programs

EXAMPLES = Path(__file__).parents[3] / "examples"


def program(body: str, returns: str = "str") -> str:
    lines = (f"    {line}\n" for line in body.strip("\n").splitlines())
    return f"program p(arg: str) -> {returns}:\n" + "".join(lines)


FORK = program("""
"About {arg}: "
fork side in [arg, "b"] as views:
    "the {side} "
    gen view(max_tokens=5, temperature=1.5)
    yield len(view)
join best(by=views)
"in short {views} "
select short from ["a", "b", arg]
return short
""")

LOOPS = program(
    """
let found = [arg]
for part in [arg, "x", "y"]:
    "{part}: "
    gen word(max_tokens=4, temperature=1.0)
    let longer = word
    while len(longer) < 9 up to 3:
        "more: "
        gen more(max_tokens=3, temperature=1.0)
        longer += more
    if "a" in longer:
        found += [longer]
        return found
    elif len(found) > 2:
        found += ["{longer}{found}"]
    else:
        found += ["\\n"]
return found
""",
    "list[str]",
)

HELPER = """
program helper(text: str) -> int:
    "({text}"
    gen word(max_tokens=9, temperature=1.5)
    if len(word) > 3:
        return 3
    return len(word)

program part(text: str) -> str:
    "{text}: "
    for side in ["a", "b"]:
        gen word(max_tokens=3, temperature=1.0)
        if len(word) > 3:
            return word
        "{side} "
    return text

"""

CALL = HELPER + program(
    """
"{arg}"
gen first(max_tokens=4)
let one = call helper(first)
" is {one} "
gen last(max_tokens=4)
inline part("{last}{one}")
return one
""",
    "int",
)

NO_MODEL = program("return arg")

IN_TURN = {"fork": FORK, "loops": LOOPS, "call": CALL, "no model": NO_MODEL}

BESIDE = {
    "calls": CALLS,
    "calls in a loop": LOOP,
    "a trunk that goes on": FORK_AND_TRUNK,
    "what a branch does not give": FORK.replace("yield len(view)", "yield len(side)").replace(
        "join best(by=views)", ""
    ),
    "a score": program('"{arg}"\nlet v = score("a")\nreturn "{v}"'),
    "a call whose value is there early": CALL.replace(
        "    return len(word)", '    ")"\n    gen w(max_tokens=2)\n    return len(word)'
    ),
    "a call of other words": CALL.replace("helper(first)", "helper(arg)"),
    "a call in one case": CALL.replace(
        "let one = call helper(first)",
        'let one = 3\n    if first == "a":\n        one = call helper(arg)\n'
        "    let two = call helper(arg)",
    ),
}

TOO_MANY_LOOPS = program(
    "\n".join(f"{'    ' * at}for i{at} in arg.split():" for at in range(17))
    + f"\n{'    ' * 17}gen g(max_tokens=1)\nreturn arg"
)


@pytest.fixture
def walked():
    """Compile a program for the toy model whose operations are gone through."""

    def compile(toy, text, **limits):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("weft.runtime.programs.machine.row_code", lambda *given: {})
            executable = toy.compile(text, **limits)
        assert not executable.machine.code
        return executable

    return compile


@pytest.mark.parametrize("text", IN_TURN.values(), ids=IN_TURN)
def test_a_program_that_asks_in_turn_starts_nothing(toy, text):
    code = toy.compile(text).machine.code
    assert all("row.start" not in each.text for each in code.values())


@pytest.mark.parametrize("text", BESIDE.values(), ids=BESIDE)
def test_what_may_run_beside_others_is_started(toy, text):
    executable = toy.compile(text)
    assert "row.start" in executable.machine.code[executable.name].text


def test_loops_that_python_does_not_nest_are_gone_through(toy):
    executable = toy.compile(TOO_MANY_LOOPS)
    assert executable.name not in executable.machine.code


def test_however_many_programs_wait_for_one_another(toy):
    """Python nests no thousand functions: those that wait for many others are gone through."""
    names = [f"p{number}" for number in range(600)]
    calls = [f"    return call {name}(word)\n" for name in names[1:]]
    each = [
        f'program {name}(arg: str) -> str:\n    "{{arg}}"\n    gen word(max_tokens=1)\n{call}'
        for name, call in zip(names, (*calls, "    return word\n"), strict=True)
    ]
    executable = toy.compile("\n".join(reversed(each)))
    code = executable.machine.code
    assert code.keys() == set(names)
    in_turn = {name for name in names if "row.start" not in code[name].text}
    assert in_turn == set(names[-NESTED:])
    assert executable.run(arg="x").stats.generated_tokens == len(names)
    toy.assert_clean(executable)


@pytest.mark.parametrize("text", BESIDE.values(), ids=BESIDE)
def test_what_is_started_tells_the_same_in_the_same_order(toy, walked, text):
    assert told(toy.compile(text, seed=1), "x") == told(walked(toy, text, seed=1), "x")


@pytest.mark.parametrize("arg", ["x", "hello the", ""])
@pytest.mark.parametrize("text", IN_TURN.values(), ids=IN_TURN)
def test_it_tells_the_same_in_the_same_order(toy, walked, text, arg):
    for seed in range(5):
        assert told(toy.compile(text, seed=seed), arg) == told(walked(toy, text, seed=seed), arg)


@settings(
    max_examples=examples(60), derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture,
                           HealthCheck.too_slow],
)  # fmt: skip
@given(text=programs(), arg=st.sampled_from(["hello", "", "a b"]), seed=st.integers(0, 3))
def test_of_any_program_it_does(toy, walked, text, arg, seed):
    written = toy.compile(text, seed=seed)
    assert told(written, arg) == told(walked(toy, text, seed=seed), arg)
    toy.assert_clean(written)


def told(executable, arg):
    """Return the events of a run, and of the last one its value, stream and counts.

    Of one that fails the error alone: beside others one may be found earlier.
    """
    try:
        *events, last = executable.stream(arg=arg)
    except WeftError as error:
        return [str(error)]
    assert isinstance(last, Finished)
    result = last.result
    # A stream that only gets text which nothing reads is given back earlier beside its branches.
    other = {"seconds": 0.0, "first_token_seconds": 0.0, "peak_kv_pages": 0, "peak_kv_bytes": 0}
    stats = replace(result.stats, **other)
    return [*events, result.value, result.values, result.text, stats, executable.engine.steps]


FAULTS = {
    "what a loop carries": ("_results", lambda self, operation, carried: [
        self._names.update({value.name: name})
        for value, name in zip(operation.results, reversed(carried), strict=True)
    ]),
    "text": ("_tokenize", lambda self, operation: self._pieces.update(
        {operation.result.name: ("the",)}
    )),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_writer_is_found(toy, walked, fault, monkeypatch):
    monkeypatch.setattr(Writer, *fault)
    found = told(toy.compile(LOOPS), "x")
    assert found != told(walked(toy, LOOPS), "x")


BRANCHES = program(
    """
let found: list[str] = []
for part in range(len(arg) + 2):
    fork side in ["p", "q"] as views:
        "{part}{side}"
        gen view(max_tokens=4, temperature=1.5)
        yield view
    found += views
return found
""",
    "list[str]",
)

CONDITION = HELPER + program(
    """
let one = call part(arg)
let two = call part("b")
if len(one) > 99:
    return "long"
return two
"""
)

FORKED = Writer._forked

FAULTS_BESIDE = {
    "what a branch has seen": (
        BRANCHES, Writer, "_forked", lambda self, fork, seen=(): FORKED(self, fork)
    ),
    "what is waited for": (CONDITION, BesideWriter, "_there", Writer._there),
}  # fmt: skip


@pytest.mark.parametrize("text, writer, name, fault", FAULTS_BESIDE.values(), ids=FAULTS_BESIDE)
def test_a_fault_of_what_is_started_is_found(toy, walked, text, writer, name, fault, monkeypatch):
    assert told(toy.compile(text), "x") == told(walked(toy, text), "x")
    monkeypatch.setattr(writer, name, fault)
    assert told(toy.compile(text), "x") != told(walked(toy, text), "x")


def test_a_fault_of_the_order_is_found(toy, monkeypatch):
    """A program that is taken to ask in turn, and does not, takes more steps."""
    right = toy.compile(CALLS)
    right.run(arg="x")
    monkeypatch.setattr(InTurn, "beside", lambda self, name, called=False: None)
    wrong = toy.compile(CALLS)
    assert wrong.run(arg="x").value and wrong.engine.steps > 2 * right.engine.steps


@pytest.mark.parametrize("name", ["chat", "best_draft", "panel", "surprise"])
def test_the_code_of_a_program(golden, name):
    compilation = Compilation(EXAMPLES / f"{name}.weft", "tiny-dense")
    golden(f"rows/{name}.py.txt", stage_text(compilation, "rows", None, "", False))


def test_a_program_without_code_is_told_why(tmp_path):
    file = tmp_path / "p.weft"
    loops = "".join(f"{'    ' * at}for x{at} in xs:\n" for at in range(1, 18))
    file.write_text(f'program p(xs: list[str]):\n{loops}{"    " * 18}"a"\n')
    text = stage_text(Compilation(file, "tiny-dense"), "rows", None, "", False)
    assert text == (
        "# @p: operation by operation, as its blocks stand in each other more than 80 deep, "
        "or 16 loops\n"
    )
