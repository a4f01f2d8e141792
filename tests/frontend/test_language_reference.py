"""docs/language.md: every code block is read, checked and lowered; its tables name every word."""

import importlib.util
import re
from pathlib import Path

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import KEYWORDS, check
from weft.frontend.semantics.signatures import BUILTINS, METHODS
from weft.frontend.semantics.type_names import OPTIONS
from weft.frontend.text import parser
from weft.frontend.text.parser import parse_text
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.verifier import verify

TEXT = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
BLOCKS = re.findall(r"```(weft|python)\n(.*?)```", TEXT, flags=re.S)
WEFT = [body for kind, body in BLOCKS if kind == "weft"]
PYTHON = [body for kind, body in BLOCKS if kind == "python"]


def lowered(file) -> Module:
    check(file)
    module = lower(file)
    verify(module, ("program",))
    assert parse_module(str(module)) == module
    return module


@pytest.mark.parametrize("text", WEFT)
def test_weft_blocks(text):
    assert lowered(parse_text(text)).operations


@pytest.mark.parametrize("text", PYTHON)
def test_python_blocks(text, tmp_path):
    path = tmp_path / "block.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("language_reference_block", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert lowered(module.judge.file).operations


def test_there_are_blocks_of_both_surfaces():
    assert len(WEFT) >= 7 and len(PYTHON) >= 1


@pytest.mark.parametrize(
    "word", sorted({*KEYWORDS, *BUILTINS, *OPTIONS, *(name for _, name in METHODS)})
)
def test_every_word_is_in_the_reference(word):
    assert re.search(rf"\b{word}\b", TEXT), word


def test_reserved_words_are_those_that_no_name_can_be():
    grammar = (Path(parser.__file__).parent / "grammar.lark").read_text()
    (words,) = re.findall(r"^NAME: /\(\?!\(\?:(.*?)\)", grammar, flags=re.M)
    assert set(words.split("|")) == KEYWORDS
