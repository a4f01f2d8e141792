"""Commands and options that errors, hints and help name are there to be typed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from weft.tests.docs.documents import ROOT, commands_of_weft, wrong_with

LEFT_OUT = {"tests", "bench", "notebooks", "zoo", "build"}
ELSEWHERE = {"--help", "--version", "--nproc-per-node"}
"""Options of `weft` itself, and of torchrun."""

COMMANDS = commands_of_weft()
OPTIONS = {
    option
    for command in COMMANDS.values()
    for parameter in command.params
    for option in (*parameter.opts, *parameter.secondary_opts)
}


def texts(path: Path) -> Iterator[str]:
    """Yield the strings of a Python file, white space joined."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


def dead(text: str) -> list[str]:
    """Return what a text names that nobody can type."""
    options = re.findall(r"(?<![-\w])--[a-z][a-z-]+", text)
    unknown = [option for option in options if option not in OPTIONS | ELSEWHERE]
    named = re.findall(r"`((?:weft|make|python -m) [^`]+)`", text)
    named += re.findall(rf"(?<!`)\b(weft (?:{'|'.join(COMMANDS)})(?: --[a-z-]+)*)\b", text)
    return unknown + [f"{command}: {why}" for command in named if (why := wrong_with(command))]


def test_what_messages_name_is_there():
    paths = [
        path
        for path in ROOT.rglob("*.py")
        if not LEFT_OUT & set(path.relative_to(ROOT).parts)
        and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]
    assert len(paths) > 300
    wrong = {path.name: found for path in paths for text in texts(path) if (found := dead(text))}
    assert wrong == {}


def test_a_dead_hint_is_found():
    assert dead("lower --kv-rooms") == ["--kv-rooms"]
    assert dead("see `weft fly FILE`") == ["weft fly FILE: weft has no command 'fly'"]
    assert dead("weft run --wings") == [
        "--wings",
        "weft run --wings: weft run has no option --wings",
    ]
    assert dead("`make coffee`") == ["make coffee: the Makefile has no coffee"]
    assert dead("weft run takes --tools FILE") == []
