"""Files that commands write: what cannot be written is told before any work, and loses nothing."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.cli.output import NotWritten, check_file, write_file
from weft.options import BadOption
from weft.runtime.programs.arguments import BadArguments

ESSAYS = Path(__file__).parents[2] / "examples"
JUDGE = (str(ESSAYS / "essay_judge.weft"), "--arg", "essay=short")
ROWS = (JUDGE[0], "--rows", str(ESSAYS / "data" / "essay_judge.jsonl"))
TUNE = ("tune", "random:mixtral-8x7b-4l", "--gpu-memory", "8GiB")

WRITERS = (
    ("run", *JUDGE, "--trace"),
    ("run", *ROWS, "--out"),
    ("run", *JUDGE, "--gpu-memory", "28MiB", "--model", "tiny-moe", "--record-routing"),
    ("calibrate", "--rounds", "1", "--out"),
    ("calibrate-attention", "tiny-dense", "--text", str(ESSAYS / "essay_judge.weft"), "--out"),
    (*TUNE, "--out"),
)
PLOTTERS = (("evaluate", "tiny-dense", "--plot"), (*TUNE, "--plot"))


@pytest.fixture
def no_work(monkeypatch):
    """What takes time may not begin."""
    for place in (
        "cli.run._compile", "cli.machine._measured", "cli.tune._search", "cli.attention.use_device",
    ):  # fmt: skip
        monkeypatch.setattr(f"weft.{place}", lambda *rest, place=place: pytest.fail(place))


@pytest.mark.parametrize("command", [*WRITERS, *PLOTTERS], ids=lambda command: command[0])
def test_a_place_that_takes_no_file_is_refused_before_the_work(command, no_work, tmp_path) -> None:
    folder = tmp_path / "folder.svg"
    folder.mkdir()
    for place, says in (
        (tmp_path / "nowhere" / "x.svg", "there is no folder"),
        (folder, "it is a folder"),
        (Path("/proc/x.svg"), "cannot be written"),
    ):
        if place.is_relative_to("/proc") and not Path("/proc").is_dir():
            continue
        result = CliRunner().invoke(app, [*command, str(place)])
        assert isinstance(result.exception, NotWritten), (result.output, result.exception)
        told = result.exception.render()
        assert says in told and str(place) in told and f"give {command[-1]} a file" in told


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    file = tmp_path / "kept.json"
    write_file(file, "--out", "first")

    def full(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(NotWritten, match="No space left on device"):
            write_file(file, "--out", "second")
    assert file.read_text() == "first" and [each.name for each in tmp_path.iterdir()] == [file.name]
    write_file(file, "--out", "second")
    assert file.read_text() == "second"


def test_a_link_is_written_through(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("old")
    check_file(tmp_path / "link", "--out")
    write_file(tmp_path / "link", "--out", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_is_no_plain_file_is_written_into() -> None:
    check_file(Path("/dev/full"), "--out")
    with pytest.raises(NotWritten, match="/dev/full"):
        write_file(Path("/dev/full"), "--out", "lost")
    assert Path("/dev/full").is_char_device()


def test_what_was_found_is_printed_also_where_it_cannot_be_kept(monkeypatch) -> None:
    result = CliRunner().invoke(app, [*TUNE, "--batch", "16", "--out", "/dev/full", "--json"])
    assert isinstance(result.exception, NotWritten)
    assert json.loads(result.stdout)["policy"]


def test_a_page_that_finds_no_room_leaves_the_one_before_and_nothing_half_written(
    tmp_path, monkeypatch
):
    from weft.cli.explore import FolderNotWritable, _write

    page = tmp_path / "index.html"
    page.write_text("the one before")
    write = Path.write_text

    def full(path, text, **options):
        write(path, text[:3], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FolderNotWritable, match=f"written to {tmp_path}: No space left on device"):
        _write(page, "the new one")
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
    assert page.read_text() == "the one before"


def test_what_takes_long_is_told_once_and_what_does_not_is_not(monkeypatch):
    from threading import Event

    from weft.cli import live

    said, heard = [], Event()

    class Remarks:
        def print(self, text, style):
            said.append(text)
            heard.set()

    monkeypatch.setattr(live, "remarks", Remarks)
    for quiet, patience, compiler in ((True, 0.0, True), (False, 60.0, True), (False, 0.01, False)):
        monkeypatch.setattr(live, "PATIENCE", patience)
        monkeypatch.setattr(live, "sys", SimpleNamespace(modules={"tvm"} if compiler else set()))
        with live.compiling(quiet):
            assert not heard.wait(0.05)
    with live.compiling():
        live.sys.modules.add("tvm")  # it was slow before it began to compile
        assert heard.wait(200)
    assert len(said) == 1 and said[0].startswith("still compiling")


@pytest.mark.parametrize("model", ["tiny-dense", "openai:http://localhost:9/v1#x"])
def test_of_remote_models_it_is_not_said_that_kernels_are_made(model, monkeypatch):
    heard = []

    def compiling(hidden, target):
        heard.append(hidden)
        return nullcontext()

    def executable(compilation):
        raise BadOption(problem="far enough")

    monkeypatch.setattr("weft.cli.run.compiling", compiling)
    monkeypatch.setattr("weft.compiler.compilation.Compilation.executable", executable)
    result = CliRunner().invoke(app, ["run", *JUDGE, "--model", model])
    assert isinstance(result.exception, BadOption)
    assert heard == [model.startswith("openai")]


def test_what_a_program_does_not_take_is_told_before_a_model_is_loaded(monkeypatch, tmp_path):
    def executable(compilation):
        raise BadOption(problem="far enough")

    monkeypatch.setattr("weft.compiler.compilation.Compilation.executable", executable)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"essai": "short"}\n')
    run = ("run", JUDGE[0], "--quiet")
    for wrong in (("--arg", "sides=3"), (), ("--rows", str(rows))):
        result = CliRunner().invoke(app, [*run, *wrong])
        assert isinstance(result.exception, BadArguments), wrong
    assert "row 0" in str(result.exception) and "essay" in result.exception.render()
    for right in (("--arg", "essay=short"), ("--rows", str(rows), "--keep-going", "--out",
                                             str(tmp_path / "out.jsonl"))):  # fmt: skip
        assert isinstance(CliRunner().invoke(app, [*run, *right]).exception, BadOption), right


def test_the_bar_of_loading_shows_what_is_large_on_a_terminal_only(monkeypatch):
    from io import StringIO

    from rich.console import Console
    from weft.cli import live

    def shown(total: int, terminal: bool = True, quiet: bool = False) -> str:
        console = Console(file=StringIO(), force_terminal=terminal, width=80)
        monkeypatch.setattr(live, "remarks", lambda: console)
        with live.LoadingBar(quiet) as bar:
            bar.show(total // 4, total)
            bar.show(total, total)
        return console.file.getvalue()

    least = live.LoadingBar.LEAST
    assert "loading weights" in shown(least) and "256.0/256.0 MiB" in shown(least)
    assert not any((shown(least - 1), shown(least, terminal=False), shown(least, quiet=True)))


@pytest.mark.parametrize(
    ("line", "problem"),
    [('{"t": nope}', "column 7: a value"), ('{"t": ' + "[" * 5000, "it is nested too deeply")],
)
def test_a_row_that_cannot_be_read_is_told_in_words(tmp_path, line, problem):
    from weft.cli.rows import BadRows, read_rows

    file = tmp_path / "rows.jsonl"
    file.write_text('{"t": "a"}\n' + line + "\n")
    with pytest.raises(BadRows, match=f"rows.jsonl:2: .*{problem}"):
        list(read_rows(file))
