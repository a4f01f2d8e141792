"""Runs over rows survive crashes: what was finished is kept, the output is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from math import inf

import pytest
from weft.runtime import journal as journal_module
from weft.runtime.devices.device import DeviceLost
from weft.runtime.journal import (
    Journal,
    JournalFailed,
    JournalHeld,
    NoJournal,
    row_key,
)
from weft.runtime.results import Stats, Totals

TEXT = """
program note(arg: str) -> str:
    "Note on {arg}: "
    gen word(max_tokens=8, temperature=1.0)
    return word
"""
ROWS = [{"arg": f"number {i}"} for i in range(12)]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_output_is_in_row_order_and_the_journal_goes(toy, tmp_path):
    out, seen = tmp_path / "out.jsonl", []
    found = toy.compile(TEXT).run_rows(
        ROWS, out, progress=lambda p: seen.append((p.done, p.total, p.generated_tokens > 0))
    )
    assert [entry["row"] for entry in lines(out)] == list(range(12))
    assert [entry["value"] for entry in lines(out)] == found.values == list(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl"]
    assert (12, 12, True) in seen


def test_a_run_that_stopped_goes_on_where_it_was(toy, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    toy.compile(TEXT).run_rows(ROWS, whole)

    def stop(progress):
        if progress.done == 5:
            raise KeyboardInterrupt

    executable = toy.compile(TEXT, max_batch=3)
    with pytest.raises(KeyboardInterrupt):
        executable.run_rows(ROWS, out, progress=stop)
    toy.assert_clean(executable)
    assert not out.exists()
    found = executable.run_rows(ROWS, out)
    assert found.resumed == 5 and found.stats.rows == 7
    assert out.read_bytes() == whole.read_bytes()


def test_what_a_run_costs_is_the_sum_of_its_rows_or_the_largest_of_them():
    rows = [Stats(seconds=1.0, first_token_seconds=first, prompt_tokens=n, generated_tokens=2 * n,
                  deduplicated_tokens=n - 1, sent_tokens=3 * n, hits_predicted=4, hits_measured=n,
                  peak_kv_pages=n, peak_kv_bytes=9 - n, margin=margin)
            for n, first, margin in ((1, None, 0.5), (5, 0.25, inf), (3, 0.5, 0.75))]  # fmt: skip
    totals = Totals()
    for row in rows:
        totals.add(row)
    assert totals.generated_tokens == 18
    assert totals.stats(seconds=2.0, steps=7, preemptions=1) == Stats(
        rows=3, seconds=2.0, first_token_seconds=0.25, prompt_tokens=9, generated_tokens=18,
        deduplicated_tokens=6, sent_tokens=27, hits_predicted=12, hits_measured=9,
        peak_kv_pages=5, peak_kv_bytes=8, preemptions=1, steps=7, margin=0.5,
    )  # fmt: skip
    assert Totals().stats(2.0, 0, 0) == Stats(rows=0, seconds=2.0)


def test_rows_of_a_list_are_checked_once_and_before_any_runs(toy, monkeypatch):
    whole = toy.compile(TEXT).run_rows(ROWS).values
    monkeypatch.setattr("weft.runtime.rows.KEPT", 9)
    executable, checked = toy.compile(TEXT), []
    check = executable.check_row

    def noted(row, fields):
        checked.append((row, executable.engine.steps))
        return check(row, fields)

    executable.check_row = noted
    assert executable.run_rows(ROWS).values == whole
    assert checked[:12] == [(row, 0) for row in range(12)]
    assert [row for row, _ in checked[12:]] == [9, 10, 11]  # no more are kept


def test_a_device_lost_in_mid_run_costs_the_rows_under_way_only(toy, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    toy.compile(TEXT).run_rows(ROWS, whole)
    executable = toy.compile(TEXT, max_batch=3)
    forward, left = executable.engine.executor.forward, [25]

    def lost(*step):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("CUDA error: unspecified launch failure\nmore of it")
        return forward(*step)

    executable.engine.executor.forward = lost
    with pytest.raises(DeviceLost, match="journal"):
        executable.run_rows(ROWS, out)
    toy.assert_clean(executable)
    assert not out.exists()
    found = toy.compile(TEXT, max_batch=3).run_rows(ROWS, out)
    assert 0 < found.resumed < 12 and out.read_bytes() == whole.read_bytes()


def test_a_torn_last_line_is_cut_off(toy, tmp_path):
    out = tmp_path / "out.jsonl"
    journal = tmp_path / "out.jsonl.journal"
    executable = toy.compile(TEXT)
    executable.run_rows(ROWS[:4], journal=journal)
    data = journal.read_bytes()
    journal.write_bytes(data[:-7])
    found = executable.run_rows(ROWS, out)
    assert found.resumed == 3
    assert len(lines(out)) == 12


@pytest.mark.parametrize(
    "there",
    [
        '{"arg": "a"}\n{"arg": "b"}\n', "notes", '{"row": [1], "key": ""}\n',
        '{"row": 0, "key": "", "run": 5}\n',
    ],
)  # fmt: skip
def test_a_file_that_is_no_journal_is_left_as_it_is(toy, tmp_path, there):
    mine = tmp_path / "mine"
    mine.write_text(there)
    executable = toy.compile(TEXT)
    for _ in range(2):  # it is not held, either
        with pytest.raises(NoJournal, match="mine is no journal of rows\nhint: give the journal"):
            executable.run_rows(ROWS, journal=mine)
    assert mine.read_text() == there


@pytest.mark.parametrize("torn", [b"", b'{"r', b'{"row": 1, "key": "f\0\0\0', b"\0\0"])
def test_a_first_line_that_a_crash_has_torn_is_cut_off(toy, tmp_path, torn):
    journal = tmp_path / "journal"
    journal.write_bytes(torn)
    toy.compile(TEXT).run_rows(ROWS[:2], journal=journal)
    assert len(lines(journal)) == 2


def test_an_output_is_not_the_journal_too(toy, tmp_path):
    out = tmp_path / "out.jsonl"
    out.symlink_to(tmp_path / "rows")
    for journal in (out, str(tmp_path / "rows")):
        with pytest.raises(NoJournal, match="cannot be both the output and the journal"):
            toy.compile(TEXT).run_rows(ROWS, out, journal)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_changed_row_plan_or_seed_is_computed_again(toy, tmp_path):
    journal = tmp_path / "journal"
    toy.compile(TEXT).run_rows(ROWS[:3], journal=journal)
    again = toy.compile(TEXT).run_rows([{"arg": "other"}, *ROWS[1:3]], journal=journal)
    assert again.resumed == 2
    with pytest.warns(UserWarning, match="seed 0, not 1"):
        assert toy.compile(TEXT, seed=1).run_rows(ROWS[:3], journal=journal).resumed == 0
    changed = TEXT.replace("Note on", "Notes on")
    with pytest.warns(UserWarning, match="seed 1, not 0; another program"):
        assert toy.compile(changed).run_rows(ROWS[:3], journal=journal).resumed == 0


def test_the_journal_of_another_run_is_kept_and_can_be_gone_on_with(toy, tmp_path):
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    toy.compile(TEXT).run_rows(ROWS[:5], journal=journal)
    written = journal.read_bytes()
    other = toy.compile(TEXT, seed=1)
    with pytest.warns(
        UserWarning, match=r"journal\.1 keeps 5 finished rows of another run \(seed 0"
    ):
        assert other.run_rows(ROWS, out).resumed == 0
    kept = tmp_path / "out.jsonl.journal.1"
    assert kept.read_bytes() == written and not journal.exists()
    assert set(lines(out)[0]) == {"row", "value", "values"}
    other.run_rows(ROWS[:2], journal=journal)
    with pytest.warns(UserWarning, match=r"journal\.2 keeps 2 finished rows"):
        toy.compile(TEXT).run_rows(ROWS[:1], journal=journal)
    assert kept.read_bytes() == written
    assert toy.compile(TEXT).run_rows(ROWS, out, kept).resumed == 5


def test_failed_rows_are_written_and_tried_again(toy, tmp_path):
    text = TEXT.replace('"Note on {arg}: "', '"Note on {check(arg)}: "')
    text = "tool check(text: str) -> str\n" + text
    out, journal = tmp_path / "out.jsonl", tmp_path / "journal"
    broken = {"number 2", "number 5"}

    def check(value):
        if value in broken:
            raise ValueError("broken")
        return value

    executable = toy.compile(text, {"check": check})
    executable.run_rows(ROWS, journal=journal, keep_going=True)
    broken.clear()
    found = executable.run_rows(ROWS, out, journal)
    assert found.resumed == 10 and not found.errors
    assert all("value" in entry for entry in lines(out))


def test_rows_that_failed_run_alone_when_the_same_run_is_made_again(toy, tmp_path):
    text = "tool check(text: str) -> str\n" + TEXT.replace("Note on {arg}", "Note on {check(arg)}")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    broken, asked = {"number 2", "number 5"}, []

    def check(value):
        asked.append(value)
        if value in broken:
            raise ValueError("broken")
        return value

    executable = toy.compile(text, {"check": check})
    first = executable.run_rows(ROWS, out, keep_going=True)
    assert sorted(first.errors) == [2, 5] and len(lines(out)) == 12
    again = executable.run_rows(ROWS, out, keep_going=True)
    assert again.resumed == 10 and sorted(again.errors) == [2, 5]
    asked.clear(), broken.clear()
    assert not executable.run_rows(ROWS, out).errors and sorted(asked) == ["number 2", "number 5"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"], "the journal goes now"
    executable.run_rows(ROWS, whole)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("given", [list, iter], ids=["list", "generator"])
def test_a_row_of_wrong_fields_fails_alone(toy, tmp_path, given):
    out = tmp_path / "out.jsonl"
    rows = [{"arg": "a"}, {"wrong": "b"}, "no row", {"arg": 3}, {"arg": "e"}]
    executable = toy.compile(TEXT)
    found = executable.run_rows(given(rows), out, keep_going=True)
    assert list(found.errors) == [1, 2, 3] and "row 1: there is no parameter" in found.errors[1]
    assert [entry["row"] for entry in lines(out)] == list(range(5))
    rows[1:4] = ROWS[1:4]
    again = executable.run_rows(given(rows), out, keep_going=True)
    assert again.resumed == 2 and not again.errors and again.values[4] == found.values[4]
    toy.assert_clean(executable)


def test_an_unwritable_place_is_named(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalFailed, match="cannot open .*file/out.jsonl.journal"):
        toy.compile(TEXT).run_rows(ROWS, tmp_path / "file" / "out.jsonl")


def test_a_journal_that_another_run_writes_is_left_alone(toy, tmp_path):
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    executable = toy.compile(TEXT)
    executable.run_rows(ROWS[:3], journal=journal)
    written = journal.read_bytes()
    book = Journal(journal)
    with pytest.raises(JournalHeld, match="another run is writing .*journal\nhint: .*--out"):
        executable.run_rows(ROWS, out)
    assert journal.read_bytes() == written and not out.exists()
    book.close()
    assert executable.run_rows(ROWS, out).resumed == 3


def test_a_journal_removed_while_it_is_opened_is_made_again(tmp_path, monkeypatch):
    path, lock = tmp_path / "journal", journal_module.fcntl.flock

    def removed_first(file, how):
        monkeypatch.setattr(journal_module.fcntl, "flock", lock)
        path.unlink()
        lock(file, how)

    monkeypatch.setattr(journal_module.fcntl, "flock", removed_first)
    book = Journal(path)
    book.append(0, "key", {"value": 1})
    book.close()
    assert [entry["row"] for entry in lines(path)] == [0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_loses_nothing(toy, tmp_path):
    journal = tmp_path / "journal"
    executable = toy.compile(TEXT)
    executable.run_rows(ROWS[:3], journal=journal)
    book = Journal(journal)
    book._file.close()
    book._file = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(JournalFailed, match="cannot write .*No space left.*\nhint: the 3 rows"):
        book.append(3, row_key("", "", 0, {}), {"value": 1})
    book.close()
    assert executable.run_rows(ROWS, journal=journal).resumed == 3


WORKER = """
    import os, signal, sys
    from weft.runtime.simulator import ToyExecutor
    from weft.tests.runtime import conftest

    class Killed(ToyExecutor):
        def all_logits(self, step):
            with open({journal!r}) as journal:
                if {killed} and journal.read().count("\\n") >= 3:
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().all_logits(step)

    conftest.ToyExecutor = Killed
    executable = conftest.Toy().compile({text!r}, max_batch=4)
    found = executable.run_rows({rows!r}, {out!r})
    print(found.resumed)
"""


def test_kill_dash_nine_then_resume_gives_the_same_file(toy, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    toy.compile(TEXT).run_rows(ROWS, whole)

    journal = tmp_path / "out.jsonl.journal"

    def worker(killed):
        script = textwrap.dedent(WORKER).format(
            killed=killed, journal=str(journal), text=TEXT, rows=ROWS, out=str(out)
        )
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    first = worker(killed=True)
    assert first.returncode == -signal.SIGKILL and not out.exists(), first.stderr
    kept = journal.read_bytes().count(b"\n")
    second = worker(killed=False)
    assert second.returncode == 0, second.stderr
    assert int(second.stdout) == kept >= 3
    assert out.read_bytes() == whole.read_bytes()
