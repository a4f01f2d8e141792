"""One rank of a tensor-parallel run: program, rows and settings in; rank 0 prints the values."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import weft
from weft.__main__ import end
from weft.ir.diagnostics import WeftError
from weft.runtime.execution import ranks


def die_after(messages: int) -> None:
    """Let this process be killed when it has received so many messages."""
    receive, left = ranks.Channel.receive, [messages]

    def counted(self: ranks.Channel) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return receive(self)

    ranks.Channel.receive = counted  # type: ignore[method-assign]


def main() -> None:
    program, rows, settings = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    out, after = settings.pop("out", None), settings.pop("kill_after", 0)
    if after and os.environ["RANK"] == "1":
        die_after(after)
    if "cache" in settings:
        from pathlib import Path

        settings["cache"] = Path(settings["cache"])
    try:
        executable = weft.compile(program, settings.pop("model"), **settings)
        print(json.dumps(executable.run_rows(rows, out).values))
    except WeftError as error:
        end(error)


if __name__ == "__main__":
    main()
