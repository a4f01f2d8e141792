"""SIGTERM and Ctrl-C in mid-batch: a clean end, and the same command goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

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


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_batch_that_is_ended_is_gone_on_with(tmp_path, sent, status):
    program, rows, out, whole = (
        str(tmp_path / name) for name in ("p.weft", "rows.jsonl", "out.jsonl", "whole.jsonl")
    )
    with open(program, "w") as file:
        file.write(PROGRAM)
    with open(rows, "w") as file:
        file.writelines(json.dumps({"arg": f"number {n}"}) + "\n" for n in range(ROWS))
    first = subprocess.Popen(
        command(program, rows, out), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    journal, deadline = out + ".journal", time.monotonic() + 120
    while time.monotonic() < deadline and first.poll() is None:
        if os.path.exists(journal) and os.path.getsize(journal) > 500:
            break
        time.sleep(0.01)
    first.send_signal(sent)
    _, said = first.communicate(timeout=60)
    assert first.returncode == status, said
    assert "what is done is kept" in said and "Traceback" not in said
    assert not os.path.exists(out) and os.listdir(tmp_path).count("out.jsonl.part") == 0
    kept = open(journal, "rb").read()
    assert kept.endswith(b"\n") and 1 <= kept.count(b"\n") < ROWS
    again = subprocess.run(
        [*command(program, rows, out), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(again.stdout)["resumed"] == kept.count(b"\n")
    subprocess.run(command(program, rows, whole), capture_output=True, check=True)
    assert open(out).read() == open(whole).read() and not os.path.exists(journal)
