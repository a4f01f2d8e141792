"""What a run over rows writes is JSON, in a file that is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from weft.runtime.journal import NoPlainFile

TEXT = """
program note(arg: str) -> str:
    "Note on {arg}: "
    gen word(max_tokens=8, temperature=1.0)
    return word
"""
ROWS = [{"arg": "number 1"}]


def test_what_is_written_is_json_where_a_value_is_no_finite_number(toy, tmp_path):
    text = """
program p(arg: str) -> list[float]:
    "{arg}"
    gen word(max_tokens=1)
    return [float(arg), 1.5]
"""
    rows = [{"arg": "nan"}, {"arg": "-inf"}, {"arg": "2"}]
    out, journal = tmp_path / "out.jsonl", tmp_path / "journal"
    found = toy.compile(text).run_rows(rows, out, journal)
    assert found.values[1] == [float("-inf"), 1.5]

    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = out.read_text().splitlines()
    written = [json.loads(line, parse_constant=refused)["value"] for line in lines]
    assert written == [["NaN", 1.5], ["-Infinity", 1.5], [2.0, 1.5]]


def test_numbers_that_are_not_finite_are_the_same_after_a_resume(toy, tmp_path):
    text = """
tool check(text: str) -> float

program p(arg: str) -> float:
    "{arg}"
    gen word(max_tokens=1)
    return check(arg)
"""
    out = tmp_path / "out.jsonl"
    calls = []

    def check(text):
        calls.append(text)
        if text == "b" and len(calls) < 3:
            raise ValueError("not yet")
        return float("inf")

    executable = toy.compile(text, {"check": check})
    rows = [{"arg": "a"}, {"arg": "b"}]
    executable.run_rows(rows, out, keep_going=True)
    assert executable.run_rows(rows, out, keep_going=True).values == [float("inf")] * 2
    assert calls == ["a", "b", "b"]


@pytest.mark.parametrize("place", ["", "/dev/null"], ids=["a folder", "a device"])
def test_what_is_no_file_is_no_place_for_rows(toy, tmp_path, place):
    out = Path(place or tmp_path)
    with pytest.raises(NoPlainFile, match=f"{out} is none"):
        toy.compile(TEXT).run_rows(ROWS, out)
    assert not out.is_file() and not out.with_name(out.name + ".journal").exists()


def test_a_link_is_written_through(toy, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "out.jsonl")
    (tmp_path / "deep").mkdir()
    toy.compile(TEXT).run_rows(ROWS, tmp_path / "link")
    written = (tmp_path / "deep" / "out.jsonl").read_text()
    assert (tmp_path / "link").is_symlink() and len(written.splitlines()) == 1
