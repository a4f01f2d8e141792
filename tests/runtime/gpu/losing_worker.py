"""A process whose GPU fails in mid-run: a tool of one row has it read beside a tensor's end.

Arguments: a folder, the target, and `lose` where it is to fail. Prints one JSON object: the error,
how many rows were resumed, how many stand in the journal, how many in the output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import monotonic, sleep

import torch
import weft
from weft.ir.diagnostics import WeftError

PROGRAM = """
tool look(number: int) -> int

program asked(number: int) -> str:
    user "Say something of the number {number}."
    assistant gen first(max_tokens=8)
    let seen = look(number)
    user "It is {seen}. Go on."
    assistant gen second(max_tokens=8)
    return first + second
"""
ROWS, LOST = 12, 7


def lines(file: Path) -> int:
    """Return how many lines a file has; none, if it is not there."""
    return len(file.read_text().splitlines()) if file.exists() else 0


def main(folder: Path, target: str, lose: bool) -> None:
    """Run the rows, and print what came of them."""

    def look(number: int) -> int:
        if lose and number == LOST:
            until = monotonic() + 60.0
            while lines(journal) < 4 and monotonic() < until:  # others end before
                sleep(0.02)
            beyond = torch.tensor([3], device="cuda" if target == "cuda" else "cpu")
            torch.zeros(1, device=beyond.device)[beyond]
        return number * number

    out, journal = folder / "out.jsonl", folder / "out.jsonl.journal"
    compiled = weft.compile(
        PROGRAM, model="tiny-dense", tools={"look": look}, target=target, kv_memory=64 << 20,
        max_batch=4, prove=False, cache=folder,
    )  # fmt: skip
    error, resumed = None, 0
    try:
        resumed = compiled.run_rows([{"number": n} for n in range(ROWS)], out).resumed
    except WeftError as failure:
        error = str(failure)
    kept, done = lines(journal), lines(out)
    print(json.dumps({"error": error, "resumed": resumed, "kept": kept, "done": done}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:] == ["lose"])
