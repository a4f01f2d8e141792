"""The Python surface: the same IR text as .weft text gives, and errors at the Python line."""

# ruff: noqa: B006, F841
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.python.embedded import between, limit, matching, program, tool
from weft.frontend.semantics.checker import check
from weft.frontend.text.parser import parse, parse_text
from weft.frontend.unparse import unparse
from weft.ir.diagnostics import WeftError
from weft.ir.parser import parse_module
from weft.ir.source import Source

ROOT = Path(__file__).parents[2]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__)
TWINS = {
    **load(HERE.with_name("programs_in_python.py")).TWINS,
    **load(HERE.with_name("language_in_python.py")).TWINS,
    "essay_judge": load(ROOT / "examples" / "essay_judge.py").judge,
}


@pytest.mark.parametrize("name", TWINS)
def test_both_surfaces_give_the_same_ir(name):
    path = ROOT / "examples" / f"{name}.weft"
    file = TWINS[name].file
    assert check(file) == []
    assert str(lower(file)) == str(lower(parse(Source(str(path), path.read_text()))))


@pytest.mark.parametrize("name", TWINS)
def test_a_python_program_prints_as_text_of_the_same_meaning(name):
    file = TWINS[name].file
    assert parse(Source(file.source.name, unparse(file))) == file


@tool(pure=True, timeout=2)
def shout(text: str) -> str:
    return text.upper()


@program
def loud(s, text: str) -> str:
    s += shout(text)
    said = s.gen()
    return said


@program
def größe(s, 名: str = "é") -> str:
    s += f"{名}"
    結果 = s.gen(max_tokens=2)
    return 結果


def test_names_that_only_python_has_read_back_from_ir():
    module = lower(größe.file)
    assert "@größe" in str(module) and "%結果" in str(module)
    assert parse_module(str(module)) == module


def test_a_pure_tool_says_so_on_both_surfaces():
    assert "pure tool shout(text: str) -> str timeout 2.0" in unparse(loud.file)
    module = lower(loud.file)
    assert module == lower(parse_text(unparse(loud.file)))
    assert module.symbol("shout")["pure"] is True and shout("a") == "A"
    assert parse_text("tool f()\n").tools[0].pure is False


def test_spans_are_those_of_the_python_file():
    file = TWINS["essay_judge"].file
    lines = file.source.text.splitlines()
    gens = [item for item in lower(file).walk() if item.name == "program.gen"]
    assert ["review = s.assistant.gen(Review)" in lines[gen.span.line - 1] for gen in gens] == [
        True,
        False,
    ]
    assert lines[gens[0].span.line - 1][gens[0].span.column - 1 :].startswith("review = ")


def test_tools_and_records_come_from_the_program():
    judge = TWINS["essay_judge"]
    assert list(judge.tools) == ["word_count"]
    assert judge.tools["word_count"]("a b c") == 3
    assert [record.name for record in judge.file.records] == ["Review"]
    assert judge.name == "judge" and judge.source.name.endswith("essay_judge.py")


GREETING = "Hello"
NUMBERS = [1, 2]
NOTHING = None


def test_stop_patterns_and_other_spellings_of_select():
    @program
    def p(s, xs: list[str]) -> str:
        a = s.gen(stop=matching("[.!?]"))
        b = s.select(xs, by="greedy")
        return a + b

    written = parse_text(
        'program p(xs: list[str]) -> str:\n    gen a(stop=regex "[.!?]")\n'
        '    select b from xs(by="greedy")\n    return a + b\n'
    )
    again = parse_text(unparse(written))
    assert check(p.file) == [] and str(lower(p.file)) == str(lower(written)) == str(lower(again))


def test_values_from_outside_are_constants():
    @program
    def p(s):
        s += f"{GREETING}"
        s += GREETING
        for n in NUMBERS:
            s += f"{n}{NOTHING}"

    written = parse_text(
        'program p():\n    "{"Hello"}"\n    "Hello"\n    for n in [1, 2]:\n        "{n}{none}"\n'
    )
    assert str(lower(p.file)) == str(lower(written))


def test_records_and_patterns():
    @dataclass
    class Code:
        letters: str
        number: int

    @tool
    def known(code: Code) -> bool:
        return True

    @program
    def p(s) -> Code:
        letters = s.gen(matching(pattern="[A-Z]{3}"))
        mark = s.gen(Annotated[int, between(low=1, high=9)])
        code = Code(letters, mark)
        if known(code):
            return code
        code = s.gen(Code)
        return code

    written = parse_text(
        "record Code:\n    letters: str\n    number: int\n\n"
        "tool known(code: Code) -> bool\n\n"
        'program p() -> Code:\n    gen letters: regex "[A-Z]{3}"\n'
        "    gen mark: int(1..9)\n    let code = Code(letters=letters, number=mark)\n"
        "    if known(code):\n        return code\n"
        "    gen code: Code\n    return code\n"
    )
    check(p.file)
    assert str(lower(p.file)) == str(lower(written))


