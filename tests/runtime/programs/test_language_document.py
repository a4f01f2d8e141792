"""docs/language.md runs: every program of its blocks gives what the oracle gives, on a toy."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from weft.ir.core import Module
from weft.ir.values import records_of

TEXT = (Path(__file__).parents[3] / "docs" / "language.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```weft\n(.*?)```", TEXT, flags=re.S)
WORDS = ("clarity", "the sky is blue", "a b")
WHOLE = {"int": 3, "float": 0.5, "bool": True}


def value_of(module: Module, type_: Any, number: int) -> Any:
    """Return some value of a type; `number` makes rows differ."""
    if type_.name == "list":
        return [value_of(module, type_.parameters[0], number + at) for at in range(2)]
    if type_.name == "record":
        record = records_of(module)[str(type_.parameters[0])]
        return {
            field["name"]: value_of(module, field["type"], number) for field in record["fields"]
        }
    return WHOLE.get(type_.name, WORDS[number % len(WORDS)])


@cache
def programs() -> list[tuple[str, str]]:
    """Return each program's name with its block, cut off after the program: the last one runs."""
    found = []
    for block in BLOCKS:
        starts = [match.start() for match in re.finditer(r"^program ", block, flags=re.M)]
        for start, end in zip(starts, [*starts[1:], len(block)], strict=True):
            name = re.findall(r"\w+", block[start:])[1]
            found.append((name, block[:end]))
    return found


@pytest.mark.parametrize("name, text", programs(), ids=[name for name, _ in programs()])
def test_a_program_of_the_document_equals_the_oracle(toy, name, text):
    module = toy.lowered(text)
    tools = {
        op["name"].name: lambda *given, op=op: value_of(module, op["returns"], len(str(given)))
        for op in module.operations
        if op.name == "program.tool"
    }
    function = module.operations[-1]
    assert function["name"].name == name
    rows = [
        {entry["name"]: value_of(module, entry["type"], number) for entry in function["parameters"]}
        for number in range(3)
    ]
    executable, oracle = toy.compile(text, tools), toy.oracle(text, tools)
    together = executable.run_rows(rows)
    assert together.values == [oracle(number, **row).value for number, row in enumerate(rows)]
    toy.assert_clean(executable)


def test_the_document_has_programs():
    assert len(programs()) >= 14
