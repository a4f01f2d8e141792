"""Every code block of every document runs, and every command that is named exists.

`weft` blocks are checked and lowered (one with a file name is written there for those after it);
`python` blocks run, those of a document one after another; a `text` block after one is what it
prints. `console` blocks are typed: lines after `$ ` are run, what follows is their output, where
`...` stands for anything. `sh` blocks, and commands in sentences, are not run: their names and
options are looked up. `ir` blocks are parsed and verified.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.cli.errors import as_typed, with_lines
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.text.parser import parse_text
from weft.ir.diagnostics import WeftError
from weft.ir.parser import parse_module
from weft.ir.verifier import verify
from weft.tests.docs import documents
from weft.tests.docs.documents import ROOT, Block
from weft.tests.each_time import each_time

PATHS = documents.documents()
NAMED = {path.relative_to(ROOT).as_posix(): path for path in PATHS}
RUN = each_time(NAMED, *(NAMED.keys() - {"docs/offload.md"}))
"""What each command of that one does has a test in tests/runtime/offload or tests/cli."""
_OF_SLOW_MACHINES = re.compile(r"^still (?:compiling|searching): .*\n", re.MULTILINE)
"""What commands only say where they take long: it stands in no document."""


def run_block(block: Block, after: str, names: dict[str, Any]) -> str:
    """Make a block true; return what it printed. `after` is what the block before it printed."""
    match block.language:
        case "weft":
            file = parse_text(block.text)
            check(file)
            verify(lower(file), ("program",))
            if block.file:
                Path(block.file).write_text(block.text)
        case "python":
            return run_python(block, names)
        case "console":
            run_console(block)
        case "ir":
            verify(parse_module(block.text))
        case "json":
            if block.file:
                Path(block.file).write_text(block.text)
            else:
                json.loads(block.text)
        case "text" if block.file:
            Path(block.file).write_text(block.text)
        case "text":
            assert documents.matches(block.text, after), f"{block.where}: it prints\n{after}"
    return ""


def run_python(block: Block, names: dict[str, Any]) -> str:
    path = Path(block.file or f"block_{block.line}.py")
    path.write_text(block.text)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, str(path.resolve()), "exec"), names)
    return printed.getvalue()


def run_console(block: Block) -> None:
    parts = ("\n" + block.text).split("\n$ ")
    assert not parts[0].strip(), f"{block.where}: a console block begins with `$ `"
    for part in parts[1:]:
        command, _, expected = part.partition("\n")
        given = type_command(command)
        assert documents.matches(expected, given), f"{block.where}: $ {command}\n{given}"


def type_command(command: str) -> str:
    """Run a `weft` or `cat` command line; return what the terminal shows."""
    words = shlex.split(command)
    if words[0] == "cat":
        return "".join(Path(word).read_text() for word in words[1:])
    assert words[0] == "weft", f"a console block runs weft and cat, not {words[0]}"
    result = CliRunner().invoke(app, words[1:])
    if isinstance(result.exception, WeftError):
        return result.output + with_lines(as_typed(result.exception)).render()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return _OF_SLOW_MACHINES.sub("", result.output)


@pytest.mark.parametrize("path", RUN)
def test_its_blocks_run(path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("document")
    monkeypatch.setitem(sys.modules, "document", module)
    printed = ""
    for block in documents.blocks(path):
        known = ", ".join(sorted(documents.LANGUAGES))
        assert block.language in documents.LANGUAGES, f"{block.where}: name one of {known}"
        printed = run_block(block, printed, vars(module))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_its_commands_exist(path: Path) -> None:
    wrong = {each: documents.wrong_with(each) for each in documents.commands(path)}
    assert {each: why for each, why in wrong.items() if why} == {}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_its_links_lead_somewhere(path: Path) -> None:
    assert documents.broken_links(path) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_files_that_it_names_are_there(path: Path) -> None:
    assert documents.missing_files(path) == []


def test_the_modules_that_sources_name_are_there() -> None:
    rooms = [*documents.ROOMS.split("|"), "bench", "cli"]
    sources = [source for room in rooms for source in (ROOT / room).rglob("*.py")]
    found = {
        (source.relative_to(ROOT).as_posix(), name)
        for source in sources
        for name in documents.missing_modules(source.read_text(encoding="utf-8"))
    }
    assert len(sources) > 400 and not found


def test_a_missing_module_is_found() -> None:
    text = "`passes.manager.Context` `ir.nothing.Store` (passes/tile) (runtime/none.py) passes/none"
    assert documents.missing_modules(text) == ["runtime/none", "passes/none", "ir.nothing.Store"]


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("`passes/none.py` `passes/manager.py` `ir/` `nothing.py` `a/b`")
    assert documents.missing_files(tmp_path / "x.md") == ["passes/none.py", "nothing.py"]


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    text = "# It's a `heading`\n[there](x.md) [not](y.md) `[code](z.md)` [web](https://a.b)\n"
    text += "[to it](#its-a-heading) [there too](x.md#its-a-heading) [nowhere](#heading)"
    (tmp_path / "x.md").write_text(text)
    assert documents.broken_links(tmp_path / "x.md") == ["y.md", "#heading"]


def test_a_block_that_does_not_run_is_found(checkout: Path) -> None:
    def block(language: str, text: str) -> Block:
        return Block("x.md", 1, language, "", text)

    with pytest.raises(WeftError):
        run_block(block("weft", "program p() -> str:\n    return nothing\n"), "", {})
    with pytest.raises(ZeroDivisionError):
        run_block(block("python", "1 / 0\n"), "", {})
    with pytest.raises(AssertionError, match="it prints"):
        run_block(block("text", "2\n"), run_block(block("python", "print(1)\n"), "", {}), {})
    with pytest.raises(AssertionError, match="weft models"):
        run_block(block("console", "$ weft models tiny-dense\nno such card\n"), "", {})
    with pytest.raises(WeftError):
        run_block(block("ir", "tile.nothing\n"), "", {})


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("weft fly FILE", "no command"),
        ("weft run FILE --wings", "no option"),
        ("weft run examples/none.weft", "no examples/none.weft"),
        ("make coffee", "no coffee"),
        ("python -m bench.nothing", "no module"),
        ("python -m bench.cpu --nothing", "no option"),
        ("python bench/nothing.py", "no bench/nothing.py"),
        ("frobnicate", "who knows"),
    ],
)
def test_a_command_that_is_not_there_is_found(command: str, why: str) -> None:
    assert why in (documents.wrong_with(command) or "")


def test_what_is_there_is_right() -> None:
    for command in ("weft run FILE --model M --arg k=v", "make test", "python -m bench.cpu --json"):
        assert documents.wrong_with(command) is None


def test_dots_stand_for_anything() -> None:
    assert documents.matches("a ... c\n...\nend", "a b c\nx\ny\nend  ")
    assert not documents.matches("a ... c", "a b d")
