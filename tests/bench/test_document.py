"""The tables of figures in README.md and bench/README.md are those of bench/results."""

import json
import re
import shutil

import pytest
from weft.bench.document import DOCUMENTS, LINES, RESULTS, TABLES, update


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_its_figures_are_those_of_the_files(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"<!-- figures: \w+ -->\n\| figure", text)
    assert update(text) == text, "run: python -m bench.document"


def test_a_new_record_makes_the_tables_stale(tmp_path):
    for file in RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    record = json.loads((tmp_path / "cpu.json").read_text())
    record["figures"]["tiny_decode_vs_llamacpp"] = 123.0
    (tmp_path / "cpu.json").write_text(json.dumps(record))
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert "| 123.0 x |" in update(text, tmp_path) and update(text, tmp_path) != text


def test_every_line_says_another_thing():
    for lines in TABLES.values():
        assert len({line.what for line in lines}) == len(lines)
    assert len({(line.file, line.figure) for line in LINES}) == len(LINES)
