"""SIGTERM and Ctrl-C in mid-batch: a clean end, and the same command goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time

from typer.testing import CliRunner
from weft.cli.app import app

PROGRAM = """
tool may_go(arg: int) -> int timeout 500

program p(arg: int) -> str:
    "Tell of number {may_go(arg)}: "
    gen told(max_tokens=12)
    return told
"""

TOOLS = """
import pathlib, time

def may_go(row):
    while row >= int(pathlib.Path({last!r}).read_text()):
        time.sleep(0.01)
    return row
"""
"""Rows from a number on wait: however late the signal is sent, the run has not come to its end."""

ROWS = 16


def arguments(program, rows, out):
    tools = os.path.join(os.path.dirname(program), "tools.py")
    return ["run", program, "--rows", rows, "--out", out, "--tools", tools, "--kv-memory", "32MiB"]


def finished(*given):
    """Return what a command prints that nothing ends: in this process, which has all imported."""
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    return done.stdout


def ended(given, journal, sent):
    """Run a command until its journal has grown, end it by a signal; return its status, what it
    said, and the journal."""
    begun = os.path.getsize(journal) if os.path.exists(journal) else 0
    run = subprocess.Popen(
        [sys.executable, "-m", "weft", *given], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while run.poll() is None:
        if os.path.exists(journal) and os.path.getsize(journal) > begun + 500:
            break
        time.sleep(0.01)
    run.send_signal(sent)
    _, said = run.communicate()
    with open(journal, "rb") as file:
        return run.returncode, said, file.read()


def test_a_batch_that_is_ended_twice_is_gone_on_with(tmp_path):
    program, rows, out, whole = (
        str(tmp_path / name) for name in ("p.weft", "rows.jsonl", "out.jsonl", "whole.jsonl")
    )
    with open(program, "w") as file:
        file.write(PROGRAM)
    with open(rows, "w") as file:
        file.writelines(json.dumps({"arg": n}) + "\n" for n in range(ROWS))
    last = tmp_path / "last"
    (tmp_path / "tools.py").write_text(TOOLS.format(last=str(last)))
    journal, counts = out + ".journal", [0]
    for go, sent, expected in ((7, signal.SIGTERM, 143), (13, signal.SIGINT, 130)):
        last.write_text(str(go))
        status, said, kept = ended(arguments(program, rows, out), journal, sent)
        assert status == expected, said
        assert "what is done is kept" in said and "Traceback" not in said
        assert not os.path.exists(out) and os.listdir(tmp_path).count("out.jsonl.part") == 0
        assert kept.endswith(b"\n")
        counts.append(kept.count(b"\n"))
    assert 0 < counts[1] < counts[2] < ROWS
    last.write_text(str(ROWS))
    again = finished(*arguments(program, rows, out), "--json")
    assert json.loads(again)["resumed"] == counts[2]
    finished(*arguments(program, rows, whole))
    assert open(out).read() == open(whole).read() and not os.path.exists(journal)
