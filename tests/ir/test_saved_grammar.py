"""Kept tables of a grammar: read as made, and made anew where they are torn, old or not kept."""

import hashlib
from pathlib import Path

import lark
import pytest
from lark.indenter import PythonIndenter
from weft.ir.saved_grammar import parser_of

GRAMMAR = 'start: "a" [NUMBER] "b" -> pair\nNUMBER: /[0-9]+/\n'


@pytest.fixture
def grammar(tmp_path) -> Path:
    file = tmp_path / "of.lark"
    file.write_text(GRAMMAR)
    return file


def tree(parser: lark.Lark) -> object:
    return parser.parse("a12b")


def test_kept_tables_read_as_those_that_were_made(grammar, tmp_path, monkeypatch):
    options = {"start": "start", "maybe_placeholders": True, "propagate_positions": True}
    made = parser_of(grammar, tmp_path / "kept", postlex=PythonIndenter(), **options)
    monkeypatch.setattr(lark, "Lark", type("NoMore", (), {"load": lark.Lark.load}))
    read = parser_of(grammar, tmp_path / "kept", postlex=PythonIndenter(), **options)
    assert read is not made and tree(read) == tree(made)
    assert read.parse("a12b").meta.end_column == 5
    with pytest.raises(lark.UnexpectedInput) as caught:
        read.parse("a12a")
    assert caught.value.column == 4


@pytest.mark.parametrize("harm", [b"", b"torn", "half", "pickle"])
def test_tables_that_are_not_whole_are_made_and_kept_anew(grammar, tmp_path, harm):
    made = parser_of(grammar, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    if harm == "pickle":  # whole, but nothing that lark can read
        file.write_bytes(hashlib.sha256(b"no tables").digest() + b"no tables")
    else:
        file.write_bytes(whole[: len(whole) // 2] if harm == "half" else harm)
    assert tree(parser_of(grammar, tmp_path / "kept")) == tree(made)
    assert len(file.read_bytes()) > 100 and [file] == [*(tmp_path / "kept").iterdir()]


def test_another_text_option_or_version_has_tables_of_its_own(grammar, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    parser_of(grammar, kept)
    parser_of(grammar, kept, maybe_placeholders=False)
    assert parser_of(grammar, kept, maybe_placeholders=False).parse("ab").children == []
    monkeypatch.setattr(lark, "__version__", "0")
    parser_of(grammar, kept)
    grammar.write_text(GRAMMAR.replace('"b"', '"c"'))
    assert parser_of(grammar, kept).parse("a1c").data == "pair"
    assert len([*kept.iterdir()]) == 4


def test_a_folder_that_cannot_be_written_keeps_nothing(grammar, tmp_path):
    (tmp_path / "file").write_text("")
    assert tree(parser_of(grammar, tmp_path / "file" / "kept")) == tree(
        parser_of(grammar, tmp_path)
    )
