"""What users get wrong: each error names the row, the place and the amount, and nothing leaks."""

from __future__ import annotations

import json
import threading

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.open import NotTools, open_program
from weft.frontend.semantics.errors import WrongOption
from weft.ir.core import Term
from weft.ir.diagnostics import CapacityError, RunError
from weft.ir.evaluate import ValueFailed
from weft.ir.vocabulary import EMPTY_OPTION, NO_OPTIONS
from weft.runtime.constraints.matcher import BadConstraint
from weft.runtime.programs.arguments import BadArguments, Written
from weft.runtime.programs.coerce import Mismatch, coerce
from weft.runtime.programs.model_calls import ProgramFailed
from weft.runtime.programs.tools import ToolFailed, UnboundTool
from weft.runtime.rows import NoRows
from weft.runtime.schedule.limits import ContextTooLong, KVTooSmall

ECHO = """
program echo(arg: str, count: int = 2) -> str:
    "Say {arg} {count} "
    gen word(max_tokens=10)
    return word
"""

TOOL = """
tool look(text: str) -> int

program use(arg: str) -> int:
    "Look: "
    gen word(max_tokens=3)
    let seen = look(arg)
    "{seen}"
    gen other(max_tokens=3)
    return seen
"""


def test_a_prompt_longer_than_the_context(toy):
    executable = toy.compile(ECHO, context_length=64)
    with pytest.raises(ContextTooLong, match=r"gen 'word': 107 tokens of prompt.*53 more.*64"):
        executable.run(arg="x" * 100)
    toy.assert_clean(executable)
    assert executable.run(arg="x").value is not None


def test_a_gen_that_kv_memory_can_never_hold(toy):
    executable = toy.compile(ECHO, num_pages=5, page_size=4)
    with pytest.raises(KVTooSmall, match=r"row 1, gen 'word': .* need 8 KV pages, 3 more than 5"):
        executable.run_rows([{"arg": "a"}, {"arg": "abcdefghijklmn"}])
    toy.assert_clean(executable)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "row 1: the field 'arg' (str) is missing"),
        ({"arg": 3}, "row 1: the field 'arg': 3 is int, not str"),
        ({"arg": "a", "count": "two"}, "row 1: the field 'count': 'two' is str, not int"),
        ({"arg": "a", "cuont": 2}, "row 1: there is no parameter for the field 'cuont'"),
        (["a"], "row 1: ['a'] is no row"),
    ],
)
def test_bad_rows_are_refused_before_any_row_runs(toy, row, message):
    executable = toy.compile(ECHO)
    with pytest.raises(BadArguments) as error:
        executable.run_rows([{"arg": "fine"}, row])
    assert message in str(error.value)
    assert executable.engine.steps == 0


MISSING = "the argument 'arg' .* is missing\nhint: the program takes arg: str, count: int = 2$"


def test_bad_arguments_of_one_call(toy):
    with pytest.raises(BadArguments, match=MISSING):
        toy.compile(ECHO).run()
    with pytest.raises(BadArguments, match="no parameter for the argument 'ark'\nhint: .*'arg'"):
        toy.compile(ECHO).run(ark="a")


def test_a_missing_tool_is_named_when_compiling(toy):
    with pytest.raises(UnboundTool, match="tool look has no Python function"):
        toy.compile(TOOL)


def raises(text):
    raise ValueError("no luck")


def exits(text):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (raises, "row 0: tool look raised ValueError: no luck"),
        (exits, "row 0: tool look raised SystemExit: 3"),
        (lambda text: "five", "row 0: tool look returned a wrong value: 'five' is str, not int"),
        (lambda text: True, "row 0: tool look returned a wrong value: True is bool, not int"),
        (lambda: 1, "row 0: tool look raised TypeError"),
    ],
)
def test_a_tool_that_fails(toy, tool, message):
    executable = toy.compile(TOOL, {"look": tool})
    with pytest.raises(ToolFailed) as error:
        executable.run(arg="a")
    assert message in str(error.value) and "<text>:7" in str(error.value)
    toy.assert_clean(executable)


