"""The command line on a remote model: results, what it says of calls, stages, resumed rows."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.compiler.remote_model import NotForRemote
from weft.ir.diagnostics import WeftError
from weft.options import BadOption
from weft.runtime.remote.errors import Refused

TEXT = """
program p(n: int) -> str:
    user "Number {n}."
    fork 2 as words:
        assistant gen word(max_tokens=4)
        yield word
    return words[0]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "p.weft"
    path.write_text(TEXT)
    return path


def weft(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, WeftError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_run_says_the_result_and_the_calls(fake, file):
    fake.answers(fake.streamed(["wo", "rd"]))
    said = weft("run", file, "--model", fake.model, "--arg", "n=1")
    assert "word" in said and "calls  2, 0 of them made again" in said
    answer = json.loads(weft("run", file, "-m", fake.model, "-a", "n=1", "--json").splitlines()[-1])
    assert answer["value"] == "word" and answer["stats"]["generated_tokens"] > 0


def test_the_key_is_sent_and_not_said(fake, file, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    fake.answers(fake.streamed(["word"]))
    said = weft("run", file, "-m", fake.model, "-a", "n=1")
    assert fake.keys == {"Bearer sk-hidden"} and "sk-hidden" not in said


def test_explain_counts_calls_without_making_any(fake, file):
    said = weft("explain", file, "--model", fake.model)
    assert "program p: 1 call in each branch of fork 'words' (2 times)" in said
    assert "side by side" in said and not fake.asked


def test_stages_end_with_the_program(fake, file):
    assert "program.fork" in weft("dump", file, "--model", fake.model)
    assert "program.fork" in weft(
        "dump", file, "--stage", "program", "--after", "canonicalize", "--model", fake.model
    )
    for stage in ("plan", "graph", "tile", "source"):
        with pytest.raises(NotForRemote, match="no stage after the program"):
            weft("dump", file, "--stage", stage, "--model", fake.model)


def test_rows_that_were_finished_are_not_asked_for_again(fake, file, tmp_path):
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(4)))
    bad = True

    def reply(body):
        last = body["messages"][-1]["content"]
        return fake.failed(400, "bad") if bad and "3" in last else fake.said("w" + last)

    command = ("run", file, "-m", fake.model, "--rows", rows, "--out", out, "--json",
               "--remote-concurrency", 1)  # fmt: skip
    fake.answers(reply)
    with pytest.raises(Refused):
        weft(*command)
    fake.asked.clear()
    bad = False
    answer = json.loads(weft(*command).splitlines()[-1])
    assert answer["resumed"] == 3
    assert {prompt[-1]["content"] for prompt in fake.prompts} == {"Number 3."}
    values = [json.loads(line)["value"] for line in out.read_text().splitlines()]
    assert values == [f"wNumber {n}." for n in range(4)]


@pytest.mark.parametrize(
    "option, says", [("timeout=soon", "is a number"), ("merge=maybe", "yes or no"),
                     ("key=x", "no remote option 'key'"), ("colour=red", "the names are")]
)  # fmt: skip
def test_wrong_options_are_refused(fake, file, option, says):
    with pytest.raises(BadOption, match=says):
        weft("run", file, "-m", fake.model, "-a", "n=1", "--remote", option)


def test_an_option_is_given_once(fake, file):
    twice = ("--remote", "retries=1", "--remote", "retries=2")
    with pytest.raises(BadOption, match="retries= is given twice"):
        weft("run", file, "-m", fake.model, "-a", "n=1", *twice)
