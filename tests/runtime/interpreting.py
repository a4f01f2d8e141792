"""A process that has imported what interprets kernels, and from which scripts that do so begin:
reads JSON lines [folder, script, arguments ...], and answers each with the script's exit status.

What the script prints is in the files `stdout` and `stderr` of the folder.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path


class Interpreting:
    """The parent's side: begins scripts as `subprocess.run` does, in a third of the time."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip

    def run(self, script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        assert self._process.stdin and self._process.stdout
        command = [str(part) for part in (self._folder, script, *arguments)]
        print(json.dumps(command), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        out, err = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(command[1:], status, out, err)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _run(folder: str, script: str, *arguments: str) -> None:
    """Become the script; never returns."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv, status = [script, *arguments], 1
    try:
        runpy.run_path(script, run_name="__main__")
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    from weft.tests.runtime.gpu import device_worker  # noqa: F401  (imports what all of them do)

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