def test_a_tool_that_hangs_is_given_up_while_others_go_on(toy):
    text = """
tool hang(text: str) -> int timeout 0.3
tool look(text: str) -> int timeout 200

program use(arg: str) -> int:
    "Look: "
    gen word(max_tokens=3)
    if arg == "slow":
        return hang(arg)
    return look(arg)
"""
    over = threading.Event()
    executable = toy.compile(text, {"hang": lambda text: int(over.wait()), "look": len})
    found = executable.run_rows([{"arg": "slow"}, {"arg": "a"}], keep_going=True)
    over.set()
    assert "row 0: tool hang did not answer in 0.3 s" in found.errors[0]
    assert found.values[1] == 1
    toy.assert_clean(executable)


def test_a_failing_row_ends_the_run_or_is_noted(toy):
    def look(text):
        if text == "bad":
            raise RuntimeError("bad")
        return len(text)

    rows = [{"arg": "ok"}, {"arg": "bad"}, {"arg": "okay"}]
    executable = toy.compile(TOOL, {"look": look})
    with pytest.raises(ToolFailed, match="row 1"):
        executable.run_rows(rows)
    toy.assert_clean(executable)
    found = executable.run_rows(rows, keep_going=True)
    assert found.values == [2, None, 4] and list(found.errors) == [1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("let n = [1, 2][len(arg)]", "row 0: there is no element 5 in 2 elements"),
        ("let n = int(arg)", "row 0: 'hello' is no int"),
        ("let n = 7 // (len(arg) - 5)", "row 0: division by zero"),
        ("let n = range(100000000 * len(arg))", "row 0: a value of 500000000 elements"),
    ],
)
def test_host_values_that_fail(toy, body, message):
    text = f'program fails(arg: str) -> int:\n    "a"\n    {body}\n    return 1\n'
    # The value is used, so that it is not dropped as dead.
    text = text.replace("return 1", '"{n}"\n    gen g(max_tokens=2)\n    return 1')
    executable = toy.compile(text)
    with pytest.raises(RunError) as error:
        executable.run(arg="hello")
    assert message in str(error.value) and "<text>:3" in str(error.value)
    toy.assert_clean(executable)


def test_a_typed_gen_cut_short_names_its_text(toy):
    text = 'program cut(a: str) -> str:\n    "b"\n    gen g(max_tokens=3): regex "[ab]{9}"\n'
    executable = toy.compile(text + "    return g\n")
    with pytest.raises(ProgramFailed, match=r"row 0: gen 'g': .*\nhint: .*max_tokens"):
        executable.run(a="")
    toy.assert_clean(executable)


@pytest.mark.parametrize("before", ["b:", "b: "])
def test_an_empty_option_and_an_empty_list(toy, before):
    """Behind a space, which a select takes over, an empty option would be that space."""
    text = "program pick(words: list[str]) -> str:\n"
    text += f'    "{before}"\n    select w from words\n    return w\n'
    executable = toy.compile(text)
    for words, problem in (([], "no options"), (["a", ""], "an empty option")):
        with pytest.raises(ProgramFailed, match=f"row 0: select 'w' has {problem}") as caught:
            executable.run(words=words)
        assert (EMPTY_OPTION if words else NO_OPTIONS) in caught.value.render()
        with pytest.raises(RunError, match="an empty option, or none"):
            toy.oracle(text)(0, words=words)
    with pytest.raises(WrongOption, match="`select` has an empty option") as refused:
        toy.compile(text.replace("from words", 'from ["a", ""]'))
    assert refused.value.span.column == 25 and EMPTY_OPTION in refused.value.render()
    toy.assert_clean(executable)


def test_capacity_errors_are_one_family():
    assert issubclass(KVTooSmall, CapacityError) and issubclass(ContextTooLong, CapacityError)


HALF = "a\ud800"


@pytest.mark.parametrize("row", [{"arg": HALF}, {"arg": "fine", "more": ["b", HALF]}])
def test_half_a_surrogate_pair_in_a_row_is_refused_before_any_row_runs(toy, row):
    text = """
program p(arg: str, more: list[str] = []) -> str:
    "{arg} {more}"
    gen word(max_tokens=2)
    return word
"""
    executable = toy.compile(text)
    with pytest.raises(BadArguments, match="row 1: .*character . is .*ud800.*, half of a pair"):
        executable.run_rows([{"arg": "fine"}, row])
    assert executable.engine.steps == 0


