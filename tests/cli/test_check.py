"""`weft check`: all that is wrong with programs, with the status that a build server reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.compiler.checking import check_file

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

PROGRAM = """\
tool look(text: str, times: int = 1) -> str

program p(t: str) -> str:
    let found = look(t)
    gen name: regex "[a-z]+(?=x)"
    gen order: schema "order.json"
    return found + name
"""

PYTHON = """\
import weft

@weft.tool
def look(text: str) -> str:
    return text

@weft.program
def first(s, t: str) -> str:
    s += "a"
    del t
    a = s.gen()
    b = [c for c in a]
    return a

@weft.program
def second(s, t: str) -> str:
    return look(t) + 1
"""


def checked(*arguments, input=None):
    result = CliRunner().invoke(app, ["check", *map(str, arguments)], input=input)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "p.weft"
    file.write_text(PROGRAM)
    return file


def test_every_example_is_right():
    files = [*EXAMPLES.glob("*.weft"), EXAMPLES / "essay_judge.py"]
    status, printed, said = checked(*files)
    assert (status, printed) == (0, "") and said.count("nothing is wrong") == len(files) > 15


def test_tools_files_and_constraints_are_looked_for(program):
    status, printed, said = checked(program)
    assert status == 1 and "2 errors" in said
    assert "p.weft:4:17: run error: the tool look has no Python function" in printed
    assert "p.weft:6:16: type error: the schema 'order.json' cannot be read" in printed
    tools = program.with_name("p_tools.py")
    tools.write_text("def look(text):\n    return text\n")
    program.with_name("order.json").write_text('{"type": "array", "uniqueItems": true}')
    status, printed, _ = checked(program)
    assert status == 1 and "p.weft:1:1: type error: the function of the tool look" in printed
    assert "(text, times): too many positional arguments" in printed
    tools.write_text("def look(text, times):\n    return text\n")
    status, printed, said = checked(program)  # nothing else is wrong: now constraints are tried
    assert status == 1 and "2 errors" in said
    assert "p.weft:5:5: run error: the pattern cannot be followed" in printed
    assert "p.weft:6:5: run error: the schema cannot be followed" in printed
    program.with_name("order.json").write_text('{"type": "object", "properties": {}}')
    program.write_text(PROGRAM.replace("(?=x)", "").replace("found + name", "found"))
    assert checked(program) == (0, "", f"{program}: nothing is wrong in 1 program, 1 tool\n")
    tools.rename(tools.with_name("other.py"))
    assert checked(program)[0] == 1
    assert checked(program, "--tools", tools.with_name("other.py"))[0] == 0


def test_a_text_on_standard_input_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # files that types name are looked for there
    (tmp_path / "age.json").write_text('{"type": "integer"}')
    text = 'program p() -> str:\n    gen a: schema "age.json"\n    return "{a}"\n'
    assert checked("-", input=text) == (0, "", "<stdin>: nothing is wrong in 1 program\n")
    status, printed, _ = checked("-", "--json", input=text.replace("{a}", "{b}"))
    (file,) = json.loads(printed)["files"]
    assert status == 1 and file["file"] == "<stdin>" and file["errors"][0]["line"] == 3
    status, printed, _ = checked("-", input=b"\xff")
    assert status == 1 and "<stdin>: it is no UTF-8 text" in printed


def test_a_warning_is_told_and_is_no_error(tmp_path):
    file = tmp_path / "p.weft"
    file.write_text("program p(t: str) -> int:\n    return 1\n")
    status, printed, said = checked(file)
    assert status == 0 and "the parameter `t` is never used" in printed and "1 warning" in said


def test_all_that_cannot_be_read_of_python_programs_is_told(tmp_path):
    file = tmp_path / "programs.py"
    file.write_text(PYTHON)
    found = check_file(file)
    places = [error.render().partition("\n")[0].partition(".py:")[2] for error in found.errors]
    assert [place.partition(":")[0] for place in places] == ["10", "12", "17"], places
    assert "`+` does not take str and int" in places[-1]


def test_what_cannot_be_opened_does_not_hide_the_other_files(tmp_path, program):
    (tmp_path / "broken.py").write_text("raise ValueError('no')")
    (tmp_path / "records.weft").write_text("record R:\n    a: int\n")
    status, printed, said = checked(
        tmp_path / "nowhere.weft", tmp_path / "broken.py", tmp_path / "records.weft", program
    )
    assert status == 1 and "there is no such file" in printed and "ValueError: no" in printed
    assert "has no program to run" in printed and "2 errors" in said


def test_an_editor_reads_json(program):
    status, printed, said = checked(program, "--json")
    (file,) = json.loads(printed)["files"]
    assert status == 1 and not said and file["file"] == str(program)
    tool, schema = file["errors"]
    assert (tool["line"], tool["column"], tool["end_column"]) == (4, 17, 24)
    assert tool["kind"] == "run error" and "--tools FILE" in tool["hint"]
    assert schema["source"] == str(program) and "cannot be read" in schema["message"]


def test_no_model_is_loaded(program):
    program.write_text("program p() -> str:\n    gen a: int(1..3)\n    return str(a)\n")
    script = (
        "import sys\nfrom pathlib import Path\nfrom weft.compiler.checking import check_file\n"
        f"assert check_file(Path({str(program)!r})).programs == 1\n"
        "print([name for name in ('torch', 'tvm', 'safetensors') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
