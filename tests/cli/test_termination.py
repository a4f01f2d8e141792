"""SIGTERM and Ctrl-C in mid-batch: a clean end, and the same command goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time

PROGRAM = """
program p(arg: str) -> str:
    "Tell of {arg}: "
    gen told(max_tokens=40)
    return told
"""

ROWS = 160


def command(program, rows, out):
    return [sys.executable, "-m", "weft", "run", program, "--rows", rows, "--out", out,
            "--kv-memory", "32MiB"]  # fmt: skip


def ended(command, journal, sent):
    """Run a command until its journal has grown, end it by a signal; return its status, what it
    said, and the journal."""
    begun = os.path.getsize(journal) if os.path.exists(journal) else 0
    run = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        if os.path.exists(journal) and os.path.getsize(journal) > begun + 500:
            break
        time.sleep(0.01)
    run.send_signal(sent)
    _, said = run.communicate(timeout=60)
    with open(journal, "rb") as file:
        return run.returncode, said, file.read()


def test_a_batch_that_is_ended_twice_is_gone_on_with(tmp_path):
    program, rows, out, whole = (
        str(tmp_path / name) for name in ("p.weft", "rows.jsonl", "out.jsonl", "whole.jsonl")
    )
    with open(program, "w") as file:
        file.write(PROGRAM)
    with open(rows, "w") as file:
        file.writelines(json.dumps({"arg": f"number {n}"}) + "\n" for n in range(ROWS))
    journal, counts = out + ".journal", [0]
    for sent, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        status, said, kept = ended(command(program, rows, out), journal, sent)
        assert status == expected, said
        assert "what is done is kept" in said and "Traceback" not in said
        assert not os.path.exists(out) and os.listdir(tmp_path).count("out.jsonl.part") == 0
        assert kept.endswith(b"\n")
        counts.append(kept.count(b"\n"))
    assert 0 < counts[1] < counts[2] < ROWS
    again = subprocess.run(
        [*command(program, rows, out), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(again.stdout)["resumed"] == counts[2]
    subprocess.run(command(program, rows, whole), capture_output=True, check=True)
    assert open(out).read() == open(whole).read() and not os.path.exists(journal)