@pytest.mark.parametrize("value", [HALF, {"a": [HALF]}, {HALF: 1}])
def test_half_a_surrogate_pair_inside_a_schemas_value(value):
    with pytest.raises(Mismatch, match="half of a pair"):
        coerce(Term("schema", ("{}",)), {}, value)


def test_half_a_surrogate_pair_from_a_tool_is_a_wrong_value(toy):
    executable = toy.compile(TOOL.replace("-> int", "-> str", 1).replace("-> int", "-> str"),
                             {"look": lambda text: HALF})  # fmt: skip
    with pytest.raises(ToolFailed, match="tool look returned a wrong value: character 1 is"):
        executable.run(arg="a")
    toy.assert_clean(executable)


def test_half_a_surrogate_pair_in_a_tools_exception_can_be_read(toy):
    text = """
tool look(text: str) -> str

program p(arg: str) -> str:
    let found = look(arg)
    match found:
        case error e:
            "{e}"
            gen word(max_tokens=2)
            return "{e}"
        case _:
            "none"
    return "none"
"""

    def look(text: str) -> str:
        raise ValueError(HALF)

    assert toy.compile(text, {"look": look}).run(arg="a").value == r"a\ud800"


def test_points_that_are_no_numbers_choose_no_branch(toy):
    text = """
tool points() -> float

program p(arg: str) -> str:
    "{arg}"
    fork 2 as found:
        gen word(max_tokens=2)
        yield points()
    join best(by=found)
    gen last(max_tokens=2)
    return last
"""
    tools = {"points": lambda: float("nan")}
    executable = toy.compile(text, tools)
    with pytest.raises(ValueFailed, match="row 0: join best has a point that is no number"):
        executable.run(arg="a")
    with pytest.raises(RunError, match="no number"):
        toy.oracle(text, tools)(0, arg="a")
    toy.assert_clean(executable)


def test_a_schema_that_no_text_fits_is_refused_where_it_is_used(toy, tmp_path):
    (tmp_path / "loop.json").write_text('{"$ref": "#"}')
    file = tmp_path / "p.weft"
    file.write_text('program p(arg: str):\n    "{arg}"\n    gen a: schema "loop.json"\n')
    with pytest.raises(BadConstraint, match=r"p.weft:3:5: .*no text fits it"):
        toy.compile(lower(open_program(file).file)).run(arg="a")


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [("bad.json", '{"not": {}}', "schema cannot be followed: .*not"),
     ("bad.lark", "start: foo", 'grammar cannot be followed: .*unknown name: "foo"')],
)  # fmt: skip
def test_a_file_that_says_nothing_is_called_what_it_is(toy, tmp_path, file, content, what):
    (tmp_path / file).write_text(content)
    kind = "schema" if file.endswith("json") else "grammar"
    (tmp_path / "p.weft").write_text(
        f'program p(arg: str):\n    "{{arg}}"\n    gen a: {kind} "{file}"\n'
    )
    with pytest.raises(BadConstraint, match=rf"p.weft:3:5: run error: the {what}"):
        toy.compile(lower(open_program(tmp_path / "p.weft").file)).run(arg="a")


@pytest.mark.parametrize(
    ("schema", "problem", "hint"),
    [({"uniqueItems": True, "type": "array"}, "uniqueItems", "a tool may check it then"),
     ({"type": "string", "pattern": "(?=a)b"}, "look-around", "a pattern without"),
     ({"$ref": "http://x.y/z"}, "x.y", "none is fetched"),
     ({"$ref": "#/$defs/none"}, "none", r"\$defs has NAME"),
     ({"oneOf": [{"const": 1}, {"const": 2}]}, "oneOf", "write anyOf"),
     ({"type": "string", "minLength": 2, "maxLength": 1}, "Unsatisfiable", "widen the bounds"),
     ({"type": "array", "minItems": 1, "maxItems": 0}, "Unsatisfiable", "widen the bounds"),
     ({"type": "string", "format": "odd"}, "Unknown format: odd", "write a pattern"),
     ({"type": "integer", "minimum": 2, "maximum": 1}, "Unsatisfiable", "widen the bounds")],
)  # fmt: skip
def test_what_of_a_schema_cannot_be_followed_and_what_to_do(toy, tmp_path, schema, problem, hint):
    (tmp_path / "s.json").write_text(json.dumps(schema))
    file = tmp_path / "p.weft"
    file.write_text('program p(arg: str):\n    "{arg}"\n    gen a: schema "s.json"\n')
    with pytest.raises(
        BadConstraint, match=rf"p.weft:3:5: (.*\n)*.*{problem}(.*\n)+hint: .*{hint}"
    ):
        toy.compile(lower(open_program(file).file))


