"""Options of a command that say nothing of what is run, or stand beside what says the same."""

import pytest
from weft.ir.diagnostics import WeftError
from weft.tests.cli.test_cli import HELLO, weft


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "{}", "--hardware", "nothere"], "is no shipped hardware"),
        (["explain", "{}", "--remote", "retries=2"], "remote_retries: the model runs in this"),
        (["explain", "{}", "-m", "openai:http://h/v1#m", "--hardware", "h200"], "the endpoint's"),
        (["run", "{}", "--remote", "concurrency=2", "-a", "name=x"], "remote_concurrency: the"),
        (
            ["run", "{}", "--remote", "concurrency=2", "--remote-concurrency", "2"],
            "leave one of them out",
        ),
    ],
)
def test_they_are_named(arguments, says, tmp_path, capsys):
    file = tmp_path / "hello.weft"
    file.write_text(HELLO)
    with pytest.raises(WeftError, match=says):
        weft(*(argument.format(file) for argument in arguments))
    assert not capsys.readouterr().out, "it is told before anything else is"
