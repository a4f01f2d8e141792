"""docs/ir.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
import weft
from weft.ir.dialects.document import DIALECTS, update
from weft.ir.expression import FUNCTIONS
from weft.ir.parser import parse_module
from weft.ir.types import DTYPE_BYTES
from weft.ir.verifier import verify

DOCUMENT = Path(weft.__file__).parent / "docs" / "ir.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text()


def test_tables_are_those_of_the_dialects(text: str) -> None:
    assert update(text) == text, "run: python -m weft.ir.dialects.document docs/ir.md"


def test_every_operation_is_named(text: str) -> None:
    names = [spec.name for dialect in DIALECTS for spec in dialect.operations]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_function_and_dtype_is_named(text: str) -> None:
    prose = text.split("**Expressions**")[1]
    assert [name for name in FUNCTIONS if f"`{name}" not in prose] == []
    listed = text.split("dtypes: `")[1].split("`")[0].split()
    assert listed == list(DTYPE_BYTES)


def test_the_example_parses(text: str) -> None:
    example = text.split("```")[1]
    verify(parse_module(example), ("tile",))