def test_a_fork_wider_than_memory_is_refused(toy):
    text = "program p(n: int) -> int:\n    fork n as xs:\n        yield 1\n    return len(xs)\n"
    executable = toy.compile(text)
    with pytest.raises(ValueFailed, match="a fork of 1,000,000,000 branches, and 200,000"):
        executable.run(n=1_000_000_000)
    toy.assert_clean(executable)
    assert executable.run(n=3).value == 3


def test_a_fork_of_fewer_branches_than_none_is_refused(toy):
    text = "program p(n: int) -> int:\n    fork n as xs:\n        yield 1\n    return len(xs)\n"
    executable = toy.compile(text)
    with pytest.raises(ValueFailed, match=r"<text>:2:5: .* row 0: a fork of -1 branches"):
        executable.run(n=-1)
    toy.assert_clean(executable)
    assert executable.run(n=0).value == 0
    with pytest.raises(ValueFailed, match="a fork of -1 branches"):
        toy.oracle(text)(n=-1)


@pytest.mark.parametrize(
    "made", ['("x" * n).replace("", "y" * n)', '("," * n).join(("x," * n).split(","))']
)
def test_a_text_larger_than_memory_is_refused_before_it_is_made(toy, made):
    text = f"program p(n: int) -> int:\n    return len({made})\n"
    executable = toy.compile(text)
    assert executable.run(n=3).value > 3
    with pytest.raises(ValueFailed, match="elements is more than 10000000"):
        executable.run(n=1_000_000)


@pytest.mark.parametrize(
    ("type", "written", "value"),
    [
        (Term("str"), "5", "5"),
        (Term("str"), "true", "true"),
        (Term("str"), "[1, 2", "[1, 2"),
        (Term("str"), '"quoted \\u00e9"', "quoted é"),
        (Term("str"), '"He" said', '"He" said'),
        (Term("choice", ("1", "2")), "2", "2"),
        (Term("int"), "5", 5),
        (Term("float"), "1e3", 1000.0),
        (Term("bool"), "true", True),
        (Term("list", (Term("str"),)), '["a"]', ["a"]),
        (Term("int"), "five", "five"),
        (Term("list", (Term("int"),)), "[" * 100_000, "[" * 100_000),
    ],
)
def test_what_was_written_is_read_as_the_parameter_says(type, written, value):
    assert Written(written).read_as(type) == value


def test_a_written_value_of_another_type_is_refused(toy):
    executable = toy.compile(ECHO)
    assert executable.check_row(0, {"arg": Written("7"), "count": Written("7")})["arg"] == "7"
    with pytest.raises(BadArguments, match="'count': 'seven' is str, not int"):
        executable.run(arg="x", count=Written("seven"))


@pytest.mark.parametrize("rows", [None, 3, "abc", {"arg": "x"}])
def test_what_is_no_rows_is_said_and_the_journal_stays(toy, rows, tmp_path):
    executable = toy.compile(ECHO)
    with pytest.raises(NoRows, match=f"{type(rows).__name__} is no rows"):
        executable.run_rows(rows, tmp_path / "out.jsonl")
    assert not list(tmp_path.iterdir())
    toy.assert_clean(executable)
    assert len(executable.run_rows({"arg": word} for word in "ab").values) == 2


@pytest.mark.parametrize(
    "tools, problem", [([len], "list is no dict"), ({"look": 1}, "'look' is int")]
)
def test_tools_that_are_no_functions_by_name(tools, problem):
    with pytest.raises(NotTools, match=problem):
        open_program(TOOL, tools)
