"""The streams of a weft process: full, closed, and of another encoding, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")


def weft(*arguments, **given):
    return subprocess.run([sys.executable, "-m", "weft", *arguments], text=True, **given)


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [("opt", "--list"), ("models",)])
def test_output_that_finds_no_room_is_told(arguments):
    with FULL.open("w") as full:
        done = weft(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "file error: the output cannot be written: No space left on device"
    )
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_reader_that_leaves_ends_the_process_quietly():
    read, write = os.pipe()
    os.close(read)
    done = weft("opt", "--list", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_file_of_brackets_alone_is_told(tmp_path):
    file = tmp_path / "cold.json"
    file.write_text("[" * 100_000)
    done = weft("tune", "tiny-moe", "--popularity", str(file), capture_output=True)
    assert done.returncode == 1 and "nested too deeply" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_without_the_letter_shows_its_number(tmp_path):
    program = tmp_path / "p.weft"
    program.write_text('program p() -> str:\n    "é"\n    return "é"\n', encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = weft("dump", str(program), "-s", "ast", env=environment, capture_output=True)
    assert done.returncode == 0 and "\\xe9" in done.stdout, done.stderr


INTERRUPTED_IMPORT = """
import sys

class Interrupting:
    def find_spec(self, name, *rest):
        if name == "weft.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from weft.__main__ import main
main()
"""


def test_an_interrupt_while_commands_are_loaded_ends_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