NINE, FEW = between(1, 9), limit(max_tokens=5)


def test_a_constraint_may_have_a_name_of_its_own():
    @program
    def p(s) -> int:
        mark = s.gen(Annotated[int, NINE])
        words = s.gen(Annotated[list[str], FEW, limit(max_items=3)])
        return mark

    @program
    def q(s) -> int:
        mark = s.gen(Annotated[int, between(1, 9)])
        words = s.gen(Annotated[list[str], limit(5, 3)])
        return mark

    texts = [str(lower(each.file)).replace("@q", "@p") for each in (p, q)]
    assert texts[0] == texts[1] and "max_tokens = 5" in texts[0]


def test_a_record_has_the_fields_that_its_class_inherits_first():
    class Plain:
        note: int

    @dataclass
    class Named:
        name: str
        age: int = 3

    @dataclass
    class Pupil(Plain, Named):
        grade: str = "A"
        name: Literal["Ada", "Bea"] = "Ada"  # type: ignore

    @program
    def p(s) -> Pupil:
        pupil = s.gen(Pupil)
        return pupil

    written = parse_text(
        'record Pupil:\n    name: choice["Ada", "Bea"]\n    age: int\n    grade: str\n\n'
        "program p() -> Pupil:\n    gen pupil: Pupil\n    return pupil\n"
    )
    check(p.file)
    assert str(lower(p.file)) == str(lower(written))


def test_parameters_of_every_kind_that_has_a_name():
    @tool
    def joined(left: str, /, right: str = "x") -> str:
        return left + right

    @program
    def p(s, /, a: str, b: int = 2, *, c: str, d: str = "d"):
        s += f"{joined(a)} {b} {c}{d}"

    written = parse_text(
        'tool joined(left: str, right: str = "x") -> str\n\n'
        'program p(a: str, b: int = 2, c: str, d: str = "d"):\n    "{joined(a)} {b} {c}{d}"\n'
    )
    assert check(p.file) == [] and str(lower(p.file)) == str(lower(written))


Grade = Literal["A", "B"]
Points = Annotated[int, between(1, 9)]
Initials = matching("[A-Z]{2}")
Words = Annotated[list[str], limit(max_items=5)]
PADDED = " Hello "


def test_names_of_types():
    @program()
    def p(s, points: Points, words: list[str] = ["b"]) -> Grade:
        s += f"{points}{PADDED.strip()}"
        code = s.gen(Initials)
        more = s.gen(Words)
        grade = s.gen(Grade)
        s += str(int(float("2")))
        return grade

    written = parse_text(
        'program p(points: int(1..9), words: list[str] = ["b"])'
        ' -> choice["A", "B"]:\n    "{points}{" Hello ".strip()}"\n'
        '    gen code: regex "[A-Z]{2}"\n    gen more: list[str](max_items=5)\n'
        '    gen grade: choice["A", "B"]\n'
        '    "{str(int(float("2")))}"\n    return grade\n'
    )
    assert check(p.file)  # of names that nothing uses
    assert str(lower(p.file)) == str(lower(written))


def test_a_name_bound_in_both_branches():
    @program
    def p(s, n: int) -> str:
        if n > 1:
            word = "many"
        else:
            word = "one"
        word += "!"
        return word

    check(p.file)
    assert "program.if" in str(lower(p.file))


def test_a_program_is_not_called():
    with pytest.raises(WeftError, match="compiled, not called"):
        TWINS["chat"]("a")


def test_a_notebook_cell_is_a_source():
    import linecache

    cell = (
        "from dataclasses import dataclass\n"
        "from weft.frontend.python.embedded import program\n"
        "@dataclass\nclass Cell:\n    size: int\n"
        "@program\ndef p(s):\n    s.user('How large?')\n    cell = s.assistant.gen(Cell)\n"
    )
    name = "<cell 1>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    names: dict = {"__name__": "__main__"}
    exec(compile(cell, name, "exec"), names)
    assert names["p"].source.name == name
    assert "record<Cell>" in str(lower(names["p"].file))


@tool(timeout=5)
async def later_length(text: str) -> int:
    return len(text)


@program
def measured(s, text: str) -> int:
    s += "a"
    return later_length(text)


async def awaited_program(s, text: str) -> str:
    s += "a"
    return text


def test_a_tool_may_be_a_coroutine_function_and_a_program_may_not():
    (declared,) = measured.file.tools
    assert (declared.name, declared.timeout) == ("later_length", 5.0)
    with pytest.raises(
        WeftError, match="an `async def` program is not part of .*\n(.*\n)*hint: write `def`"
    ):
        _ = program(awaited_program).file
