"""Opening programs and checkpoints: every kind of place, and every kind of mistake."""

import pytest
import weft
from weft.frontend.checkpoints.checkpoint import (
    NoCheckpoint,
    UnknownModel,
    open_checkpoint,
    shipped_models,
)
from weft.frontend.lowering.lower import lower
from weft.frontend.open import (
    BrokenPythonFile,
    NoProgram,
    NoProgramInFile,
    NoPrograms,
    NoSuchProgram,
    NoSuchProgramName,
    NoSuchTools,
    open_program,
    tools_of,
)

TEXT = 'program hello(name: str) -> str:\n    "Hello {name}"\n    return name\n'
PYTHON = """
import weft

@weft.tool
def double(x: int) -> int:
    return 2 * x

@weft.program
def hello(s, name: str) -> str:
    s += f"Hello {name} {double(2)}"
    return name
"""


@pytest.mark.parametrize("thing", [None, 3, lambda s: s])
def test_what_is_no_program_is_named(thing):
    with pytest.raises(NoProgram, match=f"^type error: {type(thing).__name__} is no program"):
        open_program(thing)


def test_text_and_file_give_the_same_program(tmp_path):
    (tmp_path / "hello.weft").write_text(TEXT)
    from_file, from_text = open_program(tmp_path / "hello.weft"), open_program(TEXT)
    assert [item.name for item in from_file.file.programs] == ["hello"]
    assert from_file.source.text == from_text.source.text
    assert lower(from_file.file) == lower(from_text.file)


def test_a_python_file_brings_its_tools(tmp_path):
    (tmp_path / "hello.py").write_text(PYTHON)
    opened = open_program(tmp_path / "hello.py")
    assert opened.tools["double"](4) == 8


def test_tools_beside_a_weft_file_are_found_and_given_ones_win(tmp_path):
    (tmp_path / "a.weft").write_text("tool f(x: int) -> int\n" + TEXT)
    (tmp_path / "a_tools.py").write_text("def f(x):\n    return x + 1\n")
    assert open_program(tmp_path / "a.weft").tools["f"](1) == 2
    assert open_program(tmp_path / "a.weft", {"f": abs}).tools["f"] is abs


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(NoSuchProgram, match="there is no such file"):
        open_program(tmp_path / "missing.weft")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(NoProgramInFile, match="under @weft.program"):
        open_program(tmp_path / "empty.py")
    (tmp_path / "hello.py").write_text(PYTHON)
    with pytest.raises(NoSuchProgramName, match="no program 'bye'\nhint: its programs are: hello"):
        open_program(tmp_path / "hello.py", name="bye")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(BrokenPythonFile, match="ZeroDivisionError"):
        open_program(tmp_path / "broken.py")
    (tmp_path / "tools.txt").write_text("def f(x):\n    return x\n")
    for name, says in (("tools.txt", "it is no Python file"), ("none.py", "there is no such file")):
        with pytest.raises(NoSuchTools, match=f"{name}: {says}") as caught:
            tools_of(tmp_path / name)
        assert "tools are the functions" in caught.value.render()


def test_the_zoo_is_shipped():
    assert {"tiny-dense", "tiny-moe"} <= set(shipped_models())


def test_an_unknown_model_names_the_shipped_ones(tmp_path):
    with pytest.raises(UnknownModel, match="tiny-dense"):
        open_checkpoint("tiny-dens")
    with pytest.raises(NoCheckpoint, match="config.json"):
        open_checkpoint(tmp_path)
    with pytest.raises(UnknownModel, match="there is no model ''"):
        open_checkpoint("")


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_has_no_program(text):
    """As a path it would be the folder one stands in."""
    with pytest.raises(NoPrograms, match="<program> has no program to run"):
        weft.compile(text)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "hello.weft").write_text("\ufeff" + TEXT, encoding="utf-8")
    assert open_program(tmp_path / "hello.weft").source.text == TEXT


def test_a_file_without_a_program_is_named(tmp_path):
    (tmp_path / "empty.weft").write_text("# nothing yet\n")
    with pytest.raises(NoPrograms, match=r"empty.weft has no program to run"):
        weft.compile(tmp_path / "empty.weft")
