"""docs/remote.md: its programs compile for an endpoint, its options and dialects are all there."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import weft
from weft.options import REMOTE_DIALECTS, RemoteOptions
from weft.runtime.remote.failures import PASSING

TEXT = (Path(__file__).parents[3] / "docs" / "remote.md").read_text()
BLOCKS = re.findall(r"```weft\n(.*?)```", TEXT, flags=re.S)
MODEL = "openai:http://localhost:8000/v1#m"


@pytest.mark.parametrize("text", BLOCKS)
def test_blocks_compile_for_an_endpoint(text):
    said = weft.compile(text, MODEL).explain()
    assert "remote-calls" in said and "calls are" in said


def test_the_block_about_shared_calls_shares_one():
    said = [weft.compile(text, MODEL).explain() for text in BLOCKS]
    assert sum("asked for together with" in text for text in said) == 1


@pytest.mark.parametrize(
    "name", [item.name for item in fields(RemoteOptions) if item.name != "key"]
)
def test_every_option_is_there_with_its_default(name):
    row = re.search(rf"^\| `{name}` \| (.*?) ?\|", TEXT, flags=re.M)
    assert row, name
    default = getattr(RemoteOptions(), name)
    shown = {True: "yes", "": ""}.get(default, default)
    assert row[1] == (f"{shown:g}" if isinstance(shown, float) else str(shown))


@pytest.mark.parametrize("name", [name for name in REMOTE_DIALECTS if name != "auto"])
def test_every_dialect_is_there(name):
    assert re.search(rf"^\| `{name}`", TEXT, flags=re.M)


def test_the_statuses_that_pass_are_those_of_the_page():
    section = TEXT.split("## Failures")[1].split("## ")[0].split("connections")[0]
    assert {int(number) for number in re.findall(r"\d{3}", section)} == PASSING
